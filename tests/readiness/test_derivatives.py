"""The second look that is taken before a number is reported: what it refuses, what it says, what it lets pass."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.nn.functional import conv2d, dropout, relu, silu

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.diffusion.clock import Sigma
from lipdiag.diffusion.continuous import Karras
from lipdiag.diffusion.parameterization import x0
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.errors import CheckpointError
from lipdiag.store.notes import NOT_TRIED
from lipdiag.study import preparation
from tests.networks import SHAPE, Mixing, Rounding, Tiny, predictor

DATA = np.random.default_rng(0).normal(size=(20, *SHAPE)).astype(np.float32)
TIMES = (5.0, 100.0, 900.0)
PLAN = Plan(timesteps=TIMES, draws=3)
QUOTIENT = PLAN.replace(quantities=("time_difference", "loss"))
JACOBIAN = PLAN.replace(quantities=("spectral_norm", "trace"))


def measure(network, plan=PLAN, device="cpu"):
    return lipdiag.measure(predictor(network), DATA, plan, progress=False, probe=False, device=str(device))


def notes(run):
    return [note for note in run.attrs["launches"][-1]["notes"] if note != NOT_TRIED]


def equal(a, b):
    for name in a.data_vars:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6, err_msg=name)


class Cut(Tiny):
    """Answers as Tiny does through something that x's gradient does not pass, wholly or but for a tenth of x."""

    def __init__(self, cut, kept=0.0):
        super().__init__()
        self.cut, self.kept = cut, kept

    def forward(self, x, timestep):
        return self.kept * x + super().forward(self.cut(x), timestep)


class Quantized(Tiny):
    """Rounds x."""

    def forward(self, x, timestep):
        return super().forward((4 * x).round() / 4, timestep)


class StraightThrough(Tiny):
    """Rounds x and passes the gradient on as if it had not."""

    def forward(self, x, timestep):
        return super().forward(x + ((4 * x).round() / 4 - x).detach(), timestep)


class Chebyshev(Tiny):
    """torch's polynomials have no derivative."""

    def forward(self, x, timestep):
        return super().forward(torch.special.chebyshev_polynomial_t(torch.tanh(x), 2), timestep)


class Energy(Tiny):
    """The gradient of an energy, at an x that was detached."""

    def forward(self, x, timestep):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(super().forward(x, timestep).square().sum() / 2, x)[0]


class Twice(Function):
    """The identity, whose derivatives both say twice that."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * tangent


class Decorated(Tiny):
    @torch.inference_mode()
    def forward(self, x, timestep):
        return super().forward(x, timestep)


def lists(x):
    return torch.tensor(x.tolist(), dtype=x.dtype, device=x.device)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Cut(torch.Tensor.detach), r"is exactly 0, yet.*inside it: detach"),
        (Cut(torch.Tensor.detach, 0.1), r"stops gradients in a part.*inside it: detach"),
        (Cut(lambda x: x.data), r"is exactly 0, yet.*inside it: \.data"),
        (Cut(lambda x: torch.from_numpy(x.detach().cpu().numpy().copy()).to(x)), r"is exactly 0, yet.*numpy"),
        (Cut(lists, 0.1), r"stops gradients in a part.*tolist"),
        (Cut(Twice.apply), r"differs from finite differences in x by (49|50)\."),
        (Quantized(), r"rounds x.*inside it: round"),
        (StraightThrough(), r"rounds x.*inside it: detach, round"),
        (Chebyshev(), r"is exactly 0, yet.*an operation without a derivative"),
        (Energy(), r"is exactly 0, yet.*inside it: detach"),
        pytest.param(Decorated(), r"is exactly 0, yet.*inside it: torch\.inference_mode", marks=pytest.mark.real),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, nn.Module) else "",
)
@pytest.mark.parametrize("plan", [JACOBIAN, PLAN.replace(quantities=("sensitivity",))], ids=["norm", "sensitivity"])
def test_a_jacobian_that_is_not_that_of_the_answers_is_refused(network, words, plan, device):
    """Forward and reverse products agree in each of them. The quotient of the same network is Tiny's own."""
    with pytest.raises(CheckpointError, match=words):
        measure(network, plan, device)


def test_what_cuts_the_gradient_in_x_alone_leaves_the_quotient_right():
    equal(measure(Cut(torch.Tensor.detach), QUOTIENT), measure(Tiny(), QUOTIENT))


