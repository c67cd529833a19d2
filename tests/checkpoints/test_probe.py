"""The probe on models whose convention is known: exact ones in every convention, trained ones, wrong labels on each."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipdiag import checkpoints
from lipdiag.checkpoints.probe import CHOICE, at_least, probe
from lipdiag.checkpoints.trial import LEVELS, Trial
from lipdiag.data.dataset import dataset
from lipdiag.diffusion.clock import Clock, LogSigma, Reversed, Shared, Sigma, Timesteps, Unit
from lipdiag.diffusion.convention import Convention
from lipdiag.diffusion.exact import GaussianMixture
from lipdiag.diffusion.parameterization import Edm, convert, data_velocity, eps, score, v, velocity, x0
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import (
    VE,
    VP,
    Karras,
    Linear,
    Normalized,
    ScaledLinear,
    Schedule,
    SquaredCosine,
    Straight,
)
from lipdiag.diffusion.spelling import spell
from lipdiag.errors import CheckpointError

DIMENSION, COMPONENTS = 16, 6
LABEL = (Linear(), eps, Timesteps())


def mixture(schedule: Schedule, unit: bool) -> GaussianMixture:
    """Data around a few points of [-1, 1]^16, or the same in [0, 1]."""
    generator = torch.Generator().manual_seed(2)
    means = torch.rand(COMPONENTS, DIMENSION, dtype=torch.float64, generator=generator) * 1.6 - 0.8
    variances = torch.full_like(means, 0.02)
    if unit:
        means, variances = (means + 1) / 2, variances / 4
    return GaussianMixture(torch.ones(COMPONENTS, dtype=torch.float64), means, variances, schedule)


DATA = mixture(Linear(), False).draw(16, torch.Generator().manual_seed(3))


FINE = torch.cat([torch.logspace(-4, -2, 2000), torch.linspace(0.01, 1, 6001)[1:-1]]).double()


def network(schedule: Schedule, kind, clock: Clock, unit: bool = False):
    """The best possible network of a convention, by a table of times; beyond its range it takes the nearer end."""
    exact = mixture(schedule, unit)
    times, (alphas, sigmas), (a, b) = clock(FINE), schedule(FINE), kind(schedule, FINE)
    means, variance = exact.means, exact.variances[0, 0]

    def forward(x: Tensor, told: Tensor) -> Tensor:
        place = (times - told.double().nan_to_num(0.0)[:, None]).abs().argmin(1)
        alpha, sigma = alphas[place, None], sigmas[place, None]
        total = alpha**2 * variance + sigma**2
        z = x.double()[:, None] - alpha[..., None] * means
        weights = (-(z**2).sum(-1) / (2 * total)).softmax(-1)
        noise = sigma * (weights[..., None] * z).sum(1) / total
        return (a[place, None] * (x.double() - sigma * noise) / alpha + b[place, None] * noise).to(x.dtype)

    return forward


def calibrate(true, label, unit: bool = False, data: Tensor = DATA):
    return probe(NetworkPredictor(network(*true, unit), *label, (DIMENSION,)), data)


def same_time(found: Clock, true: Clock) -> bool:
    """Whether two clocks tell a network the same to within one thousandth, as an index and 1000 t do."""
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    a, b = found(t), true(t)
    return bool(((a - b).abs() <= 1.5e-3 * (b.max() - b.min()).abs()).all())


def names(found, true, unit: bool) -> bool:
    """Whether the found convention is the true one; VE and EDM's noise levels differ in their t alone."""
    best, levels = found.best, torch.linspace(-4, 5, 19, dtype=torch.float64)
    ours, theirs = (schedule.time(levels) for schedule in (best.schedule, true[0]))
    alphas = best.schedule(ours)[0] - true[0](theirs)[0]
    told, expected = best.clock(ours), true[2](theirs)
    return (
        best.parameterization == true[1]
        and (best.scale == 0.5) == unit
        and bool(alphas.abs().max() < 1e-3)
        and bool((told - expected).abs().max() <= 2e-3 * (expected.max() - expected.min()).abs())
    )


