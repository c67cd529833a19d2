"""The common grids, against the libraries that have them."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules

from lipdiag.advice.grids import Axis, common, improved
from lipdiag.diffusion.schedule import Linear, ScaledLinear
from lipdiag.sampling.sampler import leading


def index(schedule=None) -> Axis:
    t = np.arange(1, 1001) / 1000
    alpha, sigma = (schedule or Linear())(torch.from_numpy(t))
    return Axis(t, (sigma / alpha).numpy(), 1000)


def levels() -> Axis:
    """sigma from 0.002 to 80, told by its own quantile of log sigma."""
    t = np.linspace(0, 1, 4001)
    return Axis(t, 0.002 * 40000**t)


def indices(axis, steps, name):
    return np.round(common(axis, steps)[name] * 1000 - 1).astype(int).tolist()


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_uniform_grids_are_those_of_diffusers(steps, spacing):
    scheduler = diffusers.DDIMScheduler(1000, timestep_spacing=spacing, steps_offset=0)
    scheduler.set_timesteps(steps)
    found = indices(index(), steps, f"uniform, {spacing}")
    np.testing.assert_allclose(found, scheduler.timesteps, rtol=0, atol=spacing == "linspace")  # halves are rounded
    if spacing == "leading":
        assert indices(index(), steps, "uniform, leading") == leading(1000, steps)


def test_karras_levels_are_those_of_the_paper():
    axis, i = levels(), np.arange(10)
    expected = (80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(np.exp(axis.place(common(axis, 10)["Karras"])), expected, rtol=1e-6)


def test_log_snr_levels_are_geometric():
    axis = levels()
    np.testing.assert_allclose(np.exp(axis.place(common(axis, 9)["log-SNR"])), np.geomspace(80, 0.002, 9), rtol=1e-6)


@pytest.mark.parametrize(("name", "schedule"), [("AYS, SD 1.5", "StableDiffusion"), ("AYS, SDXL", "StableDiffusionXL")])
def test_tables_are_the_published_ones(name, schedule):
    known = {"StableDiffusion": ("StableDiffusionTimesteps", "StableDiffusionSigmas")}
    known["StableDiffusionXL"] = ("StableDiffusionXLTimesteps", "StableDiffusionXLSigmas")
    timesteps, sigmas = (AysSchedules[key] for key in known[schedule])
    assert indices(index(ScaledLinear()), 10, name) == timesteps
    t = np.linspace(0, 1, 4001)
    axis = Axis(t, 0.029 * (sigmas[0] / 0.029) ** t)  # the published ends, of which diffusers has 0 for the second
    np.testing.assert_allclose(np.exp(axis.place(common(axis, 10)[name])), sigmas[:-1], rtol=1e-6)


@pytest.mark.parametrize("axis", [index(), levels()], ids=["index", "levels"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 300])
def test_every_grid_falls_strictly_and_has_as_many_times_as_steps(axis, steps):
    for name, t in common(axis, steps).items():
        assert t.shape == (steps,), name
        assert (np.diff(t) < 0).all(), name
        assert axis.t[0] <= t[-1], name
        assert t[0] <= axis.t[-1], name


def test_timesteps_of_a_table_are_whole_and_all_different():
    axis = index()
    assert np.round(axis.at(np.full(4, 1e-3)) * 1000).tolist() == [4, 3, 2, 1]
    assert np.round(axis.at(np.ones(3)) * 1000).tolist() == [1000, 999, 998]
    assert np.round(common(axis, 1000)["Karras"] * 1000).tolist() == list(range(1000, 0, -1))


def test_a_grid_is_moved_to_where_its_score_is_least():
    """A score of known minimum: nothing but its values is used."""
    axis = levels()
    wanted, scores = np.array([0.9, 0.62, 0.3, 0.12]), []

    def score(t):
        scores.append(float(np.abs(t - wanted).sum()))
        return scores[-1]

    found = improved(axis, common(axis, 4)["log-SNR"], score, 200)
    assert np.abs(found - wanted).sum() == min(scores)
    assert min(scores) < 0.4 * scores[0]
    count = len(scores)
    improved(axis, common(axis, 4)["log-SNR"], score, 7)
    assert len(scores) - count == 8  # where it begins, and 7 trials


def test_moving_far_from_a_time_leaves_it():
    axis = levels()
    t = common(axis, 8)["log-SNR"]
    moved = axis.shifted(t, 2, 1.0, 0.5)
    assert (moved != t).tolist() == [i == 2 for i in range(8)]
    assert moved[2] == pytest.approx((t[1] + t[2]) / 2)


def test_a_grid_is_moved_as_a_whole_where_its_window_is_wrong():
    """20 times of which half lie where nothing happens, by fewer trials than each time would need of its own."""
    axis = levels()
    begin, wanted = np.linspace(0.98, 0.02, 20), np.linspace(0.6, 0.02, 20)

    def score(t):
        assert (np.diff(t) < 0).all()  # no sampler divides by a step of none
        return float(np.abs(t - wanted).max())

    assert score(improved(axis, begin, score, 40)) < 0.3 * score(begin)
