"""What is recorded of the libraries, also where lipdiag itself is a folder of sources that nobody installed."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

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
        (["/lib/lipdiag/__main__.py", "measure", "a.pt"], ["lipdiag", "measure", "a.pt"]),
        (["/lib/other/__main__.py", "a"], ["__main__.py", "a"]),
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


def test_versions_are_told_without_importing_torch():
    code = (
        "import sys, lipdiag.cli; lipdiag.cli.main(['--version'], standalone_mode=False); "
        "print(sorted({'torch', 'numpy', 'diffusers'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[-1] == "[]"
    assert f"torch      {torch.__version__}" in said
    assert [line.split()[0] for line in said[:-1]] == ["lipdiag", "python", "torch", "diffusers", "device"]


@pytest.mark.parametrize(
    ("torch_version", "told"), [("2.13.0", "2 x NVIDIA H100 80GB HBM3, 1 x NVIDIA A2"), ("2.13.0+cpu", "CPU (")]
)
def test_cards_are_those_that_the_driver_names(tmp_path, monkeypatch, torch_version, told):
    for slot, name in enumerate(("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", "NVIDIA A2")):
        (tmp_path / f"0000:{slot:02d}:00.0").mkdir()
        (tmp_path / f"0000:{slot:02d}:00.0" / "information").write_text(f"Model: \t {name}\nIRQ:  \t 16\n")
    monkeypatch.setattr(provenance, "CARDS", tmp_path)
    monkeypatch.setattr(provenance, "version", lambda name: torch_version)
    assert provenance.devices().startswith(told)


def test_the_version_stands_in_one_place_and_who_cites_finds_the_paper():
    root = Path(__file__).parents[1]
    for name in ("pyproject.toml", "CITATION.cff"):
        assert lipdiag.__version__ not in (root / name).read_text()
    assert "https://arxiv.org/abs/2306.11251" in (root / "CITATION.cff").read_text()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("lipdiag mea", ["measure"]),
        ("lipdiag measure --timest", ["--timesteps"]),
        ("lipdiag measure --dtype ", ["float32", "float64"]),
    ],
)
def test_a_shell_completes_commands_options_and_choices(typed, offered):
    words = typed.split(" ")
    environment = {"_LIPDIAG_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    code = "from lipdiag.cli import main; main(prog_name='lipdiag')"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=True
    ).stdout.split()
    found = [line.partition(",")[2] for line in said]
    assert found == offered
