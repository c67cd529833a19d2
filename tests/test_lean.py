"""What a command leaves out as it imports libraries is there when it is used, and is not left out elsewhere."""

import gc
import importlib
import sys

import pytest
import torch

from lipdiag import lean

LIBRARY = """
import fake_statistics
import torch
try:
    from fake_compiler import mark
except ImportError:
    def mark(it):
        return it
{needs}

@torch.compiler.disable
def doubled(x):
    return 2 * x

@torch.compiler.disable(recursive=False)
def halved(x):
    return x / 2

def mean(x):
    import fake_statistics
    return fake_statistics.mean(x)
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes a library that imports a compiler and statistics, the way diffusers does; gives what imports it."""
    (tmp_path / "fake_compiler.py").write_text("def mark(it):\n    return it\n")
    (tmp_path / "fake_statistics.py").write_text("def mean(x):\n    return sum(x) / len(x)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lean, "COMPILER", "fake_compiler")
    monkeypatch.setattr(lean, "STATISTICS", "fake_statistics")

    def write(needs=""):
        (tmp_path / "fake_library.py").write_text(LIBRARY.format(needs=needs))
        importlib.invalidate_caches()
        return lambda: importlib.import_module("fake_library")

    yield write
    for name in ("fake_compiler", "fake_statistics", "fake_library"):
        sys.modules.pop(name, None)


def loaded():
    return {name for name in ("fake_compiler", "fake_statistics") if name in sys.modules}


def test_a_command_imports_neither_and_has_both_once_they_are_used(library):
    disable = torch.compiler.disable
    with lean.alone():
        found = lean.leanly(library())
        assert not loaded()
        assert torch.compiler.disable is disable
        assert found.mean([1, 3]) == 2
        assert found.doubled(3) == 6
        assert found.halved(3) == 1.5
        assert importlib.import_module("fake_compiler").mark(4) == 4


@pytest.fixture
def nothing_is_frozen():
    """Whatever the session passes by as it looks for garbage; it does so again afterwards."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("nothing_is_frozen")
def test_what_a_command_imports_is_not_searched_for_garbage_again(library):
    with lean.hastily():
        assert gc.isenabled()  # in a process of somebody else's
    assert not gc.get_freeze_count()
    with lean.alone():
        with lean.hastily():
            assert not gc.isenabled()
        assert gc.isenabled()
        before = gc.get_freeze_count()
        lean.leanly(library())
        assert gc.get_freeze_count() > before > 0
    assert not gc.get_freeze_count()


@pytest.mark.usefixtures("nothing_is_frozen")
def test_what_somebody_else_passes_by_stays_so(library):
    gc.freeze()
    before = gc.get_freeze_count()
    with lean.alone():
        lean.leanly(library())
    assert gc.get_freeze_count() >= before > 0


@pytest.mark.parametrize("needs", ["import fake_compiler", "from fake_statistics import mean"])
def test_a_library_that_needs_them_gets_them(library, needs):
    with lean.alone():
        assert lean.leanly(library(needs)).doubled(3) == 6
    assert loaded() == {"fake_compiler", "fake_statistics"}


def test_elsewhere_and_in_a_training_nothing_is_left_out(library):
    with lean.alone(), lean.alone(False):
        lean.leanly(library())
    assert loaded() == {"fake_compiler", "fake_statistics"}
    assert not lean.leanly(lambda: lean._alone)


def test_what_is_imported_already_stays(library):
    importlib.import_module("fake_compiler")
    with lean.alone():
        lean.leanly(library())
    assert loaded() == {"fake_compiler"}


def test_an_error_of_the_library_itself_is_told():
    with lean.alone(), pytest.raises(ModuleNotFoundError, match="no_such_library"):
        lean.leanly(lambda: importlib.import_module("no_such_library"))
