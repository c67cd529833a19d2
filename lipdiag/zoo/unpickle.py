"""The one door through which a stranger's code runs: `python -m lipdiag.zoo.unpickle FILE CODE OUT`.

Run by `lipdiag convert --unsafe-pickle` alone, as a process of its own, so that nothing of it stays in lipdiag's. It
leaves model.safetensors and config.json in OUT, which are then read like any stranger's files.
"""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

WORDS = ("sigma_min", "sigma_max", "sigma_data", "beta_d", "beta_min", "M", "C_1", "C_2")


def plain(value: Any) -> Any:
    """What JSON can hold of a value; lists for tuples, texts for the rest."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300


def main(file: str, code: str, out: str) -> None:
    """Unpickle FILE with CODE importable and write what is in it to OUT."""
    sys.path.insert(0, code)
    import torch
    from safetensors.torch import save

    from lipdiag.training.files import atomic_write

    with open(file, "rb") as opened:
        content = pickle.load(opened)
    network = content.get("ema", content.get("net")) if isinstance(content, dict) else content
    raw = next((getattr(network, name) for name in ("model", "unet") if hasattr(network, name)), None)
    if not isinstance(raw, torch.nn.Module):
        raise SystemExit("it holds no preconditioner with a network inside, under 'ema' or 'net'")
    arguments = {name: getattr(network, name) for name in WORDS if finite(getattr(network, name, None))}
    size, channels = (getattr(network, name) for name in ("img_resolution", "img_channels"))
    given = getattr(raw, "init_kwargs", None)
    config = {
        "preconditioner": type(network).__name__,
        "arguments": plain(arguments),
        "network": {"class": type(raw).__name__, "arguments": plain(dict(given) if given is not None else {})},
        "shape": [int(channels), int(size), int(size)],
        "label_dim": int(getattr(network, "label_dim", 0)),
    }
    state = {name: tensor.detach().float().contiguous().clone() for name, tensor in raw.state_dict().items()}
    atomic_write(Path(out) / "model.safetensors", save(state))
    atomic_write(Path(out) / "config.json", (json.dumps(config, indent=2, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
