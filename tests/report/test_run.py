"""What is read from a dataset's text and coordinates, against the torch objects that wrote them."""

import numpy as np
import pytest
import torch

from lipdiag.diffusion.clock import Clock, LogSigma, LogSNR, Shared, Sigma, Timesteps, Unit
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import SCHEDULES
from lipdiag.diffusion.spelling import spell
from lipdiag.report.run import Run, read, sharing
from lipdiag.study.measure import coordinates
from lipdiag.study.plan import resolve_timesteps
from lipdiag.study.quantity import other_time

from .conftest import dataset_of

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
    assert run.jumps.sum() == (5 if len(clock.bounds) == 6 else 4) * (1 if clock.discrete else 2)
    assert run.missing_jumps == ()


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
