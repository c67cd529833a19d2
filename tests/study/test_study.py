"""The experiment: its numbers against closed forms, and its promises about stopping, resuming and refusing."""

import shutil

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.design.points import points
from lipdiag.diffusion.clock import Shared, Sigma, Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import VE, Linear
from lipdiag.errors import CheckpointError, LipdiagError, RunError, StorageError, UsageError
from lipdiag.study import measure as front
from lipdiag.study import resolve, study
from tests.networks import (
    SHAPE,
    Detached,
    Exploding,
    Kinked,
    Mixing,
    Rounding,
    Shrinking,
    Timeless,
    Tiny,
    predictor,
)

DATA = np.random.default_rng(0).normal(size=(20, *SHAPE)).astype(np.float32)
PLAN = Plan(timesteps="0,1,19,50,500,999", draws=12, batch=16)


def measure(model=None, plan=PLAN, out=None, device="cpu", **rest):
    rest = {"probe": False, **rest}
    return lipdiag.measure(model or predictor(), DATA, plan, out, progress=False, device=str(device), **rest)


def equal(a, b):
    for name in a.data_vars:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


def gaussian():
    variances = torch.logspace(-2, 0, 6, dtype=torch.float64)
    return Gaussian(torch.zeros(6, dtype=torch.float64), variances, Linear(), Timesteps(1000)), variances.numpy()


def test_a_gaussian_model_gives_the_closed_forms(device):
    """K, its mean square, the spectral norm and the loss, from alpha, sigma and the variances alone."""
    model, s2 = gaussian()
    data = np.random.default_rng(1).normal(size=(1000, 6)) * np.sqrt(s2)
    plan = Plan(
        timesteps="0,9,99,900",
        draws=160,
        dtype="float64",
        certified_width=1e-9,
        quantities=("time_difference", "spectral_norm", "loss", "stein_product"),
    )
    found = lipdiag.measure(model, data.astype(np.float64), plan, progress=False, device=str(device))
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha2 = np.cumprod(1 - betas)
    for i, k in enumerate((0, 9, 99, 900)):
        sigma, later = np.sqrt(1 - alpha2[k]), np.sqrt(1 - alpha2[k + 1])
        V, V_later = alpha2[k] * s2 + sigma**2, alpha2[k + 1] * s2 + later**2
        true = np.sum(V * (later / V_later - sigma / V) ** 2)
        squares = found["time_difference"].values[i] ** 2
        assert abs(squares.mean() - true) < 4 * squares.std() / np.sqrt(160)
        np.testing.assert_allclose(found["spectral_norm"].values[i], np.max(sigma / V), rtol=1e-9)
        loss = found["loss"].values[i]
        assert abs(loss.mean() - np.mean(alpha2[k] * s2 / V)) < 4 * loss.std() / np.sqrt(160)
        product = found["stein_product"].values[i] - found["stein_square"].values[i]
        assert abs(product.mean()) < 4 * product.std() / np.sqrt(160)


def test_coordinates_are_those_of_the_schedule():
    found = measure()
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha2 = np.cumprod(1 - betas)[[0, 1, 19, 50, 500, 999]]
    np.testing.assert_allclose(found["alpha"] ** 2, alpha2, rtol=1e-12)
    np.testing.assert_allclose(found["sigma"] ** 2, 1 - alpha2, rtol=1e-10)
    np.testing.assert_allclose(found["logsnr"], np.log(alpha2 / (1 - alpha2)), rtol=1e-10)
    np.testing.assert_allclose(found["dt_dtimestep"], 1e-3)
    assert (found["dlogsnr_dtimestep"] < 0).all()
    assert (found["done"] == 1).all()


