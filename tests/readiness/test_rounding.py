"""Difference quotients that are rounding: what is refused, what is told and where, and what is passed over."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import lipdiag
from lipdiag.cli.measure import Teller
from lipdiag.diffusion.clock import Shared, Timesteps
from lipdiag.errors import Caution, CheckpointError, LipdiagWarning
from tests.networks import Tiny, predictor
from tests.readiness.test_derivatives import DATA, QUOTIENT, Coarse, measure, notes

PLAN = QUOTIENT.replace(draws=2)


class Turning(nn.Module):
    """x times a cosine of the timestep, flat at `top`: K is |x| times the cosine's change."""

    def __init__(self, c, top=0.0):
        super().__init__()
        self.c, self.top = c, top

    def forward(self, x, timestep):
        return x * torch.cos((timestep - self.top) / self.c)[:, None, None, None]


class OneTime(Turning):
    """Reads one time off its batch."""

    def forward(self, x, timestep):
        return super().forward(x, timestep[:1])


class Straight(nn.Module):
    """x times the timestep: K = |x|."""

    def forward(self, x, timestep):
        return x * timestep[:, None, None, None]


def off(run, network):
    """How far the mean K of each timestep is from the closed form, relative to it."""
    k = run["timestep"].values
    true = np.abs(np.cos((k + 1 - network.top) / network.c) - np.cos((k - network.top) / network.c))
    x = measure(Straight(), PLAN.replace(timesteps=(*k,), dtype="float64"))
    return np.abs(run["time_difference"].values / x["time_difference"].values / true[:, None] - 1).mean(1)


def told(run):
    return [note for note in run.attrs["launches"][-1]["warnings"] if note.startswith("time_difference holds rounding")]


@pytest.mark.parametrize("network", [Turning(1e5), Turning(1e3), Turning(1e3, 500.0), OneTime(1e3, 500.0)])
def test_timesteps_whose_quotient_is_off_are_told_and_no_others(network):
    """By closed form, at all of the timesteps, also where the network is flat in the middle alone."""
    plan = PLAN.replace(timesteps=(0.0, 100.0, 300.0, 500.0, 600.0, 800.0, 900.0))
    with pytest.warns(LipdiagWarning, match=r"dtype='float64', a longer step=, or take time_derivative"):
        run = measure(network, plan)
    (note,) = told(run)
    wrong = off(run, network)
    named = note.partition(":")[0]
    for timestep, part in zip(plan.timesteps, wrong, strict=True):
        if abs(part - 0.02) > 0.01:
            assert (f" {timestep:g} (" in named or "to 900" in named) == (part > 0.02), (timestep, part, note)
    assert "(100%)" in note or network.c < 1e5
    assert run["time_difference"].notnull().all(), "what is told is shown all the same"
    fine = measure(network, plan.replace(dtype="float64"))
    assert off(fine, network).max() < 1e-5
    assert not told(fine)


def test_an_ordinary_network_and_shared_timesteps_are_not_told():
    assert not told(measure(Tiny(), QUOTIENT.replace(timesteps=tuple(range(0, 1000, 100)))))
    shared = predictor(clock=Shared(Timesteps(1000), 100.0, 5))
    found = lipdiag.measure(shared, DATA, QUOTIENT.replace(timesteps=(5.0,)), progress=False, probe=False, device="cpu")
    assert not found["time_difference"].any()
    assert not told(found)
    assert not notes(found), "a clock that shares says so itself"


def test_a_quotient_of_rounding_is_refused_and_one_that_holds_some_is_told():
    """Half precision over a hundredth of a timestep; float32 over a millionth; half precision over a whole one."""
    for network, plan in ((Coarse(), QUOTIENT.replace(step=0.01)), (Tiny(), QUOTIENT.replace(step=1e-6))):
        with pytest.raises(CheckpointError, match=r"time_difference divides by its step is mostly rounding.*step="):
            measure(network, plan)
    wide, truth = QUOTIENT.replace(step=1.0), measure(Tiny(), QUOTIENT)["time_difference"].mean("draw")
    found = measure(Coarse(), wide)
    if not told(found):
        np.testing.assert_allclose(found["time_difference"].mean("draw"), truth, rtol=0.02)
    assert told(measure(Coarse(torch.bfloat16), wide.replace(step=3.0)))


class Halved(nn.Module):
    """Scaled by a cosine in half precision, which is 1 for the first timesteps."""

    def forward(self, x, timestep):
        return x * torch.cos(timestep / 1000).half().to(x.dtype)[:, None, None, None]


def test_a_quotient_that_is_0_though_two_times_are_told_is_named():
    (note,) = notes(measure(Halved(), QUOTIENT.replace(timesteps=(5.0, 8.0))))
    assert note.startswith("time_difference is 0 at timesteps 5 and 8")


def test_warnings_are_told_where_notes_are_silenced(capsys):
    ready = SimpleNamespace(notes=[Caution("K is off"), "by forward mode"])
    Teller(True, None).say(ready, "the price")
    assert capsys.readouterr().err == "warning: K is off\n"
