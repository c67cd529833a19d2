"""Networks as libraries and tutorials leave them: measured as they are, or refused in a sentence that is true."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import lipdiag
from lipdiag import NetworkPredictor, Plan
from lipdiag.diffusion.clock import Timesteps, Unit
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.schedule import Linear
from lipdiag.errors import CheckpointError, IncompleteError, UsageError
from tests.networks import SHAPE, Tiny

DATA = np.random.default_rng(5).uniform(-1, 1, (7, *SHAPE)).astype("float32")
IN_TIME = ("time_difference", "loss")
ALL = ("time_derivative", "time_difference", "spectral_norm", "loss")


def measure(network, quantities=ALL, clock=None, data=DATA, timesteps=(0.0, 700.0), probe=False, **plan):
    predictor = NetworkPredictor(network.eval(), Linear(), eps, clock or Timesteps(1000), data.shape[1:])
    plan = Plan(timesteps=timesteps, draws=2, quantities=quantities, **plan)
    return lipdiag.measure(predictor, data=data, plan=plan, progress=False, probe=probe)


def notes(run):
    return " / ".join(run.attrs["launches"][-1]["notes"])


def assert_same(run, base, quantities=ALL, **tolerance):
    for name in quantities:
        np.testing.assert_allclose(run[name], base[name], err_msg=name, **tolerance)


# Times that are looked up


class Table(Tiny):
    """Looks its timestep up, by nn.Embedding."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.table = nn.Embedding(1000, 8)

    def embed(self, timestep):
        return self.table(timestep)[:, :, None, None]


class Indexed(Table):
    def embed(self, timestep):
        return self.table.weight[timestep][:, :, None, None]


class Asserting(Tiny):
    def forward(self, x, timestep):
        assert timestep.dtype == torch.int64, "timesteps are integers"
        return super().forward(x, timestep.to(x.dtype))


class Cut(Table):
    """Cuts its timestep off by itself, as its author would for one that is given as a float."""

    def embed(self, timestep):
        return super().embed(timestep.long())


@pytest.mark.parametrize(("network", "plain"), [(Table, Cut), (Indexed, Cut), (Asserting, Tiny)])
@pytest.mark.parametrize("clock", [Timesteps(1000), Timesteps(999)])
def test_a_network_of_integer_timesteps_is_told_integers(network, plain, clock):
    wanted = ("spectral_norm", *IN_TIME)
    run = measure(network(), wanted, clock, probe=True)
    assert_same(run, measure(plain(), wanted, clock), wanted, rtol=1e-6)
    assert "the network takes integer timesteps alone, to look them up" in notes(run)


def test_what_has_no_derivative_in_time_is_left_out_by_default_and_refused_by_name():
    run = measure(Table())
    assert "time_derivative" not in run
    assert "time_derivative is left out" in notes(run)
    with pytest.raises(
        CheckpointError, match=r"trajectory_derivative: measure the quotient, quantities='time_difference'"
    ):
        measure(Table(), ("loss", "trajectory_derivative"))


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"timesteps": (0.0, 12.5)}, r"12\.5 is none"),
        ({"step": 0.5}, r"0\.5 is none"),
        ({"clock": Unit(), "timesteps": (1.0,)}, "a t is none"),
    ],
)
def test_times_between_two_integers_are_refused(asked, what):
    with pytest.raises(CheckpointError, match=rf"integer timesteps alone.*{what}: give clock="):
        measure(Asserting(), IN_TIME, **asked)