def test_the_time_derivative_is_per_timestep(device):
    """Against central differences of the network in float64, one draw at a time."""
    model = predictor()
    plan = Plan(timesteps="3,40", draws=2, dtype="float64", quantities=("time_derivative",))
    found = measure(model, plan, device=device)
    source = resolve.resolve_source(model, DATA, 0)
    for i, k in enumerate((3.0, 40.0)):
        point = points(model, Plan(dtype="float64"), source.sample, [k], range(2))
        network = model.network.double()
        later, earlier = (network(point.x, point.timestep + h) for h in (1e-4, -1e-4))
        slope = ((later - earlier) / 2e-4).flatten(1).norm(dim=1).detach().numpy()
        network.float()
        np.testing.assert_allclose(found["time_derivative"].values[i], slope, rtol=1e-6)


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, device):
    whole = measure(out=tmp_path / "whole.zarr", device=device).load()
    with front.prepared(predictor(), DATA, PLAN, tmp_path / "cut.zarr", device=str(device), probe=False) as ready:
        steps = study.run(ready)
        next(steps), next(steps)
        steps.close()
    part = lipdiag.open_run(tmp_path / "cut.zarr")
    assert 0 < (part["done"] == 1).sum() < part["done"].size
    equal(whole, measure(out=tmp_path / "cut.zarr", device=device))


@pytest.mark.parametrize("at", ["the first unit", "the last unit"])
def test_a_run_that_is_removed_meanwhile_is_said_to_be_lost(tmp_path, monkeypatch, at):
    """Not made anew around what is still to come, and never called done."""
    plan, seen, attempt = Plan(timesteps="0,500", draws=16, batch=4, quantities=("loss",)), [], study.attempt

    def counted(ready, some, behind):
        again = attempt(ready, some, behind)
        seen.extend(some)
        if len(seen) == (1 if at == "the first unit" else 8):
            behind.wait()
            shutil.rmtree(tmp_path / "a.zarr")
        return again

    monkeypatch.setattr(study, "attempt", counted)
    with pytest.raises(StorageError, match=r"a\.zarr was removed .* what it held is lost; measure again"):
        lipdiag.measure(predictor(), None, plan, tmp_path / "a.zarr", progress=False, device="cpu")
    assert list(tmp_path.iterdir()) == []
    assert len(seen) == (1 if at == "the first unit" else 8)


def test_resuming_a_finished_run_measures_nothing(tmp_path):
    first = measure(out=tmp_path / "a.zarr").load()
    chunks = {path: path.stat().st_mtime_ns for path in (tmp_path / "a.zarr").rglob("c/*/*")}
    assert chunks
    equal(first, measure(out=tmp_path / "a.zarr"))
    assert chunks == {path: path.stat().st_mtime_ns for path in (tmp_path / "a.zarr").rglob("c/*/*")}


def test_draws_may_grow_and_the_first_ones_stay(tmp_path):
    measure(plan=PLAN.replace(draws=8), out=tmp_path / "a.zarr")
    grown = measure(plan=PLAN.replace(draws=16), out=tmp_path / "a.zarr")
    equal(grown, measure(plan=PLAN.replace(draws=16)))


@pytest.mark.parametrize(
    "other", [PLAN.replace(seed=1), PLAN.replace(timesteps="0,1"), PLAN.replace(quantities=("loss",))]
)
def test_another_plan_does_not_mix_into_a_run(tmp_path, other):
    before = measure(out=tmp_path / "a.zarr").load()
    with pytest.raises(RunError, match="is another run: plan"):
        measure(plan=other, out=tmp_path / "a.zarr")
    equal(before, lipdiag.open_run(tmp_path / "a.zarr"))


def test_another_model_does_not_mix_into_a_run(tmp_path):
    measure(out=tmp_path / "a.zarr")
    other = predictor()
    with torch.no_grad():
        other.network.first.bias[0] += 1
    with pytest.raises(RunError, match="weights_sha256"):
        measure(other, out=tmp_path / "a.zarr")


def test_a_flipped_bit_is_measured_again(tmp_path):
    first = measure(out=tmp_path / "a.zarr").load()
    chunk = sorted((tmp_path / "a.zarr" / "loss" / "c").rglob("0"))[-1]
    data = bytearray(chunk.read_bytes())
    data[3] ^= 8
    chunk.write_bytes(data)
    equal(first, measure(out=tmp_path / "a.zarr"))


