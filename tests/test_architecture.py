"""The shape of the package as CONTRIBUTING.md draws it: floors, no circles, no private names, no unsafe calls."""

import ast
import builtins
import graphlib
import symtable
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lipdiag"
FLOORS = (
    {
        "breakdown",
        "dialect",
        "errors",
        "files",
        "lazy",
        "lean",
        "printing",
        "progress",
        "provenance",
        "hub",
        "statistics",
        "text",
        "view",
    },
    {"linalg", "diffusion", "distributed", "store", "data", "weights"},
    {"timestep", "formats", "quantities", "sampling"},
    {"share", "checkpoints", "selftest"},
    {"shared_network"},
    {"design"},
    {"readiness"},
    {"study", "watching"},
    {"training", "quality"},
    {"results"},
    {"findings"},
    {"comparison", "advice", "health"},
    {"tuning"},
    {"figures"},
    {"pages"},
    {"cli"},
    {"__main__", "__init__"},
)
"""From the ground. A file imports from lower floors and its own folder; on the ground also beside it."""

SHOWN = ("results", "findings", "comparison", "advice", "figures", "pages")
"""What is made of datasets alone."""

MODELS = {"diffusion", "linalg", "weights", "formats", "checkpoints"}
"""What knows models, and is unknown to what is shown."""

FILES = sorted(PACKAGE.rglob("*.py"))


def module(path: Path) -> tuple[str, ...]:
    """Its dotted name in parts, without `lipdiag`; of a package's own file that of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module(path): path for path in FILES}


def imports(path: Path) -> list[tuple[tuple[str, ...], str]]:
    """(module, name) of each import from the package, those for the type checker alone left out."""
    package = path.relative_to(PACKAGE).parts[:-1]
    tree = ast.parse(path.read_text())
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or id(node) in checked:
            continue
        source = (
            (*package[: len(package) + 1 - node.level], *(node.module or "").split("."))
            if node.module
            else (package[: len(package) + 1 - node.level])
        )
        for alias in node.names:
            inside = (*source, alias.name)
            found.append((inside if inside in MODULES else source, alias.name))
    return found


def room(name: tuple[str, ...]) -> str:
    return name[0] if name else "__init__"


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def each_file(test):
    return pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))(test)


def unbound(table: symtable.SymbolTable, known: set[str]) -> Iterator[str]:
    """Names that a scope, or one within it, looks for in the module, which has no such name."""
    for symbol in table.get_symbols():
        if symbol.is_global() and symbol.is_referenced() and symbol.get_name() not in known:
            yield symbol.get_name()
    for inner in table.get_children():
        yield from unbound(inner, known)


def test_every_name_is_bound():
    """The linters cannot tell: to them the axes of a jaxtyping annotation are names that are not bound."""
    for path in [
        path for folder in ("lipdiag", "benchmarks", "tests") for path in (PACKAGE.parent / folder).rglob("*.py")
    ]:
        table = symtable.symtable(path.read_text(), str(path), "exec")
        known = {
            *dir(builtins),
            "__file__",
            *(s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()),
        }
        known |= {child.get_name() for child in table.get_children()}
        assert not sorted(unbound(table, known)), path


@each_file
def test_imports_point_to_lower_floors(path):
    here = room(module(path))
    for source, name in imports(path):
        there = room(source)
        below = floor(there) < floor(here) or floor(here) == 0
        assert there == here or below, f"{path.relative_to(PACKAGE)} imports {name} from {'.'.join(source)}"


@each_file
def test_one_style_of_imports_and_no_private_name(path):
    """Relative inside the package; what another file needs has no underscore."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level or not (node.module or "").startswith("lipdiag"), f"{path}:{node.lineno}"
    for source, name in imports(path):
        assert not name.startswith("_") or name == "__version__", f"{path}: {name} of {'.'.join(source)}"


def test_no_circle_between_files():
    graph = {name: {source for source, _ in imports(path)} - {name} for name, path in MODULES.items()}
    for lazy in [name for name, path in MODULES.items() if path.name == "__init__.py"]:
        graph[lazy] = set()  # a package's own file imports when a name is used, not before
    graphlib.TopologicalSorter(graph).prepare()


def test_every_room_has_a_floor():
    assert {room(name) for name in MODULES} == set().union(*FLOORS)