def test_diffusers_learned_times_are_measured_from_their_folder(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    network = UNet2DModel(8, 1, 1, **blocks, layers_per_block=1, norm_num_groups=4, time_embedding_type="learned",
                          num_train_timesteps=1000).eval()  # fmt: skip
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(tmp_path)
    data = np.random.default_rng(5).uniform(-1, 1, (7, 1, 8, 8)).astype("float32")
    plan = Plan(timesteps=(5.0, 700.0), draws=2, quantities=IN_TIME)
    run = lipdiag.measure(tmp_path, data=data, plan=plan, progress=False)
    base = measure(Told(network), IN_TIME, data=data, timesteps=(5.0, 700.0))
    assert_same(run, base, IN_TIME, rtol=1e-5)


class Told(nn.Module):
    """Calls another with integers."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, timestep):
        return self.network(x, timestep.long()).sample


# Weights of several types, or without values


class Halved(Tiny):
    """A layer in half precision, to which the network casts itself."""

    def __init__(self):
        super().__init__()
        self.first.half()

    def forward(self, x, timestep):
        h = self.first(x.half()).to(x.dtype) + self.embed(timestep)
        return self.last(nn.functional.silu(h))


def test_a_network_of_several_types_that_casts_itself_stays_as_it_is():
    network = Halved()
    run = measure(network)
    assert_same(run, measure(Tiny()), rtol=5e-3)  # half precision has 3 digits
    assert "weights are float16 and float32 and stay so" in notes(run)
    assert network.first.weight.dtype == torch.float16


def test_one_that_does_not_cast_itself_is_widened_and_given_back():
    network, base = Tiny(), Tiny()
    network.first.half()
    base.first.half().float()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert_same(measure(network), measure(base), rtol=0)
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


class Stored(Tiny):
    """Keeps a layer in one byte a number and widens it around each call, as memory is saved on small machines."""

    def __init__(self):
        super().__init__()
        self.last.to(torch.float8_e4m3fn)

    def forward(self, x, timestep):
        self.last.to(x.dtype)
        try:
            return super().forward(x, timestep)
        finally:
            self.last.to(torch.float8_e4m3fn)


def test_weights_stored_in_a_byte_are_measured_in_the_type_they_are_used_in():
    network, base = Stored(), Tiny()
    base.last.to(torch.float8_e4m3fn).float()
    assert_same(measure(network), measure(base), rtol=0)
    assert network.last.weight.dtype == torch.float8_e4m3fn
    network(torch.zeros(1, *SHAPE), torch.ones(1))
    assert network.last.weight.dtype == torch.float8_e4m3fn


class Fourier(Tiny):
    """Multiplies frequencies by complex weights."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(0.5, 1, 12).reshape(4, 3) * torch.exp(torch.tensor(0.3j)))

    def forward(self, x, timestep):
        return torch.fft.irfft2(torch.fft.rfft2(super().forward(x, timestep)) * self.weights, s=x.shape[-2:])


def test_complex_weights_are_measured_in_both_precisions():
    network = Fourier()
    assert_same(measure(network), measure(network, dtype="float64"), rtol=1e-3)
    assert network.weights.dtype == torch.complex64


class Lazy(Tiny):
    def __init__(self):
        super().__init__()
        self.last = nn.LazyConv2d(1, 3, padding=1)


class Offloaded(Tiny):
    """Its weights are elsewhere, and fetched by each call."""

    def __init__(self):
        super().__init__()
        self.fetched = Tiny()
        self.first.to("meta")

    def forward(self, x, timestep):
        return self.fetched(x, timestep)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (Lazy, r"network's last\.weight has no values yet, as a lazy module's .* call the network once"),
        (Offloaded, r"network's first\.weight is not in memory \(device meta\): .*; load the network whole"),
    ],
)
def test_weights_without_values_are_refused(network, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        measure(network())


# What fails later than the first question


class Column(nn.Module):
    """A toy whose times have to be a column."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.mix = nn.Linear(3, 2)

    def forward(self, x, timestep):
        return self.mix(torch.cat([x, timestep / 1000], 1))


class Product(nn.Module):
    """A toy that multiplies by its times: one sample, or as many as there are coordinates, goes through."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.mix = nn.Linear(2, 2)

    def forward(self, x, timestep):
        return self.mix(x) * timestep / 1000


class Wrapped(Product):
    def forward(self, x, timestep):
        return super().forward(x, timestep[:, None])


POINTS = np.random.default_rng(5).normal(size=(7, 2)).astype("float32")


def test_a_network_that_wants_a_column_of_times_is_told_how_to_be_wrapped():
    with pytest.raises(
        CheckpointError, match=r"answers where the timesteps have shape \(n, 1\): wrap it, lambda x, t:"
    ):
        measure(Column(), data=POINTS)


def test_a_network_that_is_right_for_one_sample_alone_is_measured_one_a_batch():
    run = measure(Product(), data=POINTS)
    assert "it is measured with one sample a batch" in notes(run)
    assert_same(run, measure(Wrapped(), data=POINTS), rtol=1e-5)


class Reentrant(Tiny):
    def forward(self, x, timestep):
        return self.last(checkpoint(self.hidden, self.first(x), timestep, use_reentrant=True))

    def hidden(self, h, timestep):
        return nn.functional.silu(h + self.embed(timestep))


class Overwritten(Tiny):
    """Writes to what reverse mode has kept."""

    def forward(self, x, timestep):
        h = nn.functional.silu(self.first(x) + self.embed(timestep))
        y = self.last(h.exp())
        h *= 2
        z = h.sigmoid()
        w = z * z
        z += 1
        return y + self.last(w)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("network", [Reentrant, Overwritten])
def test_a_reverse_pass_that_fails_is_told_and_needed_for_the_jacobian_alone(network):
    with pytest.raises(CheckpointError, match=r"reverse mode, which Jacobians take, fails.*measure without them"):
        measure(network())
    run = measure(network(), IN_TIME)
    assert np.isfinite(run["time_difference"]).all()
    assert (run["time_difference"] > 0).all()


class Early(Tiny):
    """Knows no late timesteps."""

    def forward(self, x, timestep):
        if (timestep > 600).any():
            raise KeyError("too late")
        return super().forward(x, timestep)


def test_what_is_raised_in_the_checks_is_told_in_a_sentence():
    with pytest.raises(CheckpointError, match="the network fails on 4 samples with KeyError: 'too late'; check"):
        measure(Early())


class Failing(Tiny):
    """A device that fails, or fills, after so many passes."""

    def __init__(self, error, passes):
        super().__init__()
        self.error, self.left = error, passes

    def forward(self, x, timestep):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().forward(x, timestep)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "the device cpu failed with Accelerator"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "the device cpu failed with RuntimeError"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory"),
    ],
)
@pytest.mark.parametrize("passes", [0, 8, 16, 19, 22, 30, 40])
def test_a_device_that_fails_while_a_model_is_tried_is_not_the_models_fault(passes, error, said):
    """In the first question, the checks of answers and of derivatives in either direction, or the probe."""
    with pytest.raises(IncompleteError, match=said):
        measure(Failing(error, passes), probe=True)