def test_shards_together_equal_one(tmp_path, device):
    for i in range(3):
        how = {"device": str(device), "shard": (i, 3), "probe": False}
        with front.prepared(predictor(), DATA, PLAN, tmp_path / "a.zarr", **how) as ready:
            assert front.carry_out(ready, quiet=True)
    equal(measure(device=device), lipdiag.open_run(tmp_path / "a.zarr"))


def test_models_see_the_same_data_noise_and_directions():
    """Common random numbers: a draw does not depend on the model, the batch or the other timesteps."""
    source = resolve.resolve_source(predictor(), DATA, 0)
    a = points(predictor(), PLAN, source.sample, [5.0, 80.0], range(4))
    b = points(predictor(Timeless(), Shared(Timesteps(1000), 100, 5)), PLAN, source.sample, [80.0], range(2, 3))
    assert torch.equal(a.x[6], b.x[0])
    assert torch.equal(a.noise[6], b.noise[0])
    assert torch.equal(a.start[6], b.start[0])
    assert torch.equal(a.probes[:, 6], b.probes[:, 0])


def test_a_shared_clock_is_flat_inside_blocks_and_jumps_between_them():
    found = measure(predictor(clock=Shared(Timesteps(1000), 100, 5)))
    at = dict(zip(found["timestep"].values, range(6), strict=True))
    assert (found["time_derivative"].values[at[0]] == 0).all()
    assert (found["time_difference"].values[at[1]] == 0).all()
    assert (found["time_difference"].values[at[19]] > 0).all()
    assert (found["time_derivative"].values[at[500]] > 0).all()


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Rounding, "rounds its timestep"),
        (Detached, "stops gradients"),
        (Mixing, "see each other"),
        (Shrinking, "shape"),
        (Exploding, "not finite"),
    ],
)
def test_a_model_that_would_give_wrong_numbers_is_refused(tmp_path, network, words):
    with pytest.raises(CheckpointError, match=words):
        measure(predictor(network()), out=tmp_path / "a.zarr")


def test_kinks_that_float32_cannot_resolve_are_no_wrong_derivative():
    """A triangular wave in time of slopes +-1 and a period as long as the probe's shortest step in float32."""
    found = measure(predictor(Kinked()), PLAN.replace(quantities=("time_derivative",)))
    np.testing.assert_allclose(found["time_derivative"], np.prod(SHAPE) ** 0.5, rtol=1e-3)
    assert any("has kinks in its timestep" in note for note in found.attrs["launches"][0]["notes"])


def test_the_very_first_time_of_a_continuous_model_is_checked_too():
    class Rounding(Tiny):
        def embed(self, timestep):
            return super().embed((20000 * timestep).round())

    schedule, plan = VE(0.01, 50.0), PLAN.replace(timesteps=(0.01,), quantities=("time_derivative",))
    models = [NetworkPredictor(net, schedule, eps, Sigma(schedule), SHAPE).eval() for net in (Tiny(), Rounding())]
    assert (measure(models[0], plan=plan)["time_derivative"] > 0).all()
    with pytest.raises(CheckpointError, match="rounds its timestep"):
        measure(models[1], plan=plan)


def test_what_a_rounding_network_allows_can_still_be_measured():
    found = measure(predictor(Rounding()), PLAN.replace(quantities=("time_difference", "loss")))
    assert np.isfinite(found["time_difference"]).all()


def test_a_network_without_time_is_measured_and_said():
    found = measure(predictor(Timeless()))
    assert (found["time_derivative"] == 0).all()
    assert any("does not depend on its timestep" in note for note in found.attrs["launches"][0]["notes"])


def test_memory_running_out_halves_the_batch_and_loses_nothing(monkeypatch):
    real, calls = study.measure_point, []

    def scarce(point):
        calls.append(len(point.x))
        if len(point.x) > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(point)

    expected = measure()
    monkeypatch.setattr(study, "measure_point", scarce)
    found = measure()
    assert max(calls) > 5
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(found["spectral_norm"], expected["spectral_norm"], rtol=1e-3)
    assert any("halved" in note for note in found.attrs["launches"][0]["notes"])


