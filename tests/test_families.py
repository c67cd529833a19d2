"""The families of models that people have: a row of docs/how/families.md is a file that is written and measured here.

    python -m tests.test_families    # writes the table into the page

The command of a row runs as it stands, in the folder where the file lies; what is appended makes it short.
"""

import copy
import importlib
import json
import math
import pickle
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from lipdiag.cli import main
from tests.formats.originals import package
from tests.formats.test_lerobot import installed
from tests.formats.test_physicsnemo import physicsnemo
from tests.formats.test_usage import ABSENT as UNUSED

PAGE = Path(__file__).parents[1] / "docs" / "how" / "families.md"
SHORT = "--timesteps log:2 --draws 2 --quantity time_difference --no-probe --json --out run.zarr"
MOST, NEEDED = 1, 15  # flags beyond the path, and rows that need no more
VISION = ("torchvision", "torchvision.transforms", "torchvision.utils", "torchvision.models")

K_UNUSED = ("clip", "torchsde", "skimage", "skimage.transform", "cleanfid", "cleanfid.inception_torchscript", "dctorch",
            "clip_anytorch", "kornia", "wandb", "torchvision.transforms.functional", *VISION)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A family, the file that its package saves, and the command that measures it.

    Args:
        family: Of models.
        package: Which makes them.
        file: What it saves.
        command: Measures that file.
        tried: What wrote the file in the test.
        write: Writes it into the current folder.
        context: In which the package can be imported.
    """

    family: str
    package: str
    file: str
    command: str
    tried: str
    write: Callable[[], Any] = field(repr=False)
    context: Callable[[], Any] = field(default=nullcontext, repr=False)

    @property
    def flags(self) -> int:
        """How many options there are."""
        return sum(word.startswith("--") for word in shlex.split(self.command))


def pipeline(name, folder=".", **parts):
    """A tiny network of diffusers', random, as a pipeline's folder."""
    diffusers = pytest.importorskip("diffusers")
    from tests.formats.test_diffusers_networks import FAMILIES

    torch.manual_seed(0)
    networks = importlib.import_module("tests.formats.test_diffusers_networks")
    network = getattr(diffusers, name.partition(" ")[0])(**FAMILIES[name].config)
    part = "transformer" if "Transformer" in name else "unet"
    for there in (part, *parts.get("also", ())):
        network.save_pretrained(Path(folder) / there)
    networks.FAMILIES[name].scheduler.save_pretrained(Path(folder) / parts.get("scheduler", "scheduler"))
    index = {"_class_name": "Pipeline", part: ["diffusers", name.partition(" ")[0]], "scheduler": ["diffusers", ""]}
    if not parts:
        (Path(folder) / "model_index.json").write_text(json.dumps(index))
    return network


def single_file():
    from tests.formats.test_single_file import compvis

    network = pipeline("UNet2DConditionModel", "folder")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in compvis(network, betas)["state_dict"].items()},
        "model.safetensors",
    )


def lora():
    """What peft writes for a U-Net; without peft its names alone."""
    network = pipeline("UNet2DConditionModel", "base")
    Path("lora").mkdir()
    layers = {n: m.weight for n, m in network.named_modules() if n.endswith(("to_q", "to_v"))}
    factors = {f"base_model.model.{n}.lora_A.weight": torch.randn(2, w.shape[1]) for n, w in layers.items()}
    factors |= {f"base_model.model.{n}.lora_B.weight": torch.randn(len(w), 2) for n, w in layers.items()}
    save_file(factors, "lora/adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "base"}
    Path("lora/adapter_config.json").write_text(json.dumps(told))


def openai(wrap=lambda state: state, name="ema.pt", flags=()):
    pytest.importorskip("azula")
    from tests.formats.test_openai import FLAGS, unet

    state = unet(channel_mult=(1, 2), attention_resolutions=(2,), out_channels=3).state_dict()
    torch.save(wrap(state), name)
    Path("flags.json").write_text(json.dumps({key: FLAGS[key] for key in flags or FLAGS}))


def torchcfm():
    openai(lambda state: {"net_model": state, "ema_model": state, "sched": {}, "optim": {}, "step": 1}, "cfm.pt", SIZES)


def flow_matching():
    def wrap(state):
        model = {f"model.{name}": tensor for name, tensor in state.items()} | {"num_updates": torch.tensor(1)}
        model |= {f"shadow_params.{i}": tensor for i, tensor in enumerate(state.values())}
        return {"model": model, "optimizer": {}, "lr_schedule": {}, "epoch": 1, "args": {}}

    openai(wrap, "checkpoint.pth", SIZES)


SIZES = ("image_size", "num_heads")


def edm():
    """A pickle of the shape of NVIDIA's, converted."""
    from tests.formats.test_edm import CODE

    Path("edm").mkdir()
    Path("edm/strange_edm.py").write_text(CODE)
    sys.path.insert(0, "edm")
    try:
        net = importlib.import_module("strange_edm").EDMPrecond()
        Path("edm.pkl").write_bytes(pickle.dumps({"ema": net}, protocol=2))
    finally:
        sys.path.remove("edm")
        sys.modules.pop("strange_edm", None)
    command = "convert edm.pkl --unsafe-pickle --code-dir edm --out edm-converted"
    assert CliRunner().invoke(main, command.split()).exit_code == 0
    Path("edm/strange_edm.py").rename("strange_edm.py")