def test_a_card_that_was_used_before_cannot_repeat_its_bits_and_that_is_said():
    error = RuntimeError(
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
        "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses "
        "CuBLAS and you have CUDA >= 10.2. To enable deterministic behavior in this case, you must set an environment "
        "variable before running your PyTorch application: CUBLAS_WORKSPACE_CONFIG=:4096:8 or "
        "CUBLAS_WORKSPACE_CONFIG=:16:8."
    )
    with pytest.raises(UsageError, match="set that before Python starts, or leave deterministic"):
        measure(Failing(error, 0))


class Flagged(Tiny):
    """Switches a library off for its own pass, by torch's older settings."""

    def forward(self, x, timestep):
        with torch.backends.cudnn.flags(enabled=False):
            return super().forward(x, timestep)


def test_a_network_that_reads_an_older_setting_is_told_which():
    with pytest.raises(CheckpointError, match=r"as torch\.backends\.cudnn\.flags does, .* out of its forward pass$"):
        measure(Flagged())


# A network that differentiates inside


class Energy(Tiny):
    """The gradient of an energy."""

    def forward(self, x, timestep):
        with torch.enable_grad():
            x = x.requires_grad_(True)
            energy = super().forward(x, timestep).square().sum() / 2
            return torch.autograd.grad(energy, x, create_graph=True)[0]


class Functional(Tiny):
    """The same by torch.func."""

    def forward(self, x, timestep):
        energy = super().forward
        return torch.func.grad(lambda z: energy(z, timestep).square().sum() / 2)(x)


def test_an_energy_is_measured_whoever_takes_its_gradient():
    assert_same(measure(Energy()), measure(Functional()), rtol=1e-5)