def test_memory_running_out_while_checking_leaves_a_smaller_check(monkeypatch):
    class Large(Tiny):
        def forward(self, x, timestep):
            if len(x) > 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().forward(x, timestep)

    found = measure(predictor(Large()))
    np.testing.assert_allclose(found["loss"], measure()["loss"], rtol=1e-5)
    assert found.attrs["launches"][0]["method"] == "forward mode"


def test_memory_for_not_even_one_pair_is_said(monkeypatch):
    def none(point):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(study, "measure_point", none)
    with pytest.raises(LipdiagError, match="a single"):
        measure()


def test_a_tolerance_draws_until_it_is_met_and_says_so():
    plan = Plan(timesteps="5,300", draws=8, quantities=("loss",), tolerance=0.04, max_draws=2000)
    found = measure(plan=plan)
    summary = lipdiag.summarize(found)["loss"]
    half = (summary.sel(statistic="high") - summary.sel(statistic="mean")) / summary.sel(statistic="mean")
    assert (half <= 0.04).all()
    assert 64 <= found.sizes["draw"] < 2000
    assert any("met after" in note for note in found.attrs["launches"][0]["notes"])
    short = measure(plan=plan.replace(max_draws=64))
    assert any("not met" in note for note in short.attrs["launches"][0]["notes"])


@pytest.mark.real
def test_measuring_leaves_the_model_as_it_was(device):
    model = predictor()
    model.train()
    model.network.first.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    measure(model, PLAN.replace(dtype="float64"), device=device)
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}
    assert model.training
    assert model.network.training
    assert not model.network.first.weight.requires_grad
    assert model.network.last.weight.requires_grad
    assert model.network.last.weight.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_float32_equals_float64_within_its_rounding(device):
    a, b = measure(device=device), measure(plan=PLAN.replace(dtype="float64"), device=device)
    for name in ("time_derivative", "spectral_norm", "loss"):
        np.testing.assert_allclose(a[name], b[name], rtol=2e-4, err_msg=name)


def test_results_do_not_depend_on_the_device(device):
    """In float32 to 1e-4: what is measured is not made of small differences, but for K."""
    found, expected = measure(device=device), measure()
    for name in ("time_derivative", "spectral_norm", "spectral_norm_upper", "loss"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(found["time_difference"], expected["time_difference"], rtol=1e-2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((3, 5, 5), np.float32), "shape"),
        ("no such data", "no data called"),
        (np.zeros((3, *SHAPE), int), "int64"),
    ],
)
def test_bad_data_is_refused(data, words):
    with pytest.raises(UsageError, match=words):
        lipdiag.measure(predictor(), data, PLAN, progress=False)


def test_something_that_is_no_model_is_refused():
    with pytest.raises(UsageError, match="cannot measure a dict"):
        lipdiag.measure({}, DATA, PLAN, progress=False)


def test_any_callable_with_a_schedule_is_measured():
    class Model:
        schedule, shape, clock = Linear(), SHAPE, Timesteps(1000)

        def __init__(self):
            self.network = Tiny()

        def __call__(self, x, timestep):
            return self.network(x, timestep)

    found = measure(Model())
    np.testing.assert_allclose(found["loss"], measure()["loss"])


def test_being_told_the_same_time_twice_gives_exactly_the_same_answer():
    """On a network with attention and group norm, whose derivative comes from other kernels than its value."""
    plan = Plan(timesteps="0,30,97", draws=3, quantities=("spectral_norm", "time_derivative", "time_difference"))
    found = lipdiag.measure("digits-etsdm", plan=plan, progress=False, probe=False)
    assert (found["time_difference"] == 0).all()
    assert (found["time_derivative"] == 0).all()


def test_a_trained_networks_time_derivative_is_right_in_float32():
    """float32 against float64 on the embedded network: within 2e-5, at t = .001, .003, .01, .03, .1 and .7."""
    plan = Plan(timesteps="0,2,9,29,99,699", draws=4, quantities=("time_derivative",))
    single, double = (
        lipdiag.measure("digits-ddpm", plan=plan.replace(dtype=dtype), progress=False, probe=False)
        for dtype in ("float32", "float64")
    )
    assert np.abs(single["time_derivative"].values / double["time_derivative"].values - 1).max() <= 2e-5
