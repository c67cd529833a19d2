"""The table of advice on closed forms: what its rows say, and that they say it of the models."""

import numpy as np
import pytest
import torch

from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import VP, Linear
from lipdiag.statistics import Estimate
from lipdiag.tuning import oracles
from lipdiag.tuning.oracles import Row, bias, sampling, sharing


def plane(schedule):
    return dict(oracles.oracles(schedule))["plane"]


def test_the_usual_grid_is_kept_where_nothing_better_was_found(monkeypatch):
    monkeypatch.setattr(oracles, "better", lambda against: False)
    monkeypatch.setattr("lipdiag.advice.choice.better", lambda against: False)
    rows = list(sampling("plane", plane(VP()), "ddim", (4,), 16))
    assert {row.verdict for row in rows} <= {"kept", "equal", "worse"}
    assert rows[1].verdict == "kept"
    assert rows[1].against.value < 1  # that of the grid that was fitted, and not 1


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.5, 0.9, "better"), (0.9, 1.1, "equal"), (1.1, 1.2, "worse"), (1.0, 1.0, "equal")]
)
def test_a_verdict_is_what_the_interval_says(low, high, verdict):
    row = Row("plane", "ddim, 5 steps", "best uniform", Estimate((low + high) / 2, low, high, 9))
    assert row.verdict == verdict
    assert str(row).endswith(verdict)
    assert len(str(row)) <= 90


def test_the_bias_of_blocks_is_that_of_the_formula():
    """For N(0, v I) eps is a multiple s / (a^2 v + s^2) of x."""
    v, d, edges = 0.01, 400, (0, 10, 40, 100)
    model = Gaussian(torch.zeros(d), torch.full((d,), v), Linear(), Timesteps(1000))
    t = torch.arange(1, 101, dtype=torch.float64) / 1000
    alpha, sigma = model.schedule(t)
    slope, size = sigma / (alpha**2 * v + sigma**2), (d * (alpha**2 * v + sigma**2)).sqrt()
    told = slope[torch.tensor([edges[np.searchsorted(edges, k, side="right") - 1] for k in range(100)])]
    expected = ((told - slope).abs() * size).max()
    assert bias(model, edges).mean() == pytest.approx(float(expected), rel=0.01)


def test_sharing_is_better_than_equal_blocks(monkeypatch):
    monkeypatch.setattr(oracles, "DRAWS", 32)
    row = sharing("plane", plane(Linear()))
    assert row.verdict == "better"
    assert row.against.value < 0.3


def test_times_are_better_than_uniform_and_than_published_ones():
    uniform, published = sampling("plane", plane(VP()), "dpm", (10,), 16)
    assert uniform.usual == "best uniform"
    assert published.usual == "best published"
    assert uniform.against.value <= published.against.value < 0.3
    assert uniform.verdict == published.verdict == "better"
