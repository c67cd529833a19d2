"""What is read from a dataset's text and coordinates, against the torch objects that wrote them."""

import json
import shutil

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.description import coordinates
from lipdiag.design.plan import resolve_timesteps
from lipdiag.diffusion.clock import Clock, LogSigma, LogSNR, Reversed, Shared, Sigma, Timesteps, Unit
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import SCHEDULES
from lipdiag.diffusion.spelling import spell
from lipdiag.errors import RunError
from lipdiag.quantities.time import other_time
from lipdiag.results.run import Run, read, sharing
from tests.runs import dataset_of

VP, KARRAS = SCHEDULES["vp"](), SCHEDULES["karras"]()
CLOCKS = [
    Timesteps(),
    Timesteps(250),
    Unit(),
    Unit(1000.0),
    Sigma(KARRAS),
    LogSigma(VP),
    LogSNR(VP),
    Shared(Timesteps(), 100.0, 5),
    Shared(Timesteps(), 100.0, 7),
    Shared(Timesteps(), edges=(0.0, 5.0, 15.0, 40.0, 100.0)),
    Shared(Unit(), 0.1, 4),
]


def run_with(clock: Clock, step: float | None = None, timesteps: str = "log:40", schedule=VP) -> Run:
    """A run whose time axis is real and whose values are all 1."""
    predictor = Gaussian(torch.zeros(4), torch.ones(4), schedule, clock)
    axis = coordinates(predictor, resolve_timesteps(timesteps, clock))
    model = {"clock": spell(clock), "schedule": spell(schedule), "shape": [4]}
    (run,) = read([dataset_of({name: values for name, (values, _) in axis.items()}, model, step, clock.unit)])
    return run


@pytest.mark.parametrize("clock", CLOCKS, ids=spell)
def test_blocks_are_read_from_the_clocks_spelling(clock):
    base, edges = sharing(spell(clock))
    assert base == spell(clock.base)
    assert edges == (tuple(clock.bounds) if isinstance(clock, Shared) else ())


@pytest.mark.parametrize("text", ["", "shared", "shared(", "my clock", "f(1)[2]", "shared(timesteps(), blocks=f(2))"])
def test_a_clock_that_cannot_be_read_shares_nothing(text):
    assert sharing(text) == (text, ())


def test_keywords_are_read_as_positions():
    assert sharing("shared(clock=timesteps(1000), end=40, blocks=2)") == ("timesteps(1000)", (0.0, 20.0, 40.0))


@pytest.mark.parametrize("step", [None, 5.0, -1.0])
@pytest.mark.parametrize("clock", CLOCKS, ids=spell)
def test_second_times_of_the_quotient_are_those_that_were_measured(clock, step):
    if step is not None and not clock.discrete:
        step = 1e-4 * abs(step)
    run = run_with(clock, step)
    truth = other_time(clock, torch.from_numpy(run.timestep), step)
    # between measured points another clock's time is interpolated
    exact = clock.discrete or isinstance(clock.base, Unit)
    scale = np.abs(truth.numpy() - run.timestep)
    np.testing.assert_allclose((run.other[0] - truth.numpy()) / scale, 0, atol=1e-6 if exact else 1e-2)
    if exact:
        np.testing.assert_allclose(run.other[1], clock.base.time(truth).numpy(), atol=1e-9)


@pytest.mark.parametrize("clock", [clock for clock in CLOCKS if isinstance(clock, Shared)], ids=spell)
def test_jumps_are_where_the_clock_tells_the_two_times_apart(clock):
    """Below the end of sharing; beyond it a clock tells all times apart, and none is a jump."""
    run = run_with(clock, timesteps="0:130:1" if clock.discrete else "0.001:0.14:0.0005")
    told, other = (clock(clock.base.time(torch.from_numpy(k))).numpy() for k in (run.timestep, run.other[0]))
    below = run.timestep < clock.bounds[-1]
    np.testing.assert_array_equal(run.jumps, below & (told != other))
    assert run.jumps.sum() == (len(clock.bounds) - 1) * (1 if clock.discrete else 2)
    assert run.missing_jumps == ()


FALLING = [
    Shared(Reversed(Unit()), 0.9, 4),
    Shared(Reversed(Unit()), 0.9, edges=(0.98, 0.95, 0.9)),
    Shared(Reversed(Timesteps()), 899.0, 7),
    Shared(LogSNR(VP), 1.0, edges=(8.0, 3.0, 1.0)),
]