S = Linear()
KINDS = (eps, x0, v, velocity, score)
CLOCKS = (
    Timesteps(), Unit(), Unit(1000.0), Sigma(S), LogSigma(S), Reversed(Timesteps()), Reversed(Unit()),
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "clock", "unit"),
    list(itertools.product(KINDS, CLOCKS, (False, True))),
    ids=lambda x: getattr(x, "__name__", repr(x)),
)
def test_every_wrong_label_is_named(kind, clock, unit):
    """Prediction type x time unit x direction x data range, all labelled as DDPM's convention."""
    found = calibrate((S, kind, clock), LABEL, unit)
    assert names(found, (S, kind, clock), unit), found.notes
    right = (kind, unit) == (eps, False) and same_time(clock, LABEL[2])
    assert found.right == right
    assert found.evaluations <= 45
    if kind is not eps:
        assert f'--parameterization "{kind.__name__}"' in found.notes[0]


FLOWS = list(itertools.product((velocity, data_velocity, x0, eps), (Unit(), Unit(1000.0), Reversed(Unit()))))
OTHERS = [
    *((Straight(), kind, clock) for kind, clock in FLOWS),
    (SquaredCosine(), eps, Timesteps()),
    (ScaledLinear(), v, Timesteps()),
    (VE(), score, Sigma(VE())),
    (Karras(), x0, LogSigma(Karras())),
    (Karras(), Edm(), LogSigma(Karras())),
    (Normalized(Karras()), Edm(), LogSigma(Karras())),
]


@pytest.mark.parametrize("true", OTHERS, ids=lambda x: f"{x[0]} {spell(x[1])} {x[2]}")
def test_a_wrong_schedule_is_named_together_with_the_rest(true):
    found = calibrate(true, LABEL)
    assert names(found, true, False), found.notes
    assert f"--schedule {chr(34)}" in found.notes[0]


@pytest.mark.parametrize(
    "true",
    [(S, kind, clock) for kind, clock in zip(KINDS, CLOCKS, strict=False)] + OTHERS[::3] + OTHERS[-1:],
    ids=lambda x: f"{spell(x[1])} {x[2]}",
)
def test_a_right_label_stands(true):
    found = calibrate(true, true)
    assert found.right
    assert "fits the data" in found.notes[0]


def test_the_other_labels_are_put_right_too():
    """A DDPM that is labelled as something else."""
    for label in ((Straight(), velocity, Unit()), (VE(), score, Sigma(VE())), (VP(), v, Unit())):
        found = calibrate(LABEL, label)
        assert names(found, LABEL, False), found.notes


@pytest.mark.parametrize("schedule", [Karras(), Normalized(Karras())])
def test_an_edm_network_that_is_read_as_something_else(schedule):
    true = schedule, Edm(), LogSigma(Karras())
    for kind in (eps, x0):
        found = calibrate(true, (schedule, kind, true[2]))
        assert names(found, true, False), found.notes
        assert '--parameterization "edm(0.5)"' in found.notes[0]


