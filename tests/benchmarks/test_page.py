"""The page of a device, made whole on the CPU of a network of three layers; the parts of a report add up."""

import json
import math
import time

import pytest
import torch
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import page
from benchmarks.networks import Subject
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear
from lipdiag.quantities import draw
from tests.networks import Tiny


def tiny(device="cpu"):
    shape = (1, 8, 8)  # that of the embedded network
    model = NetworkPredictor(Tiny(), Linear(), eps, Timesteps(1000), shape).eval().requires_grad_(False).to(device)
    return Subject("tiny", True, False, model, lambda i: draw.noise(0, i, shape))


@pytest.fixture
def made(monkeypatch):
    """The page with a network that is fast; `lipdiag measure` is run on the embedded one."""
    monkeypatch.setitem(page.SUBJECTS, "digits", tiny)
    found = page.Page(torch.device("cpu"), time.monotonic() + 300, matrix=64)
    jobs = list(found.jobs(["digits"], {"digits": (8, 4)}, ("0,500", 2), rounds=1))
    assert list(found.run(jobs)) == [label for label, _ in jobs]
    return found


def test_the_page_holds_every_part_and_fits_a_terminal(made):
    digits = made.networks["digits"]
    assert [row.pairs for row in digits.rows] == [8, 4]
    for row in digits.rows:
        parts = row.first_jvp + row.first_vjp + row.rest
        assert 0 < parts < row.passes
        assert row.flop > 0
        assert row.told == pytest.approx(row.peak, rel=0.2)
        assert row.floor >= 2 * 8 + 4
    assert [p.products for p in digits.products] == ["ieee", "tf32", "3xtf32"]
    assert digits.products[0].difference == 0 < digits.products[2].difference < digits.products[1].difference < 1e-2
    assert all(p.width <= 0.06 for p in digits.products)
    deepinv = digits.rivals.pop("deepinv, an iteration of 4")
    assert math.isnan(deepinv) or deepinv > 0  # where it is not installed, and where it is
    assert len(digits.rivals) == 4
    assert all(passes > 0 for passes in digits.rivals.values())
    assert all(spent > 1 for spent in digits.wall.values())
    lines = made.text("python -m benchmarks").splitlines()
    assert max(map(len, lines[1:])) <= 80
    assert json.loads(json.dumps(made.record()))["networks"]["digits"]["rows"][0]["pairs"] == 8


def test_what_does_not_fit_is_said_and_what_comes_too_late_is_left_out(monkeypatch):
    def lacking(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(page.SUBJECTS, "digits", tiny)
    for name in ("row", "by_products", "rivals_of"):
        monkeypatch.setattr(page, name, lacking)
    monkeypatch.setattr(page, "wall_clock", lambda *_: 1.0)
    found = page.Page(torch.device("cpu"), time.monotonic() + 300, matrix=8)
    list(found.run(list(found.jobs(["digits"], {"digits": (8,)}, ("0", 1), 1))))
    assert "8 pairs: out of memory" in found.text("x")
    late = page.Page(torch.device("cpu"), time.monotonic() - 1)
    assert list(late.run(list(late.jobs(["digits"], {"digits": (8,)}, ("0", 1), 1))))
    assert not late.networks


def test_the_command_makes_the_page_of_a_device(monkeypatch):
    monkeypatch.setitem(page.SUBJECTS, "digits", tiny)
    outcome = CliRunner().invoke(
        command.main, ["--device", "cpu", "--quick", "--json", "--minutes", "1e-9"], catch_exceptions=False
    )
    assert outcome.exit_code == 0
    assert json.loads(outcome.stdout)["networks"] == {}


def test_large_networks_have_the_size_that_is_said():
    """By diffusers itself, without weights."""
    sizes = {}
    for name, make in page.LARGE_SUBJECTS.items():
        subject = make(device="meta")
        sizes[name] = subject.parameters
        assert subject.predictor.shape[0] == 4
    assert 6e8 < sizes["dit"] < 8e8
    assert 8.5e8 < sizes["sd"] < 8.7e8
