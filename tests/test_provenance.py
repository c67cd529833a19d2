"""What is recorded of the libraries, also where lipdiag itself is a folder of sources that nobody installed."""

from importlib.metadata import PackageNotFoundError

import numpy as np
import torch

import lipdiag
from lipdiag import provenance


def test_versions_are_told_without_an_installation(monkeypatch):
    def nothing_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(provenance, "version", nothing_installed)
    found = provenance.versions("lipdiag", "torch", "numpy", "no_such_library")
    assert found == {
        "lipdiag": lipdiag.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "no_such_library": "none",
    }