def odd(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """What no network predicts: 0.8 x0 - 0.7 eps."""
    return torch.full_like(t, 0.8), torch.full_like(t, -0.7)


def test_answers_in_no_common_convention_are_told_from_those_that_know_nothing():
    found = calibrate((S, odd, Timesteps()), LABEL)
    assert (found.right, found.trained, found.misread) == (True, False, True)
    assert "answers together with x tell it" in found.notes[0]
    torch.manual_seed(0)
    unknowing = {"untrained": Small(), "deaf": lambda x, t: torch.tanh(3 * x.flip(1))}
    for model in unknowing.values():
        assert not probe(NetworkPredictor(model, *LABEL, (2,)), circle(16)).misread


def test_data_in_the_unit_interval_for_a_model_of_the_symmetric_one():
    found = calibrate(LABEL, LABEL, data=(DATA + 1) / 2)
    assert (found.best.scale, found.best.shift) == (2.0, -1.0)
    assert "2 x - 1" in found.notes[0]


def test_the_errors_are_those_of_the_exact_model():
    """The reported error of the right convention is the mixture's own, averaged over the same draws and noise."""
    found = calibrate(LABEL, LABEL)  # a table of times: good to a thousandth
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(CHOICE * 2, DIMENSION, dtype=torch.float64, generator=generator)  # 2 make 32 numbers
    for level, error in zip(found.levels, found.error, strict=True):
        t = S.time(torch.full((len(noise),), level, dtype=torch.float64))
        alpha, sigma = (c[:, None] for c in S(t))
        x = alpha * DATA[:CHOICE].repeat_interleave(2, 0) + sigma * noise
        expected = (mixture(S, False)(x, t) - noise).square().mean()
        assert error == pytest.approx(float(expected), rel=5e-3)
    assert found.levels == list(LEVELS)


class Small(nn.Module):
    """A perceptron that was never trained."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))

    def forward(self, x, told):
        return self.layers(torch.cat([x, told[:, None].to(x.dtype) / 1000], -1))


def circle(n: int) -> Tensor:
    angle = torch.rand(n) * 2 * torch.pi
    return torch.stack([angle.cos(), angle.sin()], -1)


class Retold(nn.Module):
    """A trained network made to speak another convention: the one in which its checkpoint might have been written."""

    def __init__(self, name: str, kind, clock: Clock):
        super().__init__()
        self.predictor, self.kind, self.clock = checkpoints.load(name), kind, clock

    def forward(self, x, told):
        p = self.predictor
        t = self.clock.time(told.double()).nan_to_num(0.5).clamp(1e-3, 1)
        noise = p.network(x, p.clock.base(t).float()).sample
        return convert(noise, x, t, p.schedule, eps, self.kind)


@pytest.mark.parametrize(
    ("name", "kind", "clock"),
    [("digits-ddpm", v, Unit()), ("digits-etsdm", x0, Reversed(Timesteps())), ("digits-ddpm", eps, LogSigma(S))],
    ids=["v", "x0", "eps"],
)
def test_trained_networks_are_recognized(name, kind, clock):
    found = probe(NetworkPredictor(Retold(name, kind, clock), *LABEL, (1, 8, 8)), digits())
    assert names(found, (S, kind, clock), False), found.notes


def digits() -> Tensor:
    data = dataset("digits")
    return torch.stack([data[i] for i in range(0, 1797, 60)])


def test_a_stranger_s_shared_timesteps_are_recognized(device):
    """The embedded twin without the record of its clock, and the DDPM beside it, which must not be taken for one."""
    found = probe(checkpoints.load("digits-etsdm", clock="timesteps(1000)").to(device), digits())
    assert found.best.clock == Shared(Timesteps(), 100, 5)
    assert '--clock "shared(timesteps(1000), 100, 5)"' in found.notes[0]
    for name in checkpoints.EMBEDDED:
        assert probe(checkpoints.load(name).to(device), digits()).right, name


class Late(nn.Module):
    """A network that would be told an earlier time, everywhere, as some that were not trained for long."""

    def __init__(self):
        super().__init__()
        self.network = checkpoints.load("digits-ddpm").network

    def forward(self, x, told):
        return self.network(x, told + 10)


def test_a_network_that_is_late_everywhere_is_not_taken_for_one_with_shared_timesteps():
    found = probe(NetworkPredictor(Late(), *LABEL, (1, 8, 8)), digits())
    assert found.right, found.notes


def test_an_untrained_model_is_said_to_be_one_and_measured():
    torch.manual_seed(0)
    found = probe(NetworkPredictor(Small(), *LABEL, (2,)), circle(16))
    assert found.right
    assert not found.trained
    assert "untrained" in found.notes[0]


def test_strange_data_are_no_reason_to_doubt_the_convention():
    found = probe(checkpoints.load("digits-ddpm"), torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert found.right
    assert not found.trained


def test_only_what_is_not_finite_stops():
    bad = NetworkPredictor(lambda x, t: x / 0, *LABEL, (2,))
    with pytest.raises(CheckpointError, match="not finite"):
        probe(bad, circle(4))
    with pytest.raises(CheckpointError, match="shape"):
        probe(NetworkPredictor(lambda x, t: x[:, :1], *LABEL, (2,)), circle(4))
    assert probe(mixture(Linear(), False), DATA) is None


def test_a_network_with_a_table_of_times_is_never_told_another():
    """As a lookup on a GPU, where an index beyond the table ends the process."""
    table, seen = torch.randn(1000, generator=torch.Generator().manual_seed(0)), []

    def lookup(x, told):
        seen.append(told)
        return x * table[told.long()][:, None]

    assert probe(NetworkPredictor(lookup, *LABEL, (2,)), circle(8)) is not None
    assert all(bool(((told >= 0) & (told < 1000)).all()) for told in seen)


def test_large_samples_go_through_in_parts(monkeypatch):
    seen = []
    whole = calibrate(LABEL, LABEL)
    monkeypatch.setattr("lipdiag.checkpoints.trial.LARGEST", 5 * DIMENSION)
    inner = network(*LABEL)
    found = probe(NetworkPredictor(lambda x, t: seen.append(len(x)) or inner(x, t), *LABEL, (DIMENSION,)), DATA)
    assert max(seen) == 5
    assert found.error == pytest.approx(whole.error, rel=1e-9)


def test_a_network_that_refuses_strange_times_is_still_probed():
    inner = network(*LABEL)

    def strict(x, told):
        assert bool(((told >= 0) & (told < 1000)).all())
        return inner(x, told)

    assert probe(NetworkPredictor(strict, *LABEL, (DIMENSION,)), DATA).right

    def broken(x, told):
        raise RuntimeError("never works")

    with pytest.raises(RuntimeError, match="never works"):
        probe(NetworkPredictor(broken, *LABEL, (DIMENSION,)), DATA)


def test_a_gain_is_at_least_its_student_interval_s_lower_end():
    """Nine samples of mean 1 and standard error 1/3: t of 8 degrees of freedom at 0.001 is 4.5008 (tables)."""
    gain = 1 + torch.tensor([-1.0, 1, -1, 1, 0, -1, 1, -1, 1], dtype=torch.float64)  # standard deviation 1
    assert at_least(gain, torch.arange(9)) == pytest.approx(1 - 4.5008 / 3, abs=1e-4)
    # three draws of each sample are no more evidence than one
    assert at_least(gain.repeat(3), torch.arange(27) % 9) == pytest.approx(1 - 4.5008 / 3, abs=1e-4)
    assert at_least(gain, torch.zeros(9)) == -np.inf


@pytest.mark.parametrize("n", [1, 2, 200])
def test_the_guess_that_knows_mean_and_variance_errs_as_wiener_says(n):
    """1 / (1 + 1 / (snr s^2)), s^2 the variance about one mean for all coordinates, or about each one's own."""
    generator = torch.Generator().manual_seed(1)
    mean = torch.tensor([3.0, -3.0], dtype=torch.float64).repeat(DIMENSION // 2) * (n > 2)
    data = mean + 2 * torch.randn(n, DIMENSION, dtype=torch.float64, generator=generator)
    rows = torch.arange(4000) % n
    trial = Trial(NetworkPredictor(network(*LABEL), *LABEL, (DIMENSION,)), data, rows, 0)
    variance = float(data.var(0).mean() * n / (n - 1)) if n > 2 else float(data.var(correction=0))
    expected = [1 / (1 + 1 / (variance * np.exp(level))) for level in LEVELS]
    assert trial.guess.mean(0).tolist() == pytest.approx(expected, rel=0.02)


def test_a_scaled_range_is_looked_at_with_the_same_noise_to_signal_ratio():
    """(x + 1) / 2 halves the signal: at log-SNR l the noise is that of l + 2 log 2 of the scaled data's schedule."""
    trial = Trial(NetworkPredictor(network(*LABEL), *LABEL, (DIMENSION,)), DATA, torch.arange(4), 0)
    for scale in (1.0, 0.5, 2.0):
        alpha, sigma = S(trial.times(Convention(*LABEL, scale)))
        ratio = 2 * (scale * alpha / sigma).log()
        torch.testing.assert_close(ratio, torch.tensor(trial.levels, dtype=torch.float64), rtol=0, atol=1e-9)


def test_memory_running_out_makes_the_parts_smaller():
    """Whatever is evaluated first or last, the result is that of all samples at once."""
    whole, inner, seen = calibrate(LABEL, LABEL), network(*LABEL), []

    def scarce(x, told):
        if len(x) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(len(x))
        return inner(x, told)

    found = probe(NetworkPredictor(scarce, *LABEL, (DIMENSION,)), DATA)
    assert (found.best, max(seen)) == (whole.best, 6)
    assert found.error == pytest.approx(whole.error, rel=1e-9)

    def none(x, told):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        probe(NetworkPredictor(none, *LABEL, (DIMENSION,)), DATA)
