"""Micro-batches put together again."""

import numpy as np
import pytest
import torch

from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.predictor import Predictor
from lipdiag.diffusion.schedule import Linear
from lipdiag.study import microbatch
from lipdiag.study.microbatch import in_batches, pair_seconds


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 100])
def test_every_pair_is_measured_once_and_lies_in_its_place(batch):
    """A variable that names its own timestep and draw."""
    seen = []

    def measure(timesteps, draws):
        assert len(timesteps) * len(draws) <= batch
        seen.extend((k, i) for k in timesteps for i in draws)
        return {"k": np.array([[100 * k + i for i in draws] for k in timesteps])}

    found, size, why = in_batches(measure, [3.0, 1.0, 2.0], range(4, 9), batch)
    assert (size, why) == (batch, "")
    np.testing.assert_array_equal(found["k"], 100 * np.array([[3.0], [1.0], [2.0]]) + np.arange(4, 9))
    assert len(seen) == len(set(seen)) == 15


class Counted(Predictor):
    """Notes how many samples it is asked for."""

    def __init__(self):
        super().__init__(Linear(), Timesteps(), (1,))
        self.asked = []

    def conditioned(self, x, t, timestep):
        self.asked.append(len(x))
        return x


@pytest.mark.parametrize(("pair", "asked"), [(0.01, [1, 8, 8, 8]), (0.1, [1, 8, 8]), (0.2, [1, 8]), (2.0, [1, 1])])
def test_a_pass_that_takes_a_second_is_timed_once(monkeypatch, pair, asked):
    """By a clock that goes on by so many seconds a sample."""
    model, x, t = Counted(), torch.zeros(8, 1), torch.full((8,), 0.5, dtype=torch.float64)
    monkeypatch.setattr(microbatch.time, "perf_counter", lambda: pair * sum(model.asked))
    assert pair_seconds(model, x, t, 4) == pytest.approx(pair)
    assert model.asked == asked
