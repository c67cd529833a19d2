"""What is recorded of the libraries, also where lipdiag itself is a folder of sources that nobody installed."""

import platform
import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
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


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["/usr/bin/lipdiag", "measure", "a b.pt"], ["lipdiag", "measure", "a b.pt"]),
        (["/lib/ipykernel_launcher.py", "-f", "kernel.json"], ["jupyter"]),
    ],
)
def test_a_launch_is_its_command_its_device_and_its_libraries(monkeypatch, typed, told):
    monkeypatch.setattr(sys, "argv", typed)
    found = provenance.launch(device="abacus", threads=2)
    assert found["argv"] == told
    assert (found["device"], found["threads"]) == ("abacus", 2)
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["torch"] == torch.__version__
