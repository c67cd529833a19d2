"""torch's own gradcheck in float64: every derivative that is taken, against differences of evaluations.

Reverse mode, forward mode, and both for many directions at once under vmap. Of the exact predictors, clocks and
schedules it is the whole Jacobian; of conversions, attention and networks a random direction on either side
(`fast_mode`).
"""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import convert, v
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear, Straight
from lipdiag.linalg import attention
from lipdiag.linalg.forward_mode import forward_mode
from tests.diffusion.test_clock import PLAIN, SHARED
from tests.diffusion.test_exact import MAKERS
from tests.diffusion.test_parameterization import KINDS
from tests.diffusion.test_schedule import ALL
from tests.linalg.networks import NETWORKS, randn
from tests.linalg.test_attention import MASKS, inputs
from tests.networks import smooth

TIMES = torch.tensor([0.0137, 0.3303, 0.8061], dtype=torch.float64)
"""Between the entries of every table, and away from the edges of every block."""

check = partial(
    gradcheck,
    check_forward_ad=True,
    check_backward_ad=True,
    check_batched_grad=True,
    check_batched_forward_grad=True,
    rtol=1e-5,
    atol=1e-6,
)


def variable(z):
    return z.clone().requires_grad_()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_exact_predictors(make):
    predictor = make(Linear())
    x = randn(len(TIMES), *predictor.shape, seed=4)
    assert check(predictor, (variable(x), variable(TIMES)))


@pytest.mark.parametrize("source", KINDS)
def test_conversions(source):
    """To every other kind, in what the network says, in x, and in t."""
    y, x = randn(len(TIMES), 2, seed=5), randn(len(TIMES), 2, seed=6)

    def converted(y, x, t):
        return torch.stack([convert(y, x, t, Straight(), KINDS[source], target) for target in KINDS.values()])

    assert check(converted, tuple(map(variable, (y, x, TIMES))), fast_mode=True)


@pytest.mark.parametrize("clock", PLAIN + SHARED, ids=repr)
def test_clocks(clock):
    assert check(clock, (variable(TIMES),))
    assert check(clock.time, (variable(clock.base(TIMES)),))


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_schedules(schedule):
    for f in (schedule, schedule.rates):  # stacked, because gradcheck miscounts outputs of which some are constant
        assert check(lambda t, f=f: torch.stack(f(t)), (variable(TIMES),)), f
    assert check(schedule.logsnr, (variable(TIMES),))
    assert check(schedule.time, (variable(schedule.logsnr(TIMES)),))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("tile", [40, 10**6])
def test_attention(mask, tile, monkeypatch):
    monkeypatch.setattr(attention, "TILE", {"cpu": tile})

    def attend(*z):
        with forward_mode():
            return functional.scaled_dot_product_attention(*z, attn_mask=MASKS[mask])

    assert check(attend, tuple(map(variable, inputs()[0])), fast_mode=True)


@pytest.mark.parametrize(
    ("name", "batched"), [("UNet2DModel", True), ("UNet2DModel with attention", False), ("layers", True)]
)
def test_network_predictors(name, batched):
    """Attention leaves channels last, and torch has no backward of such convolutions under vmap."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network, _ = make()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    network = torch.nn.Module.to(network, torch.float64).eval().requires_grad_(False)
    network = smooth(network) if hasattr(network, "time_proj") else network
    predictor = NetworkPredictor(network, Linear(), v, Timesteps(1000), shape)

    def f(x, t):
        with forward_mode():
            return predictor(x, t)

    point = variable(randn(len(TIMES), *shape, seed=7)), variable(TIMES)
    assert check(f, point, fast_mode=True, check_batched_grad=batched)
