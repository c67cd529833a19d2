"""Every front door on a device: the same numbers as on the processor, few of which are waited for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.design.points import points
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import Linear
from lipdiag.quantities.catalogue import QUANTITIES, measure_point
from lipdiag.training.recipe import RECIPES
from tests.conftest import DEVICES
from tests.health import planted
from tests.networks import SHAPE, predictor

pytestmark = pytest.mark.parametrize("device", DEVICES[1:], indirect=True)

DATA = np.random.default_rng(0).normal(size=(40, *SHAPE)).astype(np.float32)
FULL = "spectral_norm", "time_derivative", "squared_frobenius_norm", "trace"
ALL = tuple(name for name in QUANTITIES if name != "embedding")  # which the small network has none of
ALONE = "vectors", "pairs", "swap", "modules", "modules_x"
VECTORS = ("left_singular_vectors", "right_singular_vectors")
"""Their signs are nobody's, and neighbours of a cluster turn into each other."""


def model():
    return predictor().requires_grad_(False).eval()


def close(found, expected, rtol):
    for name in set(expected.data_vars) - {*VECTORS, "vector_residuals", "seconds"}:
        a, b = found[name].values, expected[name].values
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(initial=0), err_msg=name)


def test_every_quantity(device):
    """In float64, in which a device has nothing of its own to round to."""
    plan = Plan(timesteps="5,700", draws=3, dtype="float64", quantities=ALL)
    how = {"data": DATA, "plan": plan, "progress": False, "probe": False}
    found, expected = (lipdiag.measure(model(), device=str(where), **how) for where in (device, "cpu"))
    close(found, expected, 1e-7)


def test_the_doctor(device):
    plan = Plan(timesteps="pairs:3", draws=8, krylov_steps=4)
    found, expected = (
        lipdiag.doctor(planted.exact(), planted.data(), plan=plan, device=str(where), progress=False)
        for where in (device, "cpu")
    )
    assert found.verdict == expected.verdict
    assert found.undecided == expected.undecided


def test_samples_and_how_good_they_are(device):
    how = {"samplers": ["ddpm:3", "dpm:2"], "n": 16, "seeds": 1, "progress": False}
    found, expected = (lipdiag.evaluate("digits-ddpm", device=str(where), **how) for where in (device, "cpu"))
    close(found, expected, 1e-3)


def test_when_to_sample(device):
    wanted = Gaussian(torch.zeros(2), torch.tensor([0.1, 1.0]), Linear(), Timesteps(1000))
    how = {"sampler": "ddim", "steps": 2, "draws": 8}
    found, expected = (lipdiag.advise(wanted, device=str(where), **how) for where in (device, "cpu"))
    assert found.timesteps(0) == expected.timesteps(0)


def test_training(device, tmp_path):
    """A few steps, with a panel and pictures among them; each kind of device draws noise of its own."""
    recipe, losses = replace(RECIPES["digits"], batch=4, steps=3, warmup=0), []
    lipdiag.train(
        recipe,
        out=tmp_path / "here",
        device=str(device),
        measure_every=3,
        sample_every=3,
        on_step=lambda _, numbers: losses.append(numbers["loss"]),
        progress=False,
    )
    assert len(losses) == 3
    assert all(0.1 < loss < 5 for loss in losses)
    assert lipdiag.sample(tmp_path / "here", 2, steps=1, device=str(device), progress=False).device.type == device.type


@pytest.mark.parametrize("quantities", [FULL, tuple(name for name in ALL if name not in ALONE)], ids=len)
def test_a_unit_is_waited_for_a_few_times(device, quantities):
    """As often for many pairs as for few, and for most of its quantities once, when their numbers are fetched."""
    if device.type != "card":
        pytest.skip("only the pretended device counts")
    from tests import card

    def reads(draws):
        plan = Plan(krylov_steps=8, quantities=quantities)
        card.reads.clear()
        values = measure_point(points(on_device, plan, lambda i: torch.from_numpy(DATA[i]), [5.0, 700.0], range(draws)))
        return card.reads.total(), len(values)

    on_device = model().to(device)
    few, count = reads(2)
    assert few == reads(12)[0]
    assert few < count + 8
