"""The one door through which a stranger's code runs: `python -m lipdiag.checkpoints.unpickle FILE CODE OUT`.

Run by `lipdiag convert --unsafe-pickle` alone, as a process of its own, so that nothing of it stays in lipdiag's. It
leaves model.safetensors and config.json in OUT, which are then read like any stranger's files; but first it is the one
place where the file's own denoiser can be asked, and what would be measured is compared with it.
"""

import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

WORDS = ("sigma_min", "sigma_max", "sigma_data", "beta_d", "beta_min", "M", "C_1", "C_2")
TOLERANCE = 1e-3  # relative; float32, and a table of sigmas in float32, leave a tenth of it


def json_value(value: Any) -> Any:
    """What JSON can hold of a value; lists for tuples, texts for the rest."""
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300


def home(made: type, code: Path) -> str | None:
    """The module in a folder of code that has a class: the one with the pickle's very source, else the only one."""
    source = getattr(made, "_orig_module_src", None)
    if source is None:
        return made.__module__
    texts = {file: file.read_text(errors="replace") for depth in ("*.py", "*/*.py") for file in code.glob(depth)}
    same = [file for file, text in texts.items() if text == source]
    files = same[:1] or [f for f, text in texts.items() if re.search(rf"^class {made.__name__}\b", text, re.MULTILINE)]
    return ".".join(files[0].relative_to(code).with_suffix("").parts) if len(files) == 1 else None


def write(config: dict[str, Any], path: Path) -> None:
    from ..files import atomic_write

    atomic_write(path, (json.dumps(config, indent=2, allow_nan=False) + "\n").encode())


def main(file: str, code: str, out: str) -> None:
    """Unpickle FILE with CODE importable, write what is in it to OUT, and compare that with FILE's own denoiser."""
    sys.path.insert(0, code)
    import torch
    from safetensors.torch import save

    from ..files import atomic_write
    from ..formats import edm
    from .factory import find

    with open(file, "rb") as opened:
        content = pickle.load(opened)
    network = content.get("ema", content.get("net")) if isinstance(content, dict) else content
    raw = next((getattr(network, name) for name in ("model", "unet") if hasattr(network, name)), None)
    if not isinstance(network, torch.nn.Module) or not isinstance(raw, torch.nn.Module):
        raise SystemExit("it holds no preconditioner with a network inside, under 'ema' or 'net'")
    arguments = {name: getattr(network, name) for name in WORDS if finite(getattr(network, name, None))}
    size, channels = (getattr(network, name) for name in ("img_resolution", "img_channels"))
    given, module = getattr(raw, "init_kwargs", None), home(type(raw), Path(code))
    config = {
        "preconditioner": type(network).__name__,
        "arguments": json_value(arguments),
        "network": {
            "module": module,
            "class": type(raw).__name__,
            "arguments": json_value(dict(given) if given is not None else {}),
        },
        "shape": [int(channels), int(size), int(size)],
        "label_dim": int(getattr(network, "label_dim", 0)),
    }
    state = {name: tensor.detach().float().contiguous().clone() for name, tensor in raw.state_dict().items()}
    atomic_write(Path(out) / edm.MODEL, save(state))
    write(config, Path(out) / edm.CONFIG)
    make = type(raw) if module is None else find(f"{module}:{type(raw).__name__}")
    error = edm.difference(edm.build(make, Path(out)), network.float().eval(), raw)
    if not error <= TOLERANCE:
        (Path(out) / edm.CONFIG).unlink()
        raise SystemExit(f"what its code in {code} makes of its weights differs from its own denoiser by {error:.1g}")
    write(config | {"difference": error}, Path(out) / edm.CONFIG)


if __name__ == "__main__":
    main(*sys.argv[1:])
