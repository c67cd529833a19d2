"""The original code of a family, where it is at hand: clones in the folder that LIPDIAG_ORIGINALS names.

    LIPDIAG_ORIGINALS=clones python -m pytest tests/checkpoints

Nothing of it is in this repository. Without the folder, or the package that has the code, the tests that need it are
skipped; the others hold the same loaders to written-down layouts and formulas.
"""

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest

REPOSITORIES = {
    "edm": "NVlabs/edm",
    "edm2": "NVlabs/edm2",
    "DiT": "facebookresearch/DiT",
    "SiT": "willisma/SiT",
    "score_sde_pytorch": "yang-song/score_sde_pytorch",
    "k-diffusion": "crowsonkb/k-diffusion",
    "guided-diffusion": "openai/guided-diffusion",
    "improved-diffusion": "openai/improved-diffusion",
    "consistency_models": "openai/consistency_models",
    "denoising-diffusion-pytorch": "lucidrains/denoising-diffusion-pytorch",
    "conditional-flow-matching": "atong01/conditional-flow-matching",
    "flow_matching": "facebookresearch/flow_matching",
    "flux": "black-forest-labs/flux",
    "latent-diffusion": "CompVis/latent-diffusion",
    "sd3.5": "Stability-AI/sd3.5",
}


def clone(name: str) -> Path:
    """The folder of a clone; the test is skipped where there is none."""
    folder = Path(os.environ.get("LIPDIAG_ORIGINALS", "no-originals")) / name
    if not folder.is_dir():
        pytest.skip(f"needs a clone of github.com/{REPOSITORIES[name]} as {name} in the folder LIPDIAG_ORIGINALS names")
    return folder


@contextmanager
def package(name: str, *absent: str) -> Iterator[None]:
    """Let an installed package be imported, with stand-ins for what it imports and its networks do not use."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs the package {name}")
    with standing_in(absent, lambda module: module.__name__.partition(".")[0] == name), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports
        yield


@contextmanager
def importable(folder: Path, *absent: str) -> Iterator[None]:
    """Let the modules in a folder be imported; `absent` names packages that its networks import and do not use."""

    def inside(module: ModuleType) -> bool:
        file = getattr(module, "__file__", None)
        return isinstance(file, str) and Path(file).is_relative_to(folder)

    sys.path.insert(0, str(folder))
    try:
        with standing_in(absent, inside):
            yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def standing_in(absent: tuple[str, ...], forgotten: Callable[[ModuleType], bool]) -> Iterator[None]:
    """Stand-ins for modules that are not there, and afterwards neither they nor what was imported with them."""
    before = dict(sys.modules)
    for name in absent:
        if name not in sys.modules:
            sys.modules[name] = MagicMock(name=name, __version__="99.0", __path__=[])
            sys.modules[name].__spec__ = ModuleSpec(name, None)
    try:
        yield
    finally:
        for name in set(sys.modules) - set(before):
            if name in absent or forgotten(sys.modules[name]):
                del sys.modules[name]
