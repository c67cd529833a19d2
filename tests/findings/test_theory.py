"""The target's curves from a dataset's coordinates, against the schedules themselves and an exact target."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.diffusion.clock import LogSigma, Sigma, Timesteps, Unit
from lipdiag.diffusion.exact import Empirical
from lipdiag.diffusion.schedule import SCHEDULES
from lipdiag.findings.theory import theory
from lipdiag.quantities import draw
from lipdiag.results.run import read
from tests.results.test_run import run_with

AXES = [
    ("linear", Timesteps()),
    ("squared_cosine", Timesteps()),
    ("zero_terminal_snr", Timesteps()),
    ("vp", Unit()),
    ("sub_vp", Unit()),
    ("cosine", Unit()),
    ("ve", Unit()),
    ("straight", Unit(1000.0)),
    ("karras", LogSigma(SCHEDULES["karras"]())),
]


def schedule_of(name: str):
    return SCHEDULES[name](SCHEDULES["linear"]()) if name == "zero_terminal_snr" else SCHEDULES[name]()


@pytest.mark.parametrize(("name", "clock"), AXES, ids=[name for name, _ in AXES])
def test_curves_follow_the_schedules_own_rates(name, clock):
    schedule = schedule_of(name)
    run = run_with(clock, schedule=schedule, timesteps="log:64")
    t = torch.from_numpy(run.time("t"))
    keep = run.time("t") < 0.9
    sigma, rate = schedule(t)[1].numpy(), np.abs(schedule.rates(t)[1].numpy() * run.time("dt_dtimestep"))
    found = theory(run, "time_derivative")
    np.testing.assert_allclose(found.schedule[keep], rate[keep], rtol=5e-3, atol=1e-3 * rate.max())
    np.testing.assert_allclose(found.points[keep], 2 * (rate / sigma)[keep], rtol=5e-3, atol=1e-3 * rate.max())
    other_t = torch.from_numpy(run.other[1])
    change = np.abs(schedule(other_t)[1].numpy() - sigma) / np.abs(run.other[0] - run.timestep)
    np.testing.assert_allclose(
        theory(run, "time_difference").schedule[keep], change[keep], rtol=1e-2, atol=1e-3 * change.max()
    )


def test_few_times_are_enough_where_the_signal_is_not_scaled():
    """sigma itself is the clock, and its change over a thousandth of the whole path is that of its formula."""
    schedule = SCHEDULES["ve"](0.008, 0.588)
    run = run_with(Sigma(schedule), schedule=schedule, timesteps="0.0081,0.011,0.05,0.2,0.588")
    t = run.time("t")
    ratio = (0.588 / 0.008) ** np.where(t + 1e-3 <= 1, 1e-3, -1e-3)
    points = 2 * np.abs(1 - 1 / ratio) / np.abs(ratio - 1) / run.timestep
    found = theory(run, "time_difference")
    np.testing.assert_allclose(found.points, points, rtol=1e-3)
    np.testing.assert_allclose(found.schedule, 1, rtol=1e-3)


def test_one_point_at_the_origin_has_exactly_the_curve_for_points():
    """There eps* = x / sigma, so that K of a draw is its noise's norm times the curve over sqrt(d)."""
    predictor = Empirical(torch.zeros(1, 6, dtype=torch.float64), SCHEDULES["linear"](), Timesteps())
    plan = lipdiag.Plan(timesteps=(0, 1, 2, 5, 10, 50, 300), draws=4, quantities=("time_difference",), dtype="float64")
    dataset = lipdiag.measure(predictor, data=np.zeros((1, 6)), plan=plan, progress=False)
    (run,) = read([dataset])
    norms = np.array([draw.noise(plan.seed, i, (6,)).norm().item() for i in range(4)])
    curve = theory(run, "time_difference").points
    np.testing.assert_allclose(dataset["time_difference"].values, curve[:, None] * norms / np.sqrt(6), rtol=2e-3)


def test_too_few_times_or_an_unknown_shape_give_no_theory():
    assert theory(run_with(Timesteps(), timesteps="0,1,2"), "time_difference") is None
    run = run_with(Timesteps())
    run.dataset.attrs["frozen"]["model"].pop("shape")
    assert theory(read([run.dataset])[0], "time_difference") is None


@pytest.mark.parametrize(("name", "clock"), AXES[:-1], ids=[name for name, _ in AXES[:-1]])
def test_between_the_measured_times_the_curves_follow_the_schedule_too(name, clock):
    schedule = schedule_of(name)
    run = run_with(clock, schedule=schedule, timesteps="log:24")
    for variable in ("time_derivative", "time_difference"):
        at, fine = theory(run, variable), theory(run, variable, between=True)
        measured = np.isin(fine.timestep.round(9), run.timestep.round(9))
        assert fine.timestep.size > 4 * run.timestep.size >= 4 * measured.sum()
        keep = (run.time("t") < 0.9) & (run.time("t") > 0)
        at_measured = np.interp(run.timestep[keep], fine.timestep, fine.points)
        np.testing.assert_allclose(at_measured, at.points[keep], rtol=1e-3, atol=1e-4 * np.nanmax(at.points))
        if variable == "time_derivative":
            t = fine.timestep * run.time("dt_dtimestep")[0] + (1e-3 if run.discrete else 0)
            exact = np.abs(schedule.rates(torch.from_numpy(t))[1].numpy() * run.time("dt_dtimestep")[0])
            inside = (t < 0.8) & (t > run.time("t")[1])
            np.testing.assert_allclose(fine.schedule[inside], exact[inside], rtol=0.03, atol=0.01 * exact[inside].max())
