"""CONTRIBUTING draws the tree as it is: every file of the package stands there, in its room, and no other."""

import re
from pathlib import Path

from tests.test_architecture import FLOORS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
(TREE,) = re.findall(r"```\n(lipdiag/\n.*?)```", TEXT, re.DOTALL)
NOT_NAMED = "__init__.py", "benchmarks/__main__.py"


def named() -> set[str]:
    """The files that the tree names: `x.py` on a line of its own, or after the colon of a folder's line."""
    found, house = set(), ""
    for indent, name, told in re.findall(r"^( *)(\S+)(.*\n(?: {20,}.*\n)*)", TREE, re.MULTILINE):
        house = house if indent else name
        place = (house if indent else "") + name
        if name.endswith(".py"):
            found.add(place)
        _, _, files = re.sub(r"\([^)]*\)", "", told).partition(":")
        found |= (
            {f"{place}{file.strip()}.py" for file in files.split(",") if file.strip()} if name.endswith("/") else set()
        )
    return found


def test_the_tree_names_every_file_and_no_other():
    files = [*(ROOT / "lipdiag").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    there = {path.relative_to(ROOT).as_posix() for path in files}
    assert named() == {path for path in there if not path.endswith(NOT_NAMED)}


def test_the_floors_are_those_that_are_kept():
    floors = re.findall(r"^\d+\. (.*)$", TEXT, re.MULTILINE)
    assert [set(floor.split(", ")) for floor in floors] == list(FLOORS[:-1])
