"""Runs are read where there is no torch, and quickly where there is."""

import subprocess
import sys

import pytest

COMMANDS = {
    "plot": ["plot", "a.zarr", "--out", "a.png"],
}


@pytest.fixture
def runs(tmp_path, ddpm, etsdm):
    """Two runs on disk, as the store writes them."""
    from .conftest import write

    write(ddpm, tmp_path / "a.zarr")
    write(etsdm, tmp_path / "b.zarr")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_no_torch_is_imported(runs, command):
    """In a process of its own, the whole command through."""
    code = f"""
import sys
from lipdiag.cli import main
main({COMMANDS[command]!r}, standalone_mode=False)
print(sorted({{"torch", "diffusers", "torchmetrics"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=runs)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
