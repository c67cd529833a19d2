"""Plans: which times and draws a text stands for, and what is refused."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.plan import Plan, decimal, integer, logarithmic, resolve_timesteps
from lipdiag.diffusion.clock import LogSigma, LogSNR, Reversed, Shared, Sigma, Timesteps, Unit
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import VE, VP, Cosine, Karras, Linear, Straight
from lipdiag.errors import RunError, UsageError
from lipdiag.quantities.accuracy import Accuracy


def test_a_plan_is_written_and_told_as_ever():
    """In the order of its arguments, and as the text that runs hold since the first version."""
    plan = Plan("0,5", 4, ("loss",), None, 9, step=2.0)
    assert plan.json() == (
        '{"batch": null, "certified_width": 0.05, "confidence": 0.99, "draws": 4, "dtype": "float32", '
        '"krylov_steps": 64, "max_draws": 9, "probes": 2, "products": "ieee", "quantities": ["loss"], '
        '"ranks": 5, "seed": 0, "step": 2.0, "timesteps": "0,5", "tolerance": null}'
    )
    assert plan.accuracy == Accuracy(step=2.0)


def test_numbers_of_other_kinds_are_pythons_own_in_a_plan():
    """So that they can be written, and the text that a run holds is the same."""
    for kind in (np.int64, np.uint8):
        assert type(integer("draws", kind(4))) is int
    for number in (np.float32(2), np.int16(2), torch.tensor(2), 2):
        assert (type(decimal("step", number)), decimal("step", number)) == (float, 2.0)
    plan = Plan("0,5", tolerance=np.float64(0.5), confidence=np.float64(0.9))
    assert (type(plan.tolerance), type(plan.confidence)) == (float, float)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("draws", True, "it must be a whole number, at least 1$"),
        ("draws", 0, "it must be at least 1$"),
        ("batch", True, "it must be a whole number, at least 1, or auto$"),
        ("batch", "many", "at least 1, or auto$"),
        ("seed", -1, "it must be at least 0$"),
        ("tolerance", True, "it must be a number$"),
    ],
)
def test_what_is_no_number_is_no_field_of_a_plan(field, value, said):
    with pytest.raises(UsageError, match=said):
        Plan(**{field: value})
    for strange in (2.5, None, "2", np.array([4])):
        with pytest.raises(UsageError, match="a whole number"):
            integer("draws", strange)


@pytest.mark.parametrize("number", [1, 2, 7, 64, 300, 999, 1000, 5000])
def test_log_gives_distinct_integers_with_both_ends(number):
    found = logarithmic(number, Timesteps(1000))
    assert len(found) == min(number, 1000)
    assert len(set(found)) == len(found)
    assert (found == np.round(found)).all()
    assert found[0] == 0
    if number > 1:
        assert found[-1] == 999


def test_log_is_even_in_log_time_where_integers_allow_it():
    found = logarithmic(64, Timesteps(100_000)) + 1
    steps = np.diff(np.log(found[found > 100]))
    assert steps.max() / steps.min() < 1.2


def test_a_shared_clock_gets_the_end_of_each_block():
    found = logarithmic(32, Shared(Timesteps(1000), 100, 5))
    assert {19, 39, 59, 79, 99} <= set(found)
    assert len(set(found)) == 32
    assert found[0] == 0
    assert found[-1] == 999
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", [5]), ("10,0,20", [0, 10, 20]), ("0:100:25", [0, 25, 50, 75]), ((7.0, 3.0), [3, 7])],
)
def test_lists_and_ranges(text, expected):
    assert resolve_timesteps(text, Timesteps(1000)).tolist() == expected


@pytest.mark.parametrize("clock", [Shared(Reversed(Timesteps(1000)), 899, 7), Reversed(Timesteps(1000))], ids=str)
def test_an_index_that_is_read_backwards_has_integers_and_its_jumps(clock):
    """K of timestep k reaches to k + 1, nearer to the data: over an edge from the last one outside of a block."""
    found = resolve_timesteps("log:40", clock)
    assert (found == np.round(found)).all()
    assert (found[0], found[-1], len(found)) == (999, 0, 40)
    assert (np.diff(found) < 0).all()
    assert set(getattr(clock, "bounds", ())[1:]) <= set(found)


@pytest.mark.parametrize(
    ("clock", "schedule"),
    [
        (Sigma(VE()), VE()), (LogSigma(Karras()), Karras()), (LogSNR(VP()), VP()), (Unit(), Straight()),
        (Reversed(Unit()), Straight()), (Shared(Unit(), 0.1, 5), Cosine()), (Unit(1000.0), Linear()),
    ],
    ids=str,
)  # fmt: skip
def test_times_of_a_continuous_clock_are_even_in_log_snr(clock, schedule):
    timesteps = resolve_timesteps("log:64", clock, schedule)
    t = clock.time(torch.from_numpy(timesteps))
    np.testing.assert_allclose(t[[0, -1]], [1e-3, 0.999], rtol=1e-9)
    steps = np.diff(schedule.logsnr(t).numpy())
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-4)
    assert len(set(timesteps)) == 64
    assert resolve_timesteps("log:1", clock, schedule).size == 1


@pytest.mark.parametrize(
    ("schedule", "below", "share"), [(VE(0.005, 50), 0.0083, 1 / 8), (Karras(), 0.1, 1 / 2)], ids=str
)
def test_no_more_of_the_noise_levels_than_their_share_lie_near_the_data(schedule, below, share):
    """Of VE's and EDM's: 39 and 46 of 64 did when the grid was even in the logarithm of t."""
    found = resolve_timesteps("log:64", Sigma(schedule), schedule)
    assert (found < below).sum() < share * 64
    assert (found < below).sum() >= 1


def test_a_run_of_the_former_grid_is_gone_on_with(tmp_path):
    """Even in log t for a continuous clock, before it was in log-SNR; a new run has the new one."""
    network = NetworkPredictor(lambda x, t: x * t[:, None], Straight(), eps, Unit(), (3,))
    former = tuple(np.geomspace(1e-3, 0.999, 8))
    plan, data = Plan(timesteps=former, draws=1, quantities=("loss", "pairs")), np.ones((2, 3), np.float32)
    old = lipdiag.measure(network, data, plan, tmp_path / "old.zarr", progress=False, probe=False)
    more = plan.replace(timesteps="log:8", draws=2)
    found = lipdiag.measure(network, data, more, tmp_path / "old.zarr", progress=False, probe=False)
    np.testing.assert_array_equal(found["timestep"], old["timestep"])
    np.testing.assert_array_equal(found["pair_difference"].values[:, :1], old["pair_difference"].values)
    np.testing.assert_array_equal(np.diagonal(found["pair_difference"].values[:, 1]), 0)
    new = lipdiag.measure(network, data, more, tmp_path / "new.zarr", progress=False, probe=False)
    np.testing.assert_allclose(np.diff(new["logsnr"]), np.diff(new["logsnr"]).mean())
    with pytest.raises(RunError, match="timesteps"):
        lipdiag.measure(network, data, plan, tmp_path / "new.zarr", progress=False, probe=False)


def test_times_of_a_continuous_clock_are_even_in_log_where_no_schedule_is_known():
    found = resolve_timesteps("log:10", Unit())
    np.testing.assert_allclose(np.diff(np.log(found)), np.log(found[-1] / found[0]) / 9)


@pytest.mark.parametrize("text", ["", "a,b", "1:2", "0:10:0", "log:", "log:0", "log:x", "1000", "-2", "nan", "3,3"])
def test_bad_times_are_refused(text):
    with pytest.raises(UsageError, match=r"timestep"):
        resolve_timesteps(text, Timesteps(1000))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantities": ("time_derivativ",)}, "known are"),
        ({"quantities": ()}, "at least one"),
        ({"draws": 0}, "draws is 0"),
        ({"tolerance": 5.0}, "between 0 and 1"),
        ({"dtype": "int8"}, "float32 or float64"),
        ({"certified_width": 0.0}, "positive"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"step": 0.0}, "must differ"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_bad_plans_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        Plan(**changes)


def test_a_variable_names_its_quantity():
    assert Plan(quantities=("denoising_bound", "one_sided_lipschitz")).quantities == ("one_sided_lipschitz",)


@pytest.mark.parametrize(
    "timesteps",
    ["0:1e18:1", "0:1000:0.0001", "0:inf:1", "nan:1000:1", "1000:0:-1e-9", "log:1000000000", (0.5,) * 70_000],
)
def test_more_timesteps_than_a_run_can_have_are_not_counted_out(timesteps):
    with pytest.raises(UsageError, match="a run has at most 65536"):
        resolve_timesteps(timesteps, Timesteps(10**9))


def test_pairs_are_each_timestep_and_the_next():
    assert resolve_timesteps("pairs:3", Timesteps(1000)).tolist() == [0, 1, 31, 32, 999]
    assert resolve_timesteps("pairs:2", Timesteps(2)).tolist() == [0, 1]
    assert resolve_timesteps("pairs:3", Unit()).size == 6