class Backward(Tiny):
    """Cut on the way back alone."""

    def forward(self, x, timestep):
        with torch.no_grad():
            cut = super().forward(x, timestep)
        return 0.1 * x + cut


def test_a_wrong_backward_alone_is_told_from_a_wrong_forward_product():
    with pytest.raises(CheckpointError, match=r"reverse Jacobian products disagree.*those of differences.*no_grad"):
        measure(Backward(), JACOBIAN)
    measure(Backward(), PLAN.replace(quantities=("sensitivity",)))  # which takes forward products alone


class Deep(Tiny):
    """Kinks in x at many places."""

    def forward(self, x, timestep):
        h = self.first(x) + self.embed(timestep)
        for _ in range(8):
            h = relu(h - h.roll(1, 1) + 0.3 * h.flip(-1))
        return self.last(h)


class Coarse(Tiny):
    """Computes a part of itself in half the precision."""

    def __init__(self, dtype=torch.float16):
        super().__init__()
        self.dtype = dtype

    def forward(self, x, timestep):
        h = silu(self.first(x) + self.embed(timestep)).to(self.dtype)
        return conv2d(h, self.last.weight.to(self.dtype), self.last.bias.to(self.dtype), padding=1).to(x.dtype)


@pytest.mark.parametrize("network", [Deep(), Coarse(), Coarse(torch.bfloat16)], ids=["kinks", "half", "bfloat16"])
def test_kinks_and_coarse_arithmetic_are_no_wrong_jacobian(network, device):
    found = measure(network, JACOBIAN, device)
    assert (found["spectral_norm"] > 0).all()
    assert not notes(found)


class Noisy(Tiny):
    def forward(self, x, timestep):
        return dropout(super().forward(x, timestep), 0.1)


class Counting(Tiny):
    """Anneals something with every second call."""

    calls = 0

    def forward(self, x, timestep):
        self.calls += 1
        return (1 + 0.01 * (self.calls % 2)) * super().forward(x, timestep)


class Cached(Tiny):
    """Keeps what time adds until x has changed by much, as samplers are sped up."""

    kept = None

    def forward(self, x, timestep):
        h = self.first(x)
        if self.kept is None or self.kept[0].shape != h.shape or (h - self.kept[0]).norm() > 0.3 * h.norm():
            self.kept = h, self.embed(timestep)
        return self.last(silu(h + self.kept[1]))


class CachedByTime(Tiny):
    """Keeps what x adds until the time has changed by much."""

    kept = None

    def forward(self, x, timestep):
        h = self.first(x)
        if self.kept is None or self.kept[0].shape != timestep.shape or (timestep - self.kept[0]).norm() > 0.5:
            self.kept = timestep, h
        return self.last(silu(0.5 * h + 0.5 * self.kept[1] + self.embed(timestep)))


class EveryThird(Tiny):
    """Computes its features in every third call."""

    calls, kept = 0, None

    def forward(self, x, timestep):
        h = self.first(x) + self.embed(timestep)
        if self.calls % 3 == 0 or self.kept.shape != h.shape:
            self.kept = silu(h)
        self.calls += 1
        return self.last(self.kept + 0.1 * h)


@pytest.mark.parametrize("plan", [PLAN, QUOTIENT, PLAN.replace(timesteps=(5.0,), quantities=("loss",))])
@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Noisy, "draws random numbers"),
        (Counting, "counts its calls"),
        (Cached, "remembers earlier calls"),
        (CachedByTime, "remembers earlier calls|switch caches off"),
        (EveryThird, "the same question differently"),
    ],
)
def test_a_network_that_answers_one_question_differently_is_refused_whatever_is_asked_of_it(network, words, plan):
    with pytest.raises(CheckpointError, match=words):
        measure(network(), plan)


class Placed(Tiny):
    """Adds something of its own to each place of a batch."""

    def forward(self, x, timestep):
        return super().forward(x, timestep) + torch.arange(len(x)).view(-1, 1, 1, 1) / 10


class Lonely(Tiny):
    """Answers otherwise when it is asked about a single sample."""

    def forward(self, x, timestep):
        return super().forward(x, timestep) * (2 if len(x) == 1 else 1)


class MixingOneTime(Mixing):
    def forward(self, x, timestep):
        assert (timestep == timestep[0]).all(), "one timestep a batch"
        return super().forward(x, timestep)


@pytest.mark.parametrize("network", [Mixing, Placed, Lonely, MixingOneTime])
@pytest.mark.parametrize("plan", [JACOBIAN, QUOTIENT])
def test_samples_that_see_each_other_spoil_the_quotient_too(network, plan):
    with pytest.raises(CheckpointError, match="see each other"):
        measure(network(), plan)


