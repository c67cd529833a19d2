"""Units measured several at once and written meanwhile: the numbers are those of one at a time, nothing is lost."""

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.design.points import joined, points
from lipdiag.errors import IncompleteError
from lipdiag.study import measure as front
from lipdiag.study import memory, study
from tests.networks import SHAPE, Tiny, predictor

DATA = np.random.default_rng(0).normal(size=(20, *SHAPE)).astype(np.float32)
PLAN = Plan(timesteps="0,1,19,50,500,999", draws=24, quantities=("spectral_norm", "loss", "time_derivative", "trace"))


@pytest.fixture
def small(monkeypatch):
    """Units of 16 pairs, two timesteps by eight draws, of which sixteen may be measured at once."""
    monkeypatch.setattr("lipdiag.store.layout.MOST_PAIRS", 16)
    monkeypatch.setitem(memory.MOST_UNITS, "cpu", 16)


def measure(out=None, plan=PLAN, model=None, **how):
    return lipdiag.measure(
        model or predictor(), DATA, plan, out, progress=False, probe=False, device="cpu", **how
    ).load()


LACKING = RuntimeError("DefaultCPUAllocator: can't allocate memory")


def sizes(monkeypatch, most=10**9, error=LACKING):
    """How many pairs each micro-batch has; beyond `most` of them there is an error."""
    real, seen = study.measure_point, []

    def counted(point):
        seen.append(len(point.x))
        if len(point.x) > most:
            raise error
        return real(point)

    monkeypatch.setattr(study, "measure_point", counted)
    return seen


