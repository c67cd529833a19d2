"""Which way dependence points: the arrows of CONTRIBUTING.md, read from the imports."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lipdiag"
GROUND = {"errors", "files", "text"}
ALLOWED = {
    "linalg": set(),
    "diffusion": GROUND,
    "store": GROUND,
    "study": {"diffusion", "linalg", "store"} | GROUND,
    "training": {"diffusion", "distributed", "linalg"} | GROUND,
    "quality": {"diffusion", "store"} | GROUND,
    "zoo": {"diffusion", "linalg", "training"} | GROUND,
    "report": {"store", "study"} | GROUND,
}
PRINTS = {"cli.py", "benchmarks.py"}


def imports(path):
    """Names under `lipdiag` that a file imports, with the folder each comes from."""
    package = ("lipdiag", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            full = (*base, *(node.module or "").split(".")) if node.module else base
            names = [full] if len(full) > 1 else [(*full, alias.name) for alias in node.names]
            yield from (name[1] for name in names if name[0] == "lipdiag" and len(name) > 1)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lipdiag."))


@pytest.mark.parametrize("folder", ALLOWED)
def test_arrows(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        assert set(imports(path)) <= ALLOWED[folder] | {folder}, path


def test_the_list_of_folders_is_complete():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} >= set(ALLOWED)


def test_reports_import_no_model():
    """Only what reads a dataset: statistics and store, never a predictor, a network or torch."""
    for path in (PACKAGE / "report").rglob("*.py"):
        text = path.read_text()
        assert "import torch" not in text, path
        assert "diffusion" not in set(imports(path)), path


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_rim_prints(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    printing = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
    assert not printing or path.name in PRINTS or "bench" in path.parts, f"{path}:{printing[0].lineno}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unsafe_is_called(path):
    """No unpickling of whole objects, no evaluation of text, no download."""
    text = path.read_text()
    door = (
        path.relative_to(PACKAGE).as_posix() == "checkpoints/unpickle.py"
    )  # `convert --unsafe-pickle`, a process of its own
    for word in (
        "weights_only=False",
        "pickle.load",
        "yaml.load",
        " eval(",
        " exec(",
        "torch.hub",
        "dcp.load",
        "from_pretrained(",
    ):
        assert word not in text or (door and word == "pickle.load"), word
