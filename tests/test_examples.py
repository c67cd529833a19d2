"""The examples of docstrings and of the documentation's pages run as they stand; every public function has one."""

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import lipdiag
from lipdiag.cli import main
from lipdiag.figures.gallery import FIGURES

PACKAGE = Path(lipdiag.__file__).parent
PUBLIC = [name for name in lipdiag.__all__ if name != "__version__"]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "    >>> " in path.read_text())
DOCS = PACKAGE.parent / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if DOCS / "api" not in path.parents)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the two runs lie that examples open."""
    found = tmp_path_factory.mktemp("examples")
    plan = lipdiag.Plan(timesteps="log:12", draws=4, quantities=("time_difference", "loss"))
    for model in ("digits-etsdm", "digits-ddpm"):  # the twin's timesteps have the edges of its blocks
        run = lipdiag.measure(model, plan=plan, out=found / f"{model}.zarr", progress=False, probe=False)
        plan = plan.replace(timesteps=tuple(run["timestep"].values))
    return found


def examples(thing, name):
    return [test for test in doctest.DocTestFinder(recurse=False).find(thing, name) if test.examples]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert examples(getattr(lipdiag, name), name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_examples_run(path, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("lipdiag.pages.page.FIGURES", {"singularity": FIGURES["singularity"]})
    module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    tests = doctest.DocTestFinder().find(module, extraglobs={"lipdiag": lipdiag})
    tests = [test for test in tests if test.examples]
    assert tests
    runner, said = doctest.DocTestRunner(optionflags=OPTIONS), []
    for test in tests:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def each_page(test):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())(test)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@each_page
def test_commands_of_pages_parse(page):
    """Each is tried with --help appended: an option that does not exist is a usage error."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines() if "lipdiag" in line]
    for line in lines:
        command = shlex.split(line, comments=True)
        arguments = command[command.index("lipdiag") + 1 :]
        assert CliRunner().invoke(main, [*arguments, "--help"]).exit_code == 0, line


@each_page
def test_python_of_pages_runs(page, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {"__name__": page.stem})


PROJECT = """
import torch

class UNet(torch.nn.Conv2d):
    def __init__(self, channels):
        super().__init__(3, 3, 1)

    def forward(self, x, timestep):
        return super().forward(x)
"""


def test_the_factory_of_the_page_makes_a_network_of_a_file(tmp_path, monkeypatch):
    page = DOCS / "how" / "checkpoint-not-read.md"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_project.py").write_text(PROJECT)
    (tmp_path / "my_module.py").write_text(*blocks(page, "py"))
    torch.save(torch.nn.Conv2d(3, 3, 1).state_dict(), "ckpt.pt")
    (line,) = [line for block in blocks(page, "bash") for line in block.splitlines() if "--factory" in line]
    result = CliRunner().invoke(main, [*shlex.split(line)[1:], "--dry-run"])
    assert result.exit_code == 0, result.output


@each_page
def test_links_of_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or "/api/" in target or (page.parent / target).exists(), target


@each_page
def test_options_that_pages_name_exist(page):
    """An option that a page names in its prose is one of some command's."""
    known = {name for command in main.commands.values() for option in command.params for name in option.opts} | {
        "--version"
    }
    assert not [name for name in re.findall(r"`(--[a-z-]+)", page.read_text()) if name not in known]


def test_there_are_pages_with_commands_and_python():
    assert sum(len(blocks(page, "bash")) for page in PAGES) >= 15
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 4
