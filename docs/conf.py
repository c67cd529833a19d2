"""The documentation site: `make docs`. The source folder is the checkout, so that README and pages link to each other.

README.md is the front page. Everything the site shows is in it: no script, font or picture comes from elsewhere, and
formulas are MathML, which browsers draw themselves.
"""

import inspect
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import lipdiag  # noqa: E402

project, author, release = "lipdiag", "The lipdiag developers", lipdiag.__version__
copyright = author
root_doc = "README"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = [
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/*.md", "docs/how/*.md", "docs/api/*.rst",
    "figures/*.md", "notebooks/*.ipynb", "lipdiag/assets/digits.md",
]  # fmt: skip
html_theme = "furo"
html_title = "lipdiag"
html_extra_path = ["index.html"]
html_copy_source = False
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are kept with their outputs, which the tests make again
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
suppress_warnings = ["ref.python"]  # a word of an annotation that two classes have as an attribute

ROOMS = sorted({path.parent.name for path in (ROOT / "lipdiag").glob("*/*.py")} - {"cli"})
ALONE = ("errors", "share", "statistics")

CONTENTS = """
```{toctree}
:hidden:
:caption: How to
:glob:
docs/how/*
```
```{toctree}
:hidden:
:caption: Notebooks
notebooks/quick_start
notebooks/your_model
notebooks/closed_forms
notebooks/etsdm
notebooks/what_is_wrong
notebooks/choosing
```
```{toctree}
:hidden:
:caption: Reference
docs/mathematics
docs/gallery
docs/api/front
docs/api/rooms
CHANGELOG
CONTRIBUTING
SECURITY
lipdiag/assets/digits
```
"""


def prepare(app, docname, source):
    """The front page has the contents, and the page of a figure the figure, which README has beside its line."""
    if docname == "README":
        source[0] += CONTENTS
    elif docname.startswith("figures/") and (ROOT / f"{docname}.png").exists():
        title, _, words = source[0].partition("\n")
        name = docname.rpartition("/")[2]
        source[0] = f"{title}\n\n![{name}]({name}.png)\n{words}"


def pages(app):
    """A page a room of the package with every file in it, and one with the front door."""
    folder = ROOT / "docs" / "api"
    folder.mkdir(exist_ok=True)
    names = [name for name in lipdiag.__all__ if name != "__version__"]
    kinds = {name: "class" if inspect.isclass(getattr(lipdiag, name)) else "function" for name in names}
    front = [f".. auto{kind}:: lipdiag.{name}\n" + "   :members:" * (kind == "class") for name, kind in kinds.items()]
    texts = {"front": titled("import lipdiag", front)}
    for room in ROOMS:
        files = sorted(path.stem for path in (ROOT / "lipdiag" / room).glob("*.py") if path.stem != "__init__")
        texts[room] = titled(f"lipdiag.{room}", [section(f"lipdiag.{room}.{file}") for file in files])
    texts["alone"] = titled("lipdiag.*", [section(f"lipdiag.{name}") for name in ALONE])
    listed = "\n   ".join((*ROOMS, "alone"))
    texts["rooms"] = titled("Rooms of the package", [f".. toctree::\n   :maxdepth: 2\n\n   {listed}"])
    for name, text in texts.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def titled(title, parts):
    return "\n\n".join([f"{title}\n{'=' * len(title)}", *parts, ""])


def section(module):
    name = module.rpartition(".")[2]
    return f"{name}\n{'-' * len(name)}\n\n.. automodule:: {module}\n   :members:"


def escape(app, what, name, obj, options, lines):
    """Docstrings are plain English: what reStructuredText would act upon is spelled out, `code` is literal."""
    if what in ("method", "function") and getattr(obj, "__module__", project).partition(".")[0] != "lipdiag":
        lines.clear()  # of a library's own class, which one of lipdiag's is made of
    if what == "module":  # formulas are indented, and blocks by themselves
        depth = [len(line) - len(line.lstrip()) for line in lines]
        for i in reversed(range(1, len(lines))):
            if lines[i - 1].strip() and lines[i].strip() and depth[i] != depth[i - 1]:
                lines.insert(i, "")
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = re.split(r"`([^`]+)`", line)
        parts[::2] = [re.sub(r"[|*]|_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
        lines[i] = "".join(f"``{part}``" if odd % 2 else part for odd, part in enumerate(parts))


def inline(self, node):
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block(self, node):
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.connect("builder-inited", pages)
    app.connect("source-read", prepare)
    app.connect("autodoc-process-docstring", escape, priority=100)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
