"""A device by its name, and what is said of one that is not as it was told."""

import os

import pytest
import torch

from lipdiag.errors import IncompleteError, UsageError
from lipdiag.study.device import resolve_device


def test_the_current_card_is_told_by_its_number(monkeypatch):
    """A thread of its own has another current card, so that `cuda` would be two devices."""

    class Empty:
        device = torch.device("cuda", 1)
        cpu = list

    monkeypatch.setattr(torch, "empty", lambda n, device: Empty)
    assert resolve_device("cuda") == torch.device("cuda", 1)
    monkeypatch.undo()
    assert resolve_device("cpu") == torch.device("cpu")


def test_products_that_repeat_their_bits_are_asked_for_before_the_card_is_used(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    resolve_device("cpu")
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    resolve_device("cpu", deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(
    ("error", "refusal", "said"),
    [
        (torch.AcceleratorError("CUDA error: invalid device ordinal\nGPU"), UsageError, "'cuda' is not at hand"),
        (RuntimeError("No CUDA GPUs are available"), UsageError, "'cuda' is not at hand"),
        (torch.AcceleratorError("CUDA error: out of memory"), IncompleteError, "out of memory on cuda: .* free it"),
        (
            torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
            IncompleteError,
            "the device cuda failed with .* unavailable",
        ),
    ],
)
def test_a_card_that_is_full_is_not_said_to_be_none(monkeypatch, error, refusal, said):
    def empty(n, device):
        raise error

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(refusal, match=said):
        resolve_device("cuda")
