"""Networks as predictors of noise: what they are told, what is made of their output, against hand-made networks."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lipdiag.diffusion.clock import Shared, Timesteps, Unit
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import eps, v, velocity, x0
from lipdiag.diffusion.predictor import NetworkPredictor, RawOutput, device_of
from lipdiag.diffusion.schedule import VP, Linear, Straight
from lipdiag.errors import CheckpointError, UsageError

T = torch.tensor([0.02, 0.5, 1.0], dtype=torch.float64)


class Recorder(nn.Module):
    """Remembers what it was called with and returns zeros."""

    def forward(self, x, timestep, **conditioning):
        self.seen = x, timestep, conditioning
        return torch.zeros_like(x)


def test_the_network_sees_x_its_own_time_and_the_conditioning(generator):
    x = torch.randn(3, 1, 4, 4, generator=generator)
    label, text = torch.tensor([7]), torch.randn(1, 5, 2, generator=generator)
    each = torch.tensor([1, 2, 3])
    conditioning = {"label": label, "text": text, "each": each, "return_dict": False}
    network = Recorder()
    NetworkPredictor(network, Linear(), eps, Timesteps(), (1, 4, 4), conditioning)(x, T)
    seen_x, timestep, seen = network.seen
    assert seen_x is x
    assert timestep.dtype == torch.float32
    assert timestep.tolist() == [19, 499, 999]
    assert seen["label"].tolist() == [7, 7, 7]
    assert torch.equal(seen["text"], text.expand(3, 5, 2))
    assert seen["each"].tolist() == [1, 2, 3]
    assert seen["return_dict"] is False


@pytest.mark.parametrize(
    ("dtype", "told"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32), (torch.float16, torch.float32)]
)
def test_timesteps_are_not_rounded_by_narrow_types(dtype, told):
    """999 is not a bfloat16; the network's embedding would be that of 1000."""
    network = Recorder()
    y = NetworkPredictor(network, Linear(), eps, Timesteps(), (2,))(torch.zeros(3, 2, dtype=dtype), T)
    assert network.seen[1].dtype == told
    assert network.seen[1].tolist() == [19, 499, 999]
    assert y.dtype == dtype


def test_conditioning_moves_with_the_module():
    predictor = NetworkPredictor(Recorder(), Linear(), eps, Timesteps(), (2,), {"text": torch.zeros(1, 4)})
    predictor.double()
    assert predictor.conditioning["text"].dtype == torch.float64
    assert not predictor.state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y,
        lambda y: (y, None),
        lambda y: SimpleNamespace(sample=y),
        lambda y: torch.cat([y, 100 * torch.ones_like(y)], 1),
        lambda y: (torch.cat([y, 100 * torch.ones_like(y)], 1),),
    ],
)
def test_outputs_as_libraries_give_them(wrap, generator):
    x = torch.randn(3, 2, 4, 4, generator=generator)
    predictor = NetworkPredictor(lambda x, timestep: wrap(2 * x), Linear(), eps, Timesteps(), (2, 4, 4))
    assert torch.equal(predictor(x, T), 2 * x)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda y: y[:, :1], r"a tensor of shape \(3, 1, 4, 4\) from the network for x of shape \(3, 2, 4, 4\)"),
        (lambda y: {"sample": y}, "a dict from the network"),
        (lambda y: None, "a NoneType from the network"),
    ],
)
def test_outputs_that_are_no_prediction_are_refused(wrap, message):
    predictor = NetworkPredictor(lambda x, timestep: wrap(x), Linear(), eps, Timesteps(), (2, 4, 4))
    with pytest.raises(CheckpointError, match=message):
        predictor(torch.zeros(3, 2, 4, 4), T)


@pytest.mark.parametrize("clock", [Unit(), Timesteps(), Shared(Timesteps(), 100, 5)], ids=repr)
@pytest.mark.parametrize("schedule", [VP(), Straight()], ids=repr)
def test_perfect_networks_of_every_kind_are_the_exact_predictor(schedule, clock, generator):
    """For normal data x0, v and velocity are known functions of x; sharing time leaves the noise level the true one."""
    t = torch.tensor([0.0205, 0.3, 0.9], dtype=torch.float64)
    mean, variance = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)
    x = torch.randn(3, 2, dtype=torch.float64, generator=generator)
    (alpha, sigma), (dalpha, dsigma) = ((c[:, None] for c in pair) for pair in (schedule(t), schedule.rates(t)))
    gain = (x - alpha * mean) / (alpha**2 * variance + sigma**2)
    noise, data = sigma * gain, mean + alpha * variance * gain
    wanted = Gaussian(mean, variance, schedule)(x, t)
    said = {eps: noise, x0: data, v: alpha * noise - sigma * data, velocity: dalpha * data + dsigma * noise}
    for kind, y in said.items():
        predictor = NetworkPredictor(lambda x, timestep, y=y: y, schedule, kind, clock, (2,))
        torch.testing.assert_close(predictor(x, t), wanted, rtol=1e-10, atol=1e-12)


def test_sharing_changes_what_is_told_and_nothing_else():
    """Within a block a network cannot tell times apart; the conversion to noise can."""
    t = torch.tensor([0.021, 0.025, 0.040], dtype=torch.float64)
    network = Recorder()
    x = torch.ones(3, 1, dtype=torch.float64)
    y = NetworkPredictor(network, Linear(), x0, Shared(Timesteps(), 100, 5), (1,))(x, t)
    assert network.seen[1].tolist() == [20, 20, 20]
    torch.testing.assert_close(y, x / Linear()(t)[1][:, None])


def test_the_raw_output_and_the_noise_differ_by_the_conversion_s_factors():
    """For y = M x + c k the raw derivatives are M and c; those of eps = (x - alpha y) / sigma, by hand, are others."""
    M = torch.tensor([[2.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    network = NetworkPredictor(lambda x, k: x @ M.T + k[:, None], Linear(), x0, Timesteps(), (2,))
    raw, x = RawOutput(network), torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    t = torch.tensor([0.4], dtype=torch.float64)
    alpha, sigma = Linear()(t)
    assert (raw.function, network.function, raw.schedule, raw.shape) == ("raw", "eps", Linear(), (2,))
    torch.testing.assert_close(raw(x, t), x @ M.T + 399)
    jacobians = [torch.func.jacrev(lambda x, p=p: p(x, t)[0])(x)[:, 0] for p in (raw, network)]
    torch.testing.assert_close(jacobians[0], M)
    torch.testing.assert_close(jacobians[1], (torch.eye(2, dtype=torch.float64) - alpha * M) / sigma)
    with pytest.raises(UsageError, match="no raw output"):
        RawOutput(raw)


def test_a_model_without_weights_lies_where_its_buffers_do():
    exact, network = Gaussian(torch.zeros(2), torch.ones(2), Linear()), nn.Linear(1, 1, device="meta")
    network.register_buffer("statistics", torch.zeros(1))
    assert device_of(exact).type == device_of(nn.ReLU()).type == "cpu"
    assert device_of(exact.to("meta")).type == device_of(network).type == "meta"
