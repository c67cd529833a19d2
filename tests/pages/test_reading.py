"""Runs are read where there is no torch, and quickly where there is."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from lipdiag.cli import main

COMMANDS = {
    "plot": ["plot", "a.zarr", "--out", "a.png"],
    "compare": ["compare", "a.zarr", "b.zarr", "--out", "compare.pdf"],
}


@pytest.fixture
def runs(tmp_path, ddpm, etsdm):
    """Two runs on disk, as the store writes them."""
    from tests.runs import write

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


def test_compare_prints_a_table_or_strict_json_and_leaves_a_figure(runs):
    a, b = str(runs / "a.zarr"), str(runs / "b.zarr")
    out = ["--out", str(runs / "c.svg")]
    printed = CliRunner().invoke(main, ["compare", a, b, *out])
    assert printed.exit_code == 0, printed.output
    assert "K, sum < 100" in printed.stdout
    assert f"The figure: {runs / 'c.svg'}" in printed.stdout
    assert (runs / "c.svg").is_file()
    assert (runs / "c.csv").is_file()

    def constant(text):
        raise AssertionError(text)

    line = CliRunner().invoke(main, ["compare", a, b, "--pair", a, b, *out, "--json"]).stdout
    assert json.loads(line, parse_constant=constant)["replicates"] == "2 training seeds"


def test_compare_refuses_in_one_sentence(runs, ddpm):
    from tests.runs import write

    frozen = ddpm.attrs["frozen"]
    write(ddpm.assign_attrs(frozen=frozen | {"plan": {"seed": 7}}), runs / "other.zarr")
    refused = CliRunner().invoke(main, ["compare", str(runs / "other.zarr"), str(runs / "b.zarr")])
    assert refused.exit_code == 4
    assert refused.stderr.startswith(
        "lipdiag: digits-ddpm and digits-etsdm cannot be paired: their seed differ (7 and "
    )
    assert CliRunner().invoke(main, ["compare", str(runs / "none.zarr"), str(runs / "b.zarr")]).exit_code == 4
    assert CliRunner().invoke(main, ["compare", str(runs / "a.zarr")]).exit_code == 2
