"""The tests can fail: known bugs are caught."""

import ast
import json
import subprocess
import sys

import pytest

from tests.safety.mutation import BUGS, SAMPLE, WITHOUT
from tests.safety.test_survival import ALONE, ROOT


def caught(names):
    process = subprocess.run(
        [sys.executable, "-m", "tests.safety.mutation", *names],
        capture_output=True, text=True, cwd=ROOT, env=ALONE, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(found) == len(names), process.stderr[-2000:]
    return {line["bug"]: line["caught"] for line in found}


def test_three_known_bugs_are_caught_and_the_code_as_it_is_is_not():
    as_it_is = WITHOUT + SAMPLE[0]
    assert caught([*SAMPLE, as_it_is]) == {**dict.fromkeys(SAMPLE, True), as_it_is: False}


@pytest.mark.parametrize("name", BUGS)
def test_every_known_bug_is_still_one_in_todays_code(name):
    bug = BUGS[name]
    text = (ROOT / "lipdiag" / bug.file).read_text()
    assert bug.old in text
    assert ast.dump(ast.parse(text.replace(bug.old, bug.new, 1))) != ast.dump(ast.parse(text))


@pytest.mark.slow
def test_every_known_bug_is_caught():
    found = caught(list(BUGS))
    assert [name for name, is_caught in found.items() if not is_caught] == []


@pytest.mark.slow
def test_what_catches_them_passes_on_the_code_as_it_is():
    """Tests that fail anyway would catch anything."""
    selections = {bug.tests: WITHOUT + name for name, bug in BUGS.items()}
    found = caught(list(selections.values()))
    assert [name for name, is_caught in found.items() if is_caught] == []