class OneTime(Tiny):
    """Reads one time off a batch; `embed` of Tiny's would read each sample's."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def forward(self, x, timestep):
        time = self.read(timestep)
        scale = 1.0 if time.flatten()[0] < 950 else 2.0  # an expert for the end of the range
        return scale * super().forward(x, time.expand(len(x)))


def insisting(timestep):
    if len(timestep.unique()) > 1:
        raise ValueError("all timesteps of a batch must be equal")
    return timestep


READ = {
    "first": lambda t: t[:1],
    "last": lambda t: t[-1],
    "mean": lambda t: t.mean(),
    "sorted": lambda t: t.sort().values,
    "insisting": insisting,
}
EVERYTHING = (
    *("time_derivative", "time_difference", "trajectory_derivative", "spectral_norm", "trace", "stein", "sensitivity"),
    *("one_sided_lipschitz", "asymmetry", "loss"),
)


@pytest.mark.parametrize("read", READ)
def test_a_network_that_reads_one_time_off_a_batch_is_measured_one_timestep_at_a_time(read):
    plan = PLAN.replace(timesteps=(5.0, 300.0, 999.0), quantities=EVERYTHING)
    found = measure(OneTime(READ[read]), plan)
    alone = [measure(OneTime(READ[read]), plan.replace(timesteps=(k,))) for k in plan.timesteps]
    for i, one in enumerate(alone):
        equal(found.isel(time=[i]), one)
    assert any("measured with one timestep a batch" in note for note in notes(found))
    assert not any("one timestep a batch" in note for note in notes(alone[0]))
    np.testing.assert_allclose(found["loss"][0], measure(Tiny(), plan)["loss"][0], rtol=1e-5)


def test_a_time_that_weighs_a_thousandth_is_not_read_off_another_sample_either():
    class Faint(Tiny):
        def forward(self, x, timestep):
            return super().forward(x, 0 * timestep) * (1 + 1e-3 * torch.sin(timestep[0] / 50))

    found = measure(Faint(), QUOTIENT)
    for i, k in enumerate(TIMES):
        equal(found.isel(time=[i]), measure(Faint(), QUOTIENT.replace(timesteps=(k,))))


def test_columns_of_other_times_are_right_for_such_a_network():
    plan = PLAN.replace(quantities=("pairs", "swap"))
    found, wanted = measure(OneTime(READ["first"]), plan), measure(Tiny(), plan)
    for name in ("pair_difference", "swap_loss"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_network_that_differs_at_the_last_timestep_alone_is_found_on_the_usual_grid():
    class Expert(OneTime):
        def forward(self, x, timestep):
            return Tiny.forward(self, x, timestep) * (1 if timestep[0] < 950 else 2)

    found = measure(Expert(READ["first"]), QUOTIENT.replace(timesteps="log:64", quantities=("loss",)))
    alone = measure(Expert(READ["first"]), QUOTIENT.replace(timesteps=(999.0,), quantities=("loss",)))
    np.testing.assert_allclose(found["loss"][-1], alone["loss"][0], rtol=1e-6)


class OneSample(Tiny):
    """Asks its time as if it were a number."""

    def forward(self, x, timestep):
        return super().forward(x, timestep) * (1 if timestep < 500 else 2)


def test_a_network_that_takes_one_sample_is_measured_one_sample_at_a_time():
    found, wanted = measure(OneSample()), measure(Tiny())
    for name, factor in (("time_difference", 2), ("spectral_norm", 2)):
        np.testing.assert_allclose(found[name][:2], wanted[name][:2], rtol=1e-3, err_msg=name)
        np.testing.assert_allclose(found[name][2], factor * wanted[name][2], rtol=1e-3, err_msg=name)
    assert any("one sample a batch" in note and "ambiguous" in note for note in notes(found))


class InGroups(Tiny):
    """Right whatever its batch holds, by way of smaller batches, one a timestep."""

    def forward(self, x, timestep):
        y = torch.zeros_like(x)
        for k in timestep.unique():
            y = torch.where((timestep == k)[:, None, None, None], super().forward(x, k.expand(len(x))), y)
        return y


def test_a_network_that_sorts_its_batch_and_is_right_keeps_mixed_batches():
    found = measure(InGroups(), QUOTIENT)
    np.testing.assert_allclose(found["time_difference"], measure(Tiny(), QUOTIENT)["time_difference"], rtol=1e-4)
    assert not notes(found)


class Denoiser(nn.Module):
    """Of Gaussian data of variance 1, in a turned basis: x / (1 + sigma^2), of which little is left of noise."""

    def __init__(self):
        super().__init__()
        size = int(np.prod(SHAPE))
        turn, _ = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))
        self.turn = nn.Parameter(turn)

    def forward(self, x, sigma):
        y = x.flatten(1) @ self.turn @ self.turn.T / (1 + sigma[:, None] ** 2)
        return y.view_as(x)


def test_noise_that_nearly_cancels_is_rounding_and_no_wrong_backward():
    """eps = (x - D) / sigma; its Jacobian is sigma / (1 + sigma^2) of the identity."""
    karras = Karras()
    network = NetworkPredictor(Denoiser(), karras, x0, Sigma(karras), shape=SHAPE)
    plan = JACOBIAN.replace(timesteps=(0.004,))

    def run(plan):
        return lipdiag.measure(network, DATA, plan, progress=False, probe=False, device="cpu")

    turn = network.network.turn.detach().double()
    jacobian = (torch.eye(len(turn), dtype=torch.float64) - turn @ turn.T / (1 + 0.004**2)) / 0.004
    true = float(torch.linalg.matrix_norm(jacobian, 2))  # 0.004 but for what float32 leaves of the turn
    found, fine = run(plan), run(plan.replace(dtype="float64"))
    assert [note for note in notes(found) if "of rounding" in note and "--dtype float64" in note]
    assert not [note for note in notes(fine) if "rounding" in note]
    assert (found["spectral_norm"] <= true).all()
    assert (found["spectral_norm_upper"] >= true).all()
    np.testing.assert_allclose(found["spectral_norm"], true, rtol=0.08)  # lowered by what products lose
    np.testing.assert_allclose(fine["spectral_norm"], true, rtol=1e-4)


def test_a_caller_s_inference_mode_is_set_aside():
    plan = PLAN.replace(quantities=EVERYTHING)
    wanted = measure(Tiny(), plan)
    with torch.inference_mode():
        equal(measure(Tiny(), plan), wanted)  # made and measured in it
        model = predictor()
        assert torch.is_inference_mode_enabled()
    weight = model.network.first.weight
    equal(lipdiag.measure(model, DATA, plan, progress=False, device="cpu"), wanted)
    assert model.network.first.weight is weight
    assert weight.is_inference()
    assert weight.requires_grad


class Tied(nn.Module):
    """A recurrent layer, which lists its weights a second time, a weight with two homes, a tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b, self.rnn = nn.Linear(16, 16), nn.Linear(16, 16), nn.GRU(16, 16, batch_first=True)
        self.b.weight, self.scale = self.a.weight, torch.linspace(0.5, 1, 16)

    def forward(self, x, timestep):
        h = self.a(x.flatten(1)) * self.scale + torch.sin(timestep / 50)[:, None]
        return self.b(self.rnn(h[:, None])[0][:, 0].tanh()).view_as(x)


