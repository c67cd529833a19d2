"""Which two times the difference quotient compares."""

import pytest
import torch

from lipdiag.diffusion.clock import LogSNR, Sigma, Timesteps, Unit
from lipdiag.diffusion.schedule import VE, VP
from lipdiag.study.quantity import other_time


@pytest.mark.parametrize("clock", [Timesteps(1000), Unit(1000.0), Sigma(VE()), LogSNR(VP(0.1, 20.0))], ids=str)
@pytest.mark.parametrize("step", [0.5, -0.5, 1.0, -1.0])
def test_the_other_time_is_one_step_away_and_told_as_such(clock, step):
    """At both ends too, where a clock that has no time beyond would tell its last one."""
    timestep = clock(torch.tensor([1e-3, 0.25, 0.5, 1.0], dtype=torch.float64))
    other = other_time(clock, timestep, step)
    torch.testing.assert_close((other - timestep).abs(), torch.full_like(timestep, abs(step)))
    torch.testing.assert_close(clock(clock.time(other)), other, rtol=1e-9, atol=1e-7)
