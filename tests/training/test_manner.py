"""What is left to the device: decided by it alone, and said where it lacks what was asked for."""

import dataclasses

import pytest
import torch

from lipdiag.training import manner as module
from lipdiag.training.manner import Manner, manner, repeatable

CARD = torch.device("cuda")


@pytest.mark.parametrize(
    ("changes", "able", "expected", "sentences"),
    [
        ({}, True, Manner("bfloat16", None, 1.0), 0),
        ({}, False, Manner("float32", None, 1.0), 1),
        ({"precision": "bfloat16"}, False, Manner("float32", None, 1.0), 1),
        ({"precision": "float32"}, False, Manner("float32", None, 1.0), 0),
        ({"precision": "float32", "compile": True}, True, Manner("float32", True, 1.0), 0),
        ({"penalty": 1.0}, True, Manner("bfloat16", False, 1.0), 0),
    ],
)
def test_a_card_computes_in_bfloat16_where_it_has_it(recipe, monkeypatch, capsys, changes, able, expected, sentences):
    monkeypatch.setattr(module, "computes_in_bfloat16", lambda device: able)
    assert manner(dataclasses.replace(recipe, **changes), CARD) == expected
    said = capsys.readouterr().err
    assert said.count("\n") == said.count("does not compute in bfloat16") == sentences


def test_a_processor_does_only_what_it_is_asked_for(recipe, capsys):
    here = torch.device("cpu")
    assert manner(recipe, here) == Manner("float32", False, 0.0)
    asked = dataclasses.replace(recipe, precision="bfloat16", compile=True)
    assert manner(asked, here) == Manner("bfloat16", True, 0.0)
    assert capsys.readouterr().err == ""


def test_kernels_of_a_card_do_not_race_while_a_step_computes():
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    with repeatable(CARD):
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
    assert (cudnn.benchmark, cudnn.deterministic) == before
    with repeatable(torch.device("cpu")):
        assert (cudnn.benchmark, cudnn.deterministic) == before