def test_all_that_a_network_made_in_inference_mode_holds_can_be_differentiated():
    wanted = measure(Tied())
    with torch.inference_mode():
        made = Tied()
    equal(measure(made), wanted)
    assert made.b.weight is made.a.weight


class Counted(Tiny):
    calls = 0

    def forward(self, x, timestep):
        type(self).calls += 1
        return super().forward(x, timestep)


@pytest.mark.parametrize(
    ("quantities", "most"),
    [(Plan().quantities, 26), (("spectral_norm",), 17), (("time_difference",), 13), (("loss",), 13)],
)
def test_the_checks_take_a_few_forward_passes(monkeypatch, quantities, most):
    """Twelve more than one answer, two products and the differences in time took."""
    real, taken = preparation.check, []

    def counted(ready):
        before = Counted.calls
        real(ready)
        taken.append(Counted.calls - before)

    monkeypatch.setattr(preparation, "check", counted)
    measure(Counted(), PLAN.replace(quantities=quantities))
    assert 0 < taken[0] <= most


def test_nothing_is_checked_that_was_not_asked_for():
    """A network whose derivatives are all wrong, asked for its loss."""

    class Wrong(Rounding):
        def forward(self, x, timestep):
            return super().forward(x.detach(), timestep)

    plan = QUOTIENT.replace(quantities=("loss",))
    equal(measure(Wrong(), plan), measure(Tiny(), plan))