def test_several_units_at_once_give_the_numbers_of_one_after_the_other(small, monkeypatch):
    """In float64 to its rounding, what is iterated too: each unit ends at its own step."""
    quantities = (*PLAN.quantities, "one_sided_lipschitz")
    plan = PLAN.replace(dtype="float64", certified_width=1e-3, quantities=quantities)
    alone = measure(plan=plan, deterministic=True)
    seen = sizes(monkeypatch)
    joint = measure(plan=plan)
    assert seen == [16, 128]  # the first alone, and the others of three times by three draws of units
    assert joint.attrs["launches"][0]["batch"] == 256
    assert len(np.unique(alone["spectral_norm_steps"])) > 1
    for name in alone.data_vars:
        np.testing.assert_allclose(joint[name], alone[name], rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("batch", [None, 16])
def test_the_first_unit_is_measured_alone_and_on_disk_before_the_next_is_begun(small, tmp_path, monkeypatch, batch):
    seen = sizes(monkeypatch)
    with front.prepared(predictor(), DATA, PLAN.replace(batch=batch), tmp_path / "a.zarr", probe=False) as ready:
        running = study.run(ready)
        assert next(running).done == 16
        assert seen == [16]
        assert (lipdiag.open_run(tmp_path / "a.zarr")["done"] == 1).sum() == 16
        running.close()


def test_joined_blocks_are_the_points_of_each():
    """Data, noise, directions and classes, in their order; estimates are pooled in each block by itself."""
    model, plan = predictor(), PLAN.replace(probes=3)
    blocks = [([5.0, 80.0], range(4)), ([80.0], range(2, 6))]

    def sample(i):
        return torch.from_numpy(DATA[i])

    whole = joined(model, plan, sample, blocks)
    parts = [points(model, plan, sample, timesteps, draws) for timesteps, draws in blocks]
    for name in ("t", "timestep", "rate", "x", "noise", "start"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
    assert torch.equal(whole.probes, torch.cat([part.probes for part in parts], 1))
    assert whole.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_units_lie_in_their_places_whatever_is_done_already(small, tmp_path, monkeypatch):
    whole = measure(plan=PLAN.replace(draws=8))
    with front.prepared(predictor(), DATA, PLAN, tmp_path / "a.zarr", device="cpu", shard=(1, 2)) as ready:
        assert front.carry_out(ready, quiet=True)
    found = measure(tmp_path / "a.zarr")
    assert (found["done"] == 1).all()
    np.testing.assert_allclose(found["loss"][:, :8], whole["loss"], rtol=1e-4)


def test_memory_that_runs_out_takes_fewer_units_at_once(small, monkeypatch):
    seen = sizes(monkeypatch, most=50)
    found = measure()
    assert seen == [16, 128, 64, 32, 32, 64, 32, 32]
    assert (found["done"] == 1).all()
    assert any("halved" in note for note in found.attrs["launches"][0]["notes"])


NO_ENGINE = "GET was unable to find an engine to execute this computation"


class Full(Tiny):
    """As on a card that is full: cuDNN finds no engine for a forward product, and for any other pass it does."""

    def __init__(self, most=10**9, never=-1):
        super().__init__()
        self.most, self.never = most, never

    def forward(self, x, timestep):
        moving = any(forward_ad.unpack_dual(z).tangent is not None for z in (x, timestep))
        if moving and (len(x) > self.most or bool((timestep == self.never).any())):
            raise RuntimeError(NO_ENGINE)
        return super().forward(x, timestep)


@pytest.mark.parametrize("most", [20, 8])
def test_a_method_that_fails_on_many_pairs_is_tried_on_fewer(small, most):
    """Of another method's numbers none is there: they are those of a batch that fits, to the last bit."""
    quantities = ("time_derivative", "spectral_norm")
    plan = PLAN.replace(quantities=quantities, timesteps="0,19,500")
    found = measure(plan=plan, model=predictor(Full(most)))
    launch = found.attrs["launches"][0]
    assert (launch["method"], launch["warnings"]) == ("forward mode", [])
    assert any(NO_ENGINE in note and "halved" in note for note in launch["notes"])
    assert launch["batch"] <= most
    expected = measure(plan=plan.replace(dtype="float64"))
    for name in quantities:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-6 if name == "time_derivative" else 1e-2)


def test_numbers_by_another_method_than_was_checked_are_said_to_be(small):
    plan = PLAN.replace(quantities=("time_derivative",))
    found = measure(plan=plan, model=predictor(Full(never=1)))
    launch = found.attrs["launches"][0]
    (said,) = launch["warnings"]
    assert said.startswith("some derivatives are not by forward mode, which failed with RuntimeError (GET was")
    assert "timesteps 0 to 1, draws 0 to 7 first" in said
    np.testing.assert_allclose(found["time_derivative"], measure(plan=plan)["time_derivative"], rtol=1e-4)


def test_a_model_that_fails_itself_is_no_method_that_fails(small):
    class Hole(Tiny):
        def forward(self, x, timestep):
            if bool(((timestep - 19).abs() < 9).any()):
                raise ValueError("odd")
            return super().forward(x, timestep)

    found = measure(
        plan=PLAN.replace(quantities=("time_derivative",), timesteps="0,19,100,300,500,999"), model=predictor(Hole())
    )
    assert (found["done"].sel(time=[0, 19]) == 2).all()
    launch = found.attrs["launches"][0]
    assert launch["warnings"] == []
    assert not any("halved" in note for note in launch["notes"])


def test_one_unit_that_fails_is_found_among_those_measured_with_it(small, monkeypatch):
    """All others are measured, and it is tried again by itself before it is given up."""
    real = study.measure_point

    def failing(point):
        if bool(((point.timestep == 19) & (point.block >= 0)).any()):
            raise ValueError("odd")
        return real(point)

    monkeypatch.setattr(study, "measure_point", failing)
    found = measure()
    assert (found["done"].sel(time=[19, 50]) == 2).all()
    assert (found["done"].drop_sel(time=[19, 50]) == 1).all()
    assert sum("failed with ValueError (odd)" in note for note in found.attrs["launches"][0]["notes"]) >= 3


@pytest.mark.parametrize("error", [torch.AcceleratorError, RuntimeError])
def test_a_device_that_fails_ends_in_a_sentence_and_the_same_command_goes_on(small, tmp_path, monkeypatch, error):
    whole = measure(deterministic=True)
    real, calls = study.measure_point, []

    def failing(point):
        calls.append(len(point.x))
        if len(calls) == 4:
            raise error("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")
        return real(point)

    monkeypatch.setattr(study, "measure_point", failing)
    with pytest.raises(IncompleteError, match=r"the device failed with .* illegal memory access .* goes on") as told:
        measure(tmp_path / "a.zarr", deterministic=True)
    assert "\n" not in str(told.value)
    part = lipdiag.open_run(tmp_path / "a.zarr")
    assert (part["done"] == 1).sum() == 3 * 16
    assert not (part["done"] == 2).any()
    found = measure(tmp_path / "a.zarr", deterministic=True)
    for name in found.data_vars:
        np.testing.assert_array_equal(found[name].values, whole[name].values, err_msg=name)


def test_memory_that_another_process_took_is_no_failure_of_the_device(small, monkeypatch):
    """The driver itself may say so, of what torch did not ask for."""
    sizes(monkeypatch, most=100, error=torch.AcceleratorError("CUDA error: out of memory"))
    assert (measure()["done"] == 1).all()


def test_a_disk_that_fills_while_the_next_units_are_computed_is_said(tmp_path, monkeypatch):
    from lipdiag.errors import StorageError
    from lipdiag.store.store import Store

    real, calls = Store.write, []

    def full(self, unit, values):
        calls.append(unit)
        if len(calls) == 2:
            raise StorageError("cannot write a.zarr: No space left on device")
        real(self, unit, values)

    plan = Plan(timesteps="0,500", draws=32, batch=8, quantities=("loss",))
    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(StorageError, match="No space left"):
        measure(tmp_path / "a.zarr", plan)
    assert (lipdiag.open_run(tmp_path / "a.zarr")["done"] == 1).sum() in (8, 16)
    assert (measure(tmp_path / "a.zarr", plan)["done"] == 1).all()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.20 GiB"), "out of memory on cpu: .* free it"),
        (torch.AcceleratorError("CUDA error: unknown error"), "the device cpu failed with .*unknown error.* goes on"),
    ],
)
def test_a_device_that_fails_before_anything_is_measured_ends_in_a_sentence(monkeypatch, error, said):
    model = predictor()

    def to(place):
        raise error

    monkeypatch.setattr(model, "to", to)
    with pytest.raises(IncompleteError, match=said):
        measure(model=model)
