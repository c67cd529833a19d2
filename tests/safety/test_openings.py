"""Every call in lipdiag that opens a file, and the check that stands before what is read from it.

A new call fails the test until it is listed: with the check, or with whose file it is if no stranger's.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "lipdiag"
OPENERS = {
    "open", "fdopen", "read_text", "read_bytes", "fromfile", "memmap", "ZipFile", "PdfReader", "safe_open", "load_file",
    "open_zarr", "open_dataset", "open_mfdataset", "open_group", "open_array", "open_consolidated", "open_dataarray",
    "loadtxt", "genfromtxt", "read_csv", "imread", "iterparse", "read_table",
}  # fmt: skip
"""By these names, whatever they are called on."""

LOADERS = {"np", "numpy", "torch", "json", "pickle", "marshal", "tomllib", "zarr", "yaml", "safetensors", "copyreg"}
"""On these, `load` opens or decodes a file."""

OWN, WRITES = "of lipdiag itself, installed with it", "written, not read"
CHECKED = {
    "cli/measure.py": {"os.fdopen": WRITES},
    "cli/options.py": {"os.open": "of no file: the null device", "os.fdopen": WRITES},
    "provenance.py": {"path.read_text": "what the graphics driver says of its cards, under /proc"},
    "files.py": {
        "os.open": "the first thing: without waiting, then the regular kind; or written; or a folder",
        "os.fdopen": "the regular kind, by `os.fstat`",
    },
    "quality/classifier.py": {"np.load": OWN, "WEIGHTS.read_bytes": OWN},
    "quality/packaged.py": {"torch.load": "the SHA-256 of a package's file"},
    "pages/page.py": {"files(__package__).joinpath(f'page.{kind}').read_text": OWN},
    "figures/canvas.py": {"os.fdopen": WRITES},
    "results/source.py": {"np.load": "the regular kind and what the archive unpacks to; objects are refused"},
    "store/folder.py": {
        "os.open": "the first thing: without waiting and without following links",
        "os.fdopen": "the regular kind, by `os.fstat`; so many bytes",
    },
    "store/chunk.py": {"open": WRITES},
    "store/creation.py": {"zarr.open_group": WRITES},
    "store/store.py": {
        "zarr.open_group": "`store.format.check_run`, of the whole folder",
        "os.open": "a folder, to be locked",
        "xr.open_dataset": "of memory, not of a file",
    },
    "weights/archive.py": {"": "`files.open_regular`: one reader, which checks what it then loads"},
    "data/arrays.py": {"": "the regular kind and what the archive unpacks to; objects are refused"},
    "data/dataset.py": {
        "file.read_bytes": "`pictures`: the regular kind",
        "np.load": "the regular kind and what the archive unpacks to; objects are refused; or of lipdiag itself",
        "Image.open": "the regular kind; six formats by name; the number of pixels",
    },
    "watching/log.py": {"path.open": WRITES, "path.read_text": "columns of numbers, row by row"},
    "data/shipped.py": {"gzip.open": "of an installed package"},
    "weights/tensors.py": {
        "zipfile.ZipFile": "`files.open_regular`",
        "torch.load": "the pickle's opcodes, the archive's checksums and every record's size",
    },
    "formats/conditioning.py": {"np.load": "`files.open_regular`; objects are refused"},
    "formats/physicsnemo.py": {
        "zipfile.ZipFile": "`files.open_regular`; records of known names that are not packed, read in memory",
        "tarfile.open": "`files.open_regular`; regular members no larger than the file, read in memory",
    },
    "study/memory.py": {"open": "what the system says of its memory, under /proc"},
    "checkpoints/unpickle.py": {
        "file.read_text": "code that the user named, `convert --unsafe-pickle`",
        "open": "code that the user named, `convert --unsafe-pickle`",
        "pickle.load": "code that the user named, `convert --unsafe-pickle`",
    },
}  # fmt: skip
"""File -> call -> what stands before it; "" for all calls of a file or a folder."""


def openings(tree: ast.AST) -> list[str]:
    """The calls of a module that open a file, as they are written."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last, before = name.rpartition(".")[2], name.rpartition(".")[0]
        if last in OPENERS or (last == "load" and before.partition(".")[0] in LOADERS):
            found.append(name)
    return found


def test_every_call_that_opens_a_file_is_listed_with_what_stands_before_it():
    unlisted = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        known = CHECKED.get(place, CHECKED.get(place.partition("/")[0], {}))
        unlisted += [
            f"{place}: {name}" for name in openings(ast.parse(path.read_text())) if not {"", name} & known.keys()
        ]
    assert unlisted == []


def test_the_list_sees_what_opens_a_file():
    """Otherwise an empty answer would mean nothing."""
    seen = openings(
        ast.parse(
            "open(p); p.open(); p.read_text(); zarr.open_group(p); xr.open_dataset(p); np.load(p); torch.load(p)\n"
            "def f():\n with zipfile.ZipFile(p) as z: Image.open(z); safetensors.safe_open(p); os.open(p, 0)"
        )
    )
    assert len(seen) == 11


def test_no_library_opens_a_store():
    """Arrays of others are decoded by `store`: zarr sees a run only after its check, to write into it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        calls = openings(ast.parse(path.read_text()))
        place = path.relative_to(PACKAGE).as_posix()
        named = [call for call in calls if call.partition(".")[0] in ("zarr", "xr", "xarray")]
        assert not named or place in ("store/store.py", "store/creation.py"), (place, named)