def dit():
    from tests.formats.test_dit import HEADS, trained

    torch.save(trained(model="DiT-S/2"), "0050000.pt")
    Path("flags.json").write_text(json.dumps({"num_heads": HEADS}))


def lucidrains():
    original = importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    diffusion = original.GaussianDiffusion(original.Unet(dim=8, dim_mults=(1, 2), channels=1), image_size=8)
    state = diffusion.state_dict()
    averages = {f"ema_model.{name}": tensor for name, tensor in state.items()} | {"initted": torch.tensor(True)}
    torch.save({"model": state, "ema": averages | {"step": torch.tensor(1)}, "step": 1}, "model-1.pt")


def rectified_flow():
    original = importlib.import_module("rectified_flow_pytorch.rectified_flow")
    flow = original.RectifiedFlow(original.Unet(dim=8, dim_mults=(1, 2), channels=1))
    original.Trainer(
        flow, dataset=list(torch.rand(4, 1, 8, 8)), num_train_steps=1, batch_size=4, checkpoint_every=1, num_samples=4,
        checkpoints_folder=".", results_folder="r", accelerate_kwargs={"cpu": True},
        ema_kwargs={"update_after_step": 0},
    )()  # fmt: skip


def monai(told):
    def write():
        from tests.formats import test_monai
        from tests.formats.test_monai import bundle, network

        arguments = getattr(test_monai, told)
        torch.save(network(arguments).state_dict(), bundle(Path("bundle"), arguments))

    return write


def mdlus():
    from tests.formats.test_physicsnemo import EDM, made

    made("EDMPrecond", EDM).save("model.mdlus")


def lerobot():
    from tests.formats.test_lerobot import policy

    policy().save_pretrained("policy")


def k_diffusion():
    from tests.checkpoints.test_originals_factories import K_CONFIG, perturbed

    K = importlib.import_module("k_diffusion")
    config = K.config.load_config(copy.deepcopy(K_CONFIG))
    state = perturbed(K.config.make_model(config)).inner_model.state_dict()
    save_file(state, "slim.safetensors", {"config": json.dumps(config)})


def imagen():
    from tests.formats.test_usage import FACTORY, trained

    torch.save(trained(importlib.import_module("imagen_pytorch.imagen_pytorch"))[2], "imagen.pt")
    Path("my_imagen.py").write_text(FACTORY)