@pytest.mark.parametrize("clock", [c for c in CLOCKS if isinstance(c, Shared)] + FALLING, ids=spell)
def test_a_measured_run_says_where_its_jumps_are(clock):
    """Against the clock itself, by a measured K that is 0 inside blocks, for clocks that fall in t too."""
    index = clock.discrete
    k = torch.arange(120.0, dtype=torch.float64) if index else torch.linspace(0.002, 0.4, 420, dtype=torch.float64)
    timesteps = clock.base((k + 1) / 1000 if index else k)
    plan = lipdiag.Plan(timesteps=tuple(timesteps.tolist()), draws=1, quantities=("time_difference",))
    network = NetworkPredictor(lambda x, t: x + t[:, None], VP, eps, clock, (3,))
    data = np.ones((2, 3), np.float32)
    (run,) = read([lipdiag.measure(network, data, plan, progress=False, probe=False)])
    other = other_time(clock, torch.from_numpy(run.timestep), None)
    assert run.edges == tuple(clock.bounds)
    np.testing.assert_array_equal(run.other[0], other.numpy())
    np.testing.assert_array_equal(run.other[1], clock.time(other).numpy())
    told, later = (clock(clock.time(k)) for k in (torch.from_numpy(run.timestep), other))
    # the second time of an index that is read backwards is the one nearer to the data
    below = run.before(clock.end) | ((run.other[0] - clock.end) * run.direction < 0)
    np.testing.assert_array_equal(run.jumps, below & (told != later).numpy())
    moved = run.dataset["time_difference"].values[:, 0] > 0
    np.testing.assert_array_equal(moved[below], run.jumps[below])
    assert run.jumps.sum() >= 1


def test_the_last_index_before_the_data_is_not_compared_with_one_that_does_not_exist():
    """Read backwards, index 999 is at the data: its second time is 998, and 1000 is none of the table's."""
    k = torch.tensor([999.0, 998.0, 0.0], dtype=torch.float64)
    assert other_time(Reversed(Timesteps()), k, None).tolist() == [998, 999, 1]


def test_a_run_of_before_the_edges_were_on_record_is_read_as_well(tmp_path):
    """Edges and second times are worked out, as the clock has them, and the run can be gone on with."""
    clock = Shared(Timesteps(), 100.0, 7)
    network = NetworkPredictor(lambda x, t: x + t[:, None], VP, eps, clock, (3,))
    plan = lipdiag.Plan(timesteps="10:120:1", draws=1, quantities=("time_difference",))
    run = lipdiag.measure(network, np.ones((2, 3), np.float32), plan, tmp_path / "new.zarr", progress=False)
    old = run.drop_vars(["other_timestep", "other_t"])
    old.attrs = {key: value for key, value in run.attrs.items() if key != "edges"}
    (new,), (older,) = read([run]), read([old])
    assert new.edges == older.edges
    np.testing.assert_array_equal(new.other[0], older.other[0])
    np.testing.assert_array_equal(new.jumps, older.jumps)
    for name in ("other_timestep", "other_t"):
        shutil.rmtree(tmp_path / "new.zarr" / name)
    text = json.loads((tmp_path / "new.zarr" / "zarr.json").read_text())
    del text["attributes"]["edges"], text["consolidated_metadata"]
    (tmp_path / "new.zarr" / "zarr.json").write_text(json.dumps(text))
    more = plan.replace(draws=2)
    found = lipdiag.measure(network, np.ones((2, 3), np.float32), more, tmp_path / "new.zarr", progress=False)
    assert found.sizes["draw"] == 2
    assert "other_timestep" not in found.variables
    np.testing.assert_array_equal(read([found])[0].jumps, new.jumps)


@pytest.mark.parametrize("edges", ["0, 20", [0, "x"], [0, float("nan")], [3.0], {"a": 1}])
def test_edges_on_record_that_make_no_sense_are_left_aside(edges):
    dataset = run_with(Shared(Timesteps(), 100.0, 5)).dataset
    assert read([dataset.assign_attrs(edges=edges)])[0].edges == (0, 20, 40, 60, 80, 100)


def test_names():
    def label(checkpoint: str, clock: str = "timesteps(1000)") -> str:
        dataset = run_with(Timesteps()).dataset
        dataset.attrs["checkpoint"] = checkpoint
        dataset.attrs["frozen"]["model"]["clock"] = clock
        return read([dataset])[0].label

    assert label("digits-ddpm") == "digits-ddpm"
    assert label("runs/v1.5/unet.safetensors") == "unet"
    assert label("runs/first/ckpt.pt") == "first/ckpt"
    assert label("in memory") == "model"
    assert label("in memory", "shared(timesteps(1000), 100, 5)") == "E-TSDM"
    dataset = run_with(Timesteps()).dataset
    assert [run.label for run in read([dataset, dataset])] == ["model", "model (2)"]


@pytest.mark.parametrize("rate", [0.0, float("nan"), float("inf"), 1e-320, 2.0])
def test_a_length_of_timesteps_that_cannot_be_is_damage(ddpm, rate):
    """A stranger's run with its checksums in order: no table of timesteps has that many."""
    broken = ddpm.copy(deep=True)
    broken["dt_dtimestep"].values[:] = rate
    (run,) = read([broken])
    with pytest.raises(RunError, match=r"is damaged: its dt_dtimestep begins with .*; measure it again"):
        _ = run.count
