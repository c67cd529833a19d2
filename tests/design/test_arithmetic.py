"""What may not move the numbers: autocast, torch.compile, the order of numbers in memory, the function's own dtype."""

import numpy as np
import pytest
import torch
from torch import nn

import lipdiag
from lipdiag import NetworkPredictor, Plan
from lipdiag.design.arithmetic import arithmetic
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.schedule import Linear
from lipdiag.errors import CheckpointError
from tests.linalg.networks import NETWORKS
from tests.networks import SHAPE, Tiny

QUANTITIES = ("time_derivative", "time_difference", "spectral_norm")
PLAN = Plan(timesteps=(0.0, 700.0), draws=2, quantities=QUANTITIES)
DATA = np.random.default_rng(5).uniform(-1, 1, (7, *SHAPE)).astype("float32")


def measure(network, dtype="float32", data=DATA, probe=False, **asked):
    predictor = NetworkPredictor(network, Linear(), eps, Timesteps(1000), data.shape[1:])
    return lipdiag.measure(predictor, data=data, plan=PLAN.replace(dtype=dtype), progress=False, probe=probe, **asked)


def notes(run):
    return run.attrs["launches"][-1]["notes"]


def assert_same(run, base):
    for name in QUANTITIES:
        np.testing.assert_array_equal(run[name], base[name], err_msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_a_measurement_is_switched_off_and_on_again(dtype):
    with torch.autocast("cpu", dtype):
        run = measure(Tiny(), probe=True)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == dtype
    assert_same(run, measure(Tiny()))


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_the_caller_s_determinism_is_as_it_was(mode):
    """Off, warning, or raising."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(mode)
    try:
        with arithmetic(deterministic=True):
            assert torch.get_deterministic_debug_mode() == 2
        assert torch.get_deterministic_debug_mode() == mode
    finally:
        torch.set_deterministic_debug_mode(before)


def test_a_default_device_of_the_caller_moves_nothing():
    """What is made without a device would lie there; on this one it has no numbers, and mixes with none that has."""
    told = {"data": DATA, "plan": PLAN.replace(quantities=QUANTITIES[:2]), "progress": False}
    model = NetworkPredictor(Tiny(), Linear(), eps, Timesteps(1000), SHAPE)
    with torch.device("meta"):
        run, drawn = lipdiag.measure(model, **told), lipdiag.sample(model, 2, steps=2, progress=False)
    for name in QUANTITIES[:2]:
        np.testing.assert_array_equal(run[name], lipdiag.measure(model, **told)[name])
    assert torch.equal(drawn, lipdiag.sample(model, 2, steps=2, progress=False))


class Rounding(Tiny):
    """Switches autocast on inside itself."""

    def forward(self, x, timestep):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x, timestep).to(x.dtype)


def test_a_network_that_rounds_inside_itself_is_refused_in_float32_and_exact_in_float64():
    with pytest.raises(CheckpointError, match=r"switches autocast to bfloat16 on inside itself.*dtype='float64'"):
        measure(Rounding())
    assert_same(measure(Rounding(), "float64"), measure(Tiny(), "float64"))


def whole(network, backend):
    return torch.compile(network, backend=backend)


def in_place(network, backend):
    network.compile(backend=backend)
    return network


def in_part(network, backend):
    network.last = torch.compile(network.last, backend=backend)
    return network


@pytest.mark.parametrize("through", [whole, in_place, in_part])
def test_a_compiled_network_is_measured_as_it_is_written(through):
    """The backend counts what it is asked to compile: nothing while numbers are measured, something before and after.

    It must also be the same model to the store, so that a run begun with the one is gone on with by the other.
    """
    torch._dynamo.reset()
    asked = []

    def backend(graph, inputs):
        asked.append(graph)
        return graph

    @torch.no_grad()
    def use(batch):
        network(torch.zeros(batch, *SHAPE), torch.zeros(batch))

    network, base = through(Tiny(), backend), measure(Tiny())
    use(1)
    before = len(asked)
    run = measure(network)
    assert len(asked) == before > 0
    use(5)
    assert len(asked) > before
    assert_same(run, base)
    assert run.attrs["frozen"] == base.attrs["frozen"]
    assert any("torch.compile is set aside" in note for note in notes(run))
    assert not any("torch.compile" in note for note in notes(base))


class ChannelsLast(nn.Module):
    """Hands its input on in the other order in memory."""

    def __init__(self, network):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, x, timestep):
        return self.network(x.to(memory_format=torch.channels_last), timestep)


def test_the_order_of_inputs_and_weights_in_memory_changes_rounding_alone():
    """A U-Net with attention. What rounding is, float64 tells.

    Two orders of the same sums in float32 are each as far from float64 as the other, so that they differ by twice that
    distance; 8 times the largest over all pairs leaves room for 2 times 4.
    """

    make, shape = NETWORKS["UNet2DModel with attention"]

    def network():
        torch.manual_seed(0)
        made = make()[0]
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        return made

    data = np.random.default_rng(6).uniform(-1, 1, (7, *shape)).astype("float32")
    exact, rounded = (measure(network(), dtype, data) for dtype in ("float64", "float32"))
    exact_last, rounded_last = (measure(ChannelsLast(network()), dtype, data) for dtype in ("float64", "float32"))
    for quantity in QUANTITIES:
        np.testing.assert_allclose(exact_last[quantity], exact[quantity], rtol=1e-9, err_msg=quantity)
        rounding = float((abs(rounded[quantity] - exact[quantity]) / exact[quantity]).max())
        assert rounding < 1e-3, quantity
        np.testing.assert_allclose(rounded_last[quantity], rounded[quantity], rtol=8 * rounding, err_msg=quantity)


def test_raw_output_is_measured_in_the_dtype_that_was_asked_for():
    """A network's output is its noise prediction where eps is what it predicts, so both runs hold the same numbers."""
    base = measure(Tiny(), "float64")
    run = measure(Tiny(), "float64", function="raw")
    for name in QUANTITIES:
        np.testing.assert_allclose(run[name], base[name], rtol=1e-12, err_msg=name)