def own_network():
    """What a loop of one's own saves, and the function that makes its network."""
    torch.save({"model_state_dict": {"weight": torch.ones(1)}, "epoch": 1}, "ckpt.pt")
    Path("my_network.py").write_text(
        "import torch\n"
        "class Network(torch.nn.Module):\n"
        "    def forward(self, x, timestep):\n"
        "        return x * timestep.view(-1, 1, 1, 1).cos()\n"
        "def build(state):\n"
        "    return Network()\n"
    )


def score_sde():
    own_network()
    weights = {"module.all_modules.0.weight": torch.ones(2), "module.all_modules.1.weight": torch.ones(3)}
    averages = {"shadow_params": list(weights.values()), "decay": 0.999, "num_updates": 1}
    torch.save({"model": weights, "ema": averages, "optimizer": {}, "step": 1}, "checkpoint_1.pth")


OWN = (
    '--schedule "linear(0.0001, 0.02, 1000)" --parameterization eps --clock "timesteps(1000)" --shape 3,8,8 '
    "--factory my_network:build"
)
DIFFUSERS = "its class, random, by save_pretrained"
ROWS = (
    Row("DDPM, NCSN++ (UNet2DModel)", "diffusers", "pipeline folder", "lipdiag measure folder", DIFFUSERS,
        lambda: pipeline("UNet2DModel", "folder")),
    Row("Stable Diffusion (UNet2DConditionModel)", "diffusers", "pipeline folder", "lipdiag measure folder", DIFFUSERS,
        lambda: pipeline("UNet2DConditionModel", "folder")),
    Row("SD3 and Flux's kind (transformers)", "diffusers", "pipeline folder", "lipdiag measure folder", DIFFUSERS,
        lambda: pipeline("SD3Transformer2DModel", "folder")),
    Row("DiT", "diffusers", "pipeline folder", "lipdiag measure folder", DIFFUSERS,
        lambda: pipeline("DiTTransformer2DModel", "folder")),
    Row("a training of diffusers' scripts", "diffusers", "`checkpoint-N/` with `unet/`, `unet_ema/`",
        "lipdiag measure run/checkpoint-500", DIFFUSERS,
        lambda: pipeline("UNet2DModel", "run/checkpoint-500", also=("unet_ema",), scheduler="../scheduler")),
    Row("Stable Diffusion in one file", "CompVis", "`.safetensors` in the original layout",
        "lipdiag measure model.safetensors --original-config folder", "diffusers' class, random, under its names",
        single_file),
    Row("LoRA", "peft, diffusers", "`adapter_config.json` with factors", "lipdiag measure lora",
        "random factors in peft's names; peft's own files and merge in tests/checkpoints/test_adapter.py", lora),
    Row("guided-diffusion, improved-diffusion", "openai", "`.pt` state dict",
        "lipdiag measure ema.pt --original-config flags.json", "azula's class, random; the published ones need no flag",
        openai),
    Row("conditional flow matching", "torchcfm", "`.pt` with `net_model`, `ema_model`",
        "lipdiag measure cfm.pt --original-config flags.json", "azula's class, random; the published one needs no flag",
        torchcfm),
    Row("flow matching", "flow_matching (Meta)", "`.pth` with averages in the model",
        "lipdiag measure checkpoint.pth --original-config flags.json",
        "azula's class, random; the published ones need no flag or `--shape`", flow_matching),
    Row("EDM, EDM2", "NVIDIA's code", "`.pkl`, after `lipdiag convert`",
        "lipdiag measure edm-converted --factory strange_edm:Raw", "a class of its interface, pickled and converted",
        edm),
    Row("DiT, SiT", "facebookresearch, willisma", "`.pt` of train.py",
        "lipdiag measure 0050000.pt --original-config flags.json",
        "random weights in its shapes; the published widths need no flag", dit),
    Row("DDPM", "denoising-diffusion-pytorch", "`.pt` of its Trainer", "lipdiag measure model-1.pt --shape 1,8,8",
        "its classes, random, in its Trainer's layout", lucidrains,
        lambda: package("denoising_diffusion_pytorch", "accelerate", *VISION)),
    Row("rectified flow", "rectified-flow-pytorch", "`.pt` of its Trainer",
        "lipdiag measure checkpoint.1.pt --shape 1,8,8", "its own Trainer", rectified_flow,
        lambda: package("rectified_flow_pytorch", *VISION)),
    Row("pictures of medicine, 2-D", "MONAI", "bundle", "lipdiag measure bundle/models/model.pt --shape 1,8,8",
        "its class, random, in a bundle's layout", monai("PLANE"), lambda: package("monai")),
    Row("pictures of medicine, 3-D", "MONAI", "bundle", "lipdiag measure bundle/models/model.pt --shape 3,8,8,8",
        "its class, random, in a bundle's layout", monai("VOLUME"), lambda: package("monai")),
    Row("robots' actions (diffusion policies)", "LeRobot", "the policy's folder", "lipdiag measure policy",
        "its policy, random, by its save_pretrained", lerobot, installed),
    Row("weather and other fields", "PhysicsNeMo", "`.mdlus`", "lipdiag measure model.mdlus",
        "its classes, random, by their save", mdlus, physicsnemo),
    Row("pictures, by Karras et al.", "k-diffusion", "slim `.safetensors`, or `.pth` of its train.py",
        "lipdiag measure slim.safetensors", "its class, random, with its config", k_diffusion,
        lambda: package("k_diffusion", *K_UNUSED)),
    Row("score-based SDEs", "score_sde (a repository)", "`.pth` with `model`, `ema.shadow_params`",
        'lipdiag measure checkpoint_1.pth --factory my_network:build --schedule "vp(0.1, 20)" --parameterization eps '
        '--clock "unit(999)" --shape 3,8,8',
        "its layout, a network of the user's; its code in tests/checkpoints/test_originals_factories.py", score_sde),
    Row("Imagen", "imagen-pytorch", "`.pt` of its ImagenTrainer",
        "lipdiag measure imagen.pt --factory my_imagen:build --shape 3,8,8",
        "its classes, random, in its trainer's layout; the file tells no arguments of its network", imagen,
        lambda: package("imagen_pytorch", *UNUSED)),
    Row("a network of one's own", "any loop", "`.pt` with `model_state_dict`", f"lipdiag measure ckpt.pt {OWN}",
        "a network of the user's; `inspect --write-factory` writes file and command", own_network),
)  # fmt: skip


