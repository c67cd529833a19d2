"""What a result looks like to its reader, and what pandas and JSON get of it."""

import json
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

import lipdiag
from lipdiag.cli import main
from lipdiag.view import View, as_html


@dataclass(frozen=True, repr=False)
class Found(View):
    values: tuple[float, ...]

    def rows(self):
        return [{"name": f"<b>{i}</b>", "value": value} for i, value in enumerate(self.values)]

    def to_dict(self):
        return {"values": list(self.values)}

    def said(self):
        return ["A sentence about it."]


def test_a_terminal_an_interpreter_and_a_notebook_show_the_same_table():
    found = Found((0.123456789, 2.0))
    assert str(found).splitlines() == [
        "name      value",
        "<b>0</b>  0.123",
        "<b>1</b>   2.00",
        "",
        "A sentence about it.",
    ]
    assert repr(found) == str(found)
    page = found._repr_html_()
    assert "<td>0.123</td>" in page
    assert "<p>A sentence about it.</p>" in page
    assert "<b>" not in page  # a stranger's name is text
    assert "&lt;b&gt;0&lt;/b&gt;" in page


def test_pandas_and_json_get_every_digit(tmp_path):
    found = Found((0.123456789, 2.0))
    assert found.to_dataframe()["value"].tolist() == [0.123456789, 2.0]
    assert json.loads(found.to_json(tmp_path / "found.json")) == {"values": [0.123456789, 2.0]}
    assert json.loads((tmp_path / "found.json").read_text()) == {"values": [0.123456789, 2.0]}
    with pytest.raises(ValueError, match="JSON"):
        Found((float("nan"),)).to_json()


def test_nothing_found_is_no_table():
    assert str(Found(())) == "A sentence about it."
    assert as_html([]) == ""


def test_an_inspection_reads_as_the_command_prints_it():
    found = lipdiag.inspect("digits-etsdm")
    assert str(found) == repr(found) == CliRunner().invoke(main, ["inspect", "digits-etsdm"]).output.rstrip("\n")
    told = dict(zip(found.to_dataframe()["fact"], found.to_dataframe()["value"], strict=True))
    assert told["clock"] == "shared(timesteps(1000), 100, 5)"
    assert "<td>clock</td><td>shared(timesteps(1000), 100, 5)</td>" in found._repr_html_()
    assert json.loads(found.to_json())["parameters"] == found.parameters
