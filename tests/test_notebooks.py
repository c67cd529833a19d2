"""Notebooks run from top to bottom, in a minute, and show what they say they show."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LARGEST = 400_000  # bytes
PLACE = re.compile(r"(?<![\w.:/])/(?:root|home|tmp|work|usr|opt|var|mnt|Users)/|site-packages")


@pytest.fixture(scope="module")
def client():
    """One kernel for all of them, which imports the libraries once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        client = NotebookClient(nbformat.v4.new_notebook(), timeout=120)
        with client.setup_kernel():
            yield client


def execute(client, notebook, folder):
    """What its cells put out, from names as they are at the start of a kernel, in a folder of its own."""
    start = f"%reset -f\nimport os\nos.chdir({str(folder)!r})\ndel os"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(start))
    client.nb = notebook
    code = [(number, cell) for number, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    return [output for number, cell in code for output in client.execute_cell(cell, number).outputs]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own transport
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(client, path, tmp_path):
    outputs = execute(client, nbformat.read(path, as_version=4), tmp_path)
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    text = path.read_text()
    assert not PLACE.search(re.sub(r'"image/png": "[^"]*"', "", text))
    assert len(text) < LARGEST


CELL = """
import os, signal, threading, time
import matplotlib, numpy as np, torch, lipdiag
from lipdiag import Plan
from lipdiag.study import study

model = lipdiag.load("digits-ddpm").train()
for parameter in model.parameters():
    parameter.requires_grad_(True)
settings = dict(matplotlib.rcParams), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state()
real, calls = study.measure_unit, []

def stopping(*arguments):  # Ctrl-C, or the stop button, in the second unit
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    return real(*arguments)

study.measure_unit = stopping
run = lipdiag.measure(model, plan=Plan(timesteps="0,10", draws=24, quantities=("time_difference", "loss")))
study.measure_unit = real
picture = lipdiag.plot(run)
print((run["done"] == 1).sum().item(), run.attrs["launches"][0]["ended"])
print(model.training, next(model.parameters()).dtype, all(p.requires_grad for p in model.parameters()))
print(all(p.grad is None for p in model.parameters()), dict(matplotlib.rcParams) == settings[0])
print(torch.get_default_dtype() == settings[1], torch.is_grad_enabled() == settings[2])
print(torch.equal(torch.get_rng_state(), settings[3]), len(run._repr_html_()) > 1000)
picture
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_interrupted_cell_returns_what_was_measured_and_leaves_everything_as_it_was(client, tmp_path):
    outputs = execute(client, nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)]), tmp_path)
    shown = {output.get("name", output.output_type): output for output in outputs}
    assert shown["stdout"]["text"].split("\n")[:-1] == [
        "16 interrupted",
        "True torch.float32 True",
        "True True",
        "True True",
        "True True",
    ]
    assert "image/png" in shown["execute_result"]["data"]
    # The bar is of characters, or a widget that says the same in words.
    bar = [output["text"] for output in outputs if output.get("name") == "stderr"]
    bar += [output["data"]["text/plain"] for output in outputs if output.output_type == "display_data"]
    assert "measuring:" in "".join(bar)
