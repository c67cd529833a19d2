"""The original code of a family, where it is at hand: clones in the folder that LIPDIAG_ORIGINALS names.

    LIPDIAG_ORIGINALS=clones python -m pytest tests/checkpoints

Nothing of it is in this repository. Without the folder the tests that need it are skipped; the others hold the same
loaders to written-down layouts and formulas.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
def importable(folder: Path, *absent: str) -> Iterator[None]:
    """Let the modules in a folder be imported; `absent` names packages that its networks import and do not use."""
    before = dict(sys.modules)
    sys.modules.update({name: MagicMock(name=name) for name in absent if name not in sys.modules})
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - set(before):
            file = getattr(sys.modules[name], "__file__", None)
            if name in absent or (isinstance(file, str) and Path(file).is_relative_to(folder)):
                del sys.modules[name]
