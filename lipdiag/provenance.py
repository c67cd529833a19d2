"""What made a result, for the record: the command, the time and the versions of the libraries."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import __version__

CARDS = Path("/proc/driver/nvidia/gpus")
"""Where NVIDIA's driver for Linux describes its cards."""


def launch(**device: Any) -> dict[str, Any]:
    """The record of a launch that begins now: its command, its time, what is told of its device, its libraries."""
    return {
        "argv": command(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **device,
        "versions": versions("python", "lipdiag", "torch", "numpy", "diffusers", "zarr", "xarray"),
    }


def command() -> list[str]:
    """The command as it was typed; `jupyter` alone for a notebook, whose own is of no use to anybody."""
    path = Path(sys.argv[0])
    program = __package__ if path.name == "__main__.py" and path.parent.name == __package__ else path.name
    return ["jupyter"] if program.startswith("ipykernel") else [program, *sys.argv[1:]]


def versions(*names: str) -> dict[str, str]:
    """The version of each library, and of `python`; "unknown" where it lies in a folder of sources, not installed."""
    own = {"lipdiag": __version__, "python": platform.python_version()}
    return {name: own.get(name) or installed(name) for name in names}


def devices() -> str:
    """What tensors may lie on here, told without importing torch: the cards that the driver names, or the processor."""
    texts = [] if "+cpu" in installed("torch") else [path.read_text() for path in sorted(CARDS.glob("*/information"))]
    names = [
        line.partition(":")[2].strip() for text in texts for line in text.splitlines() if line.startswith("Model:")
    ]
    counted = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return ", ".join(counted) or f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        if find_spec(name) is None:
            return "none"
        return str(getattr(__import__(name), "__version__", "unknown"))