@pytest.mark.parametrize("folder", SHOWN)
def test_what_is_shown_needs_no_model(folder):
    """Only datasets are read: no predictor, no network, no torch."""
    for path in (PACKAGE / folder).rglob("*.py"):
        assert "import torch" not in path.read_text(), path
        assert not {room(source) for source, _ in imports(path)} & {
            "diffusion",
            "linalg",
            "weights",
            "formats",
            "checkpoints",
        }, path


@each_file
def test_only_the_command_line_prints(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    printing = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
    assert not printing, f"{path}:{printing[0].lineno}"


@each_file
def test_nothing_unsafe_is_called(path):
    """No unpickling of whole objects, no evaluation of text, no download."""
    text = path.read_text()
    # `convert --unsafe-pickle`, a process of its own
    door = path.relative_to(PACKAGE).as_posix() == "checkpoints/unpickle.py"
    for word in (
        "weights_only=False",
        "pickle.load",
        "yaml.load",
        " eval(",
        " exec(",
        "torch.hub",
        "dcp.load",
    ):
        assert word not in text or (door and word == "pickle.load"), word


@each_file
def test_nothing_is_fetched_by_the_libraries(path):
    """The encoders of a prompt alone are read by their library: from a folder, and no code in it or on a hub."""
    text = path.read_text()
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    reading = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained"]
    assert len(reading) == text.count("from_pretrained(")
    assert not reading or path.relative_to(PACKAGE).as_posix() == "checkpoints/prompt.py"
    for call in reading:
        said = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
        assert said["local_files_only"] is True
        assert said["trust_remote_code"] is False


REFUSALS = {
    "Caution",
    "CheckpointError",
    "CompanyError",
    "IncompleteError",
    "LipdiagError",
    "NonFiniteError",
    "RunError",
    "StorageError",
    "UsageError",
    "ValueError",
}
NAMES = ("FID ", "KID ", "NVIDIA", "EDM", "OpenAI", "K ", "K(")
"""With which a sentence may begin."""


def literal(node: ast.expr) -> str:
    """The text of a string, with {} for what is put into it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@each_file
def test_sentences_of_refusals_begin_small_and_end_without_a_full_stop(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in REFUSALS and node.args:
            text = literal(node.args[0])
            assert not text[:1].isupper() or text.startswith(NAMES), f"{path}:{node.lineno}: {text}"
            assert not text.endswith(".") or text.endswith("..."), f"{path}:{node.lineno}: {text}"


BENCHMARKS = PACKAGE.parent / "benchmarks"
LONGEST_FILE, LONGEST_FUNCTION = 350, 70
"""Lines; those of a function from its `def` to its end, since a command's options stand above that."""


@pytest.mark.parametrize(
    "path", [*FILES, *sorted(BENCHMARKS.rglob("*.py"))], ids=lambda path: str(path.relative_to(PACKAGE.parent))
)
def test_files_and_functions_can_be_read_aloud(path):
    text = path.read_text()
    lines = len(text.splitlines())
    assert lines <= LONGEST_FILE, f"{path} has {lines} lines, {LONGEST_FILE} are allowed: split it along its nouns"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{path}: {node.name} has {lines} lines, {LONGEST_FUNCTION} are allowed"


ROOMY = {"cli", "figures", "formats", "linalg", "quantities"}
"""Rooms of as many files as there are commands, figures, formats and quantities, and that of the numerics."""


def test_a_room_has_at_most_twelve_files():
    files = Counter(path.parent.name for path in FILES if path.name != "__init__.py" and path.parent != PACKAGE)
    crowded = {room: count for room, count in files.items() if count > 12 and room not in ROOMY}
    assert not crowded, f"{crowded}: split the room along its nouns"


FRAGMENTS = ("As ", "Of ", "Likewise", "Args:", "Attributes:", "Returns:", "Raises:")
"""With which no sentence begins that says what a thing is."""

ELSEWHERE = ("As for `", "As in `", "As of `", "arguments as of")
"""With which a reader is sent to another docstring."""


@each_file
def test_docstrings_stand_by_themselves(path):
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            said = ast.get_docstring(node) or ""
            assert not said.startswith(FRAGMENTS), f"{path}: {getattr(node, 'name', '')}: {said}"
        elif isinstance(node, ast.Expr) and literal(node.value).startswith(FRAGMENTS):
            raise AssertionError(f"{path}:{node.lineno}: {literal(node.value)}")
    assert not [word for word in ELSEWHERE if word in text], path