def table() -> str:
    """The rows as the page shows them."""
    lines = ["| family | package | file | command | flags | tried with |", "|---|---|---|---|---|---|"]
    rows = [(r.family, r.package, r.file, f"`{r.command}`", str(r.flags), r.tried) for r in ROWS]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.family}, {row.package}")
def test_the_command_of_a_row_measures_what_its_package_saves(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with row.context():
        row.write()
        done = CliRunner().invoke(main, [*shlex.split(row.command)[1:], *SHORT.split()])
    assert done.exit_code == 0, done.output
    K = json.loads(done.stdout.splitlines()[-1])["time_difference"]["mean"]
    assert len(K) == 2
    assert all(math.isfinite(value) and value > 0 for value in K)


def test_the_page_shows_these_rows():
    assert table() in PAGE.read_text()


def test_most_need_one_flag_at_most():
    families = {row.family for row in ROWS if row.flags <= MOST}
    assert len(families) >= NEEDED
    assert f"{sum(row.flags <= MOST for row in ROWS)} of {len(ROWS)}" in PAGE.read_text()


if __name__ == "__main__":
    text = PAGE.read_text()
    start = text.index("| family |")
    end = start + re.search(r"\n\n|\Z", text[start:]).start()
    few = f"{sum(row.flags <= MOST for row in ROWS)} of {len(ROWS)}"
    PAGE.write_text(re.sub(r"\d+ of \d+", few, text[:start]) + table() + text[end:].lstrip("\n").join(["\n", ""]))
