"""Exact predictors, against posteriors in 50 digits, automatic differentiation, quadrature and known limits."""

import copy
import functools
import itertools
import math
from importlib import resources

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

from lipdiag.diffusion.clock import LogSNR, Shared, Sigma, Timesteps, Unit
from lipdiag.diffusion.exact import Empirical, Gaussian, GaussianMixture
from lipdiag.diffusion.optimum import SharedOptimum
from lipdiag.diffusion.schedule import (
    VE,
    VP,
    Karras,
    Linear,
    ScaledLinear,
    ShiftedCosine,
    Straight,
    ZeroTerminalSNR,
)

DOUBLE = torch.float64
TIMES = torch.tensor([1e-6, 1e-4, 1e-3, 0.02, 0.3, 0.9, 1.0], dtype=DOUBLE)
MEANS = [[0.5, -1.0, 0.25], [2.0, 0.0, -0.5], [-0.75, 1.5, 1.0]]
VARIANCES = [[0.25, 1.0, 0.0], [0.0625, 4.0, 1e-4], [1.0, 1.0, 0.5]]
WEIGHTS = [0.5, 0.125, 0.375]
ROOTS = [[[1.0, 0.5, 0.0], [0.0, 0.25, -0.5], [0.0, 0.0, 2.0]], [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.125]]]


def tensor(numbers) -> torch.Tensor:
    return torch.tensor(numbers, dtype=DOUBLE)


MATRICES = torch.stack([tensor(root) @ tensor(root).mT for root in (*ROOTS, ROOTS[0])])
MAKERS = {
    "gaussian": lambda s, c=Unit(): Gaussian(tensor(MEANS[0]), tensor(VARIANCES[0]), s, c),  # noqa: B008
    "gaussian, matrix": lambda s, c=Unit(): Gaussian(tensor(MEANS[0]), MATRICES[1], s, c),  # noqa: B008
    "mixture": lambda s, c=Unit(): GaussianMixture(tensor(WEIGHTS), tensor(MEANS), tensor(VARIANCES), s, c),  # noqa: B008
    "mixture, matrices": lambda s, c=Unit(): GaussianMixture(tensor(WEIGHTS), tensor(MEANS), MATRICES, s, c),  # noqa: B008
    "points": lambda s, c=Unit(): Empirical(tensor(MEANS), s, c),  # noqa: B008
    "shared optimum": lambda s, c=None: SharedOptimum(
        GaussianMixture(tensor(WEIGHTS), tensor(MEANS), tensor(VARIANCES), s), Shared(Timesteps())
    ),
    "shared optimum of points": lambda s, c=None: SharedOptimum(
        Empirical(tensor(MEANS), s), Shared(Timesteps(), 100, edges=(0, 5, 40, 100))
    ),
}
exact = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
laws_of_data = pytest.mark.parametrize(
    "make", [m for name, m in MAKERS.items() if "shared" not in name], ids=[n for n in MAKERS if "shared" not in n]
)
SCHEDULES = [VP(), Linear(), VE(), Straight(), ShiftedCosine(), ZeroTerminalSNR(ScaledLinear())]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def noised(predictor, t, generator) -> torch.Tensor:
    """Samples at noise levels t."""
    x0 = predictor.draw(len(t), generator)
    noise = torch.randn(x0.shape, dtype=DOUBLE, generator=generator)
    alpha, sigma = (c.reshape(-1, *[1] * (x0.ndim - 1)) for c in predictor.schedule(t))
    return alpha * x0 + sigma * noise


def one(predictor):
    """The predictor as a function of a single sample and time."""
    return lambda x, t: predictor(x[None], t[None])[0]


# --- the values, in 50 digits ---


def posterior_in_50_digits(x, t, weights, means, matrices, amplitudes):
    """E[eps | x] of a normal mixture by Bayes' rule with densities as they stand; (alpha, sigma) as a function of t."""
    alpha, sigma = amplitudes(t)
    d = len(x)
    total, noise = mp.mpf(0), mp.matrix(d, 1)
    for weight, mean, matrix in zip(weights, means, matrices, strict=True):
        V = alpha**2 * matrix + sigma**2 * mp.eye(d)
        z = mp.matrix(x) - alpha * mp.matrix(mean)
        p = mp.lu_solve(V, z)
        density = weight * mp.exp(-(z.T * p)[0] / 2) / mp.sqrt(mp.det(V))
        total += density
        noise += density * sigma * p
    return noise / total


def vp_in_50_digits(t):
    B = mp.mpf(0.1) * t + (mp.mpf(20.0) - mp.mpf(0.1)) * t**2 / 2
    return mp.exp(-B / 2), mp.sqrt(1 - mp.exp(-B))


AMPLITUDES = [(VP(), vp_in_50_digits), (Straight(), lambda t: (1 - t, t))]


@pytest.mark.parametrize(("schedule", "amplitudes"), AMPLITUDES, ids=["vp", "straight"])
@pytest.mark.parametrize("kind", ["mixture", "mixture, matrices", "points", "gaussian", "gaussian, matrix"])
@pytest.mark.parametrize("t", [1e-6, 1e-3, 0.02, 0.7])
def test_noise_and_its_derivatives_have_ten_digits(kind, schedule, amplitudes, t, generator):
    """eps*, d eps*/dt and d eps*/dx by Bayes' rule and differences in 50 digits, relative to the largest entry."""
    predictor = MAKERS[kind](schedule)
    at = tensor([t])
    x = noised(predictor, at, generator)
    diagonal = [mp.diag(v) for v in VARIANCES]
    dense = [mp.matrix(m.tolist()) for m in MATRICES]
    zero = [mp.zeros(3)] * 3
    weights, means, matrices = {
        "mixture": (WEIGHTS, MEANS, diagonal),
        "mixture, matrices": (WEIGHTS, MEANS, dense),
        "points": ([1, 1, 1], MEANS, zero),
        "gaussian": ([1], MEANS[:1], diagonal[:1]),
        "gaussian, matrix": ([1], MEANS[:1], dense[1:2]),
    }[kind]
    with mp.workdps(60):
        weights = [mp.mpf(w) for w in weights]
        row = [mp.mpf(c) for c in x[0].tolist()]

        def truth(x, t):
            return posterior_in_50_digits(x, t, weights, means, matrices, amplitudes)

        def moved(i, h):
            return [c + h if j == i else c for j, c in enumerate(row)]

        h = mp.mpf(10) ** -20 * t
        noise = truth(row, mp.mpf(t))
        rate = (truth(row, t + h) - truth(row, t - h)) / (2 * h)
        columns = [(truth(moved(i, h), mp.mpf(t)) - truth(moved(i, -h), mp.mpf(t))) / (2 * h) for i in range(3)]
        wanted = [tensor([float(c) for c in v]) for v in (noise, rate)]
        jacobian = torch.stack([tensor([float(c) for c in column]) for column in columns], dim=1)
    # Turning x onto principal axes rounds it once more, and eps* divides that by sigma.
    (_, sigma), (_, dsigma) = schedule(at), schedule.rates(at)
    rounding = 1e-15 * (x.abs().max() / sigma).item()
    pairs = [
        (predictor(x, at)[0], wanted[0], rounding),
        (predictor.time_derivative(x, at)[0], wanted[1], rounding * (dsigma / sigma).item()),
        (predictor.jacobian(x, at)[0], jacobian, 0.0),
    ]
    for got, true, rounded in pairs:
        assert (got - true).abs().max() <= 1e-10 * true.abs().max() + rounded


# --- derivatives, by automatic differentiation ---


@schedules
@exact
@pytest.mark.parametrize(
    "clock",
    [lambda s: Unit(), lambda s: Timesteps(), lambda s: LogSNR(s), lambda s: Shared(Timesteps(), 100, 5)],
    ids=["unit", "timesteps", "log_snr", "shared"],
)
def test_closed_derivatives_are_those_of_forward(make, schedule, clock, generator):
    """In t by forward and by reverse mode, in x likewise; the clock does not matter unless it is shared."""
    predictor = make(schedule, clock(schedule))
    t = TIMES[:-1] if isinstance(predictor.clock, LogSNR) else TIMES
    x = noised(predictor, t, generator)
    rate = predictor.time_derivative(x, t)
    forward = jvp(lambda t: predictor(x, t), (t,), (torch.ones_like(t),))[1]
    scale = rate.abs().amax(1, keepdim=True)
    assert ((forward - rate).abs() <= 1e-9 * scale).all()
    u = torch.randn(x.shape, dtype=DOUBLE, generator=generator)
    reverse = vjp(lambda t: predictor(x, t), t)[1](u)[0]
    assert ((reverse - (rate * u).sum(1)).abs() <= 1e-8 * (rate * u).abs().sum(1)).all()
    jacobian = predictor.jacobian(x, t)
    for mode in (jacfwd, jacrev):
        got = vmap(mode(one(predictor)))(x, t)
        assert ((got - jacobian).abs() <= 1e-9 * jacobian.abs().amax((1, 2), keepdim=True)).all()
    assert torch.isfinite(jacobian).all()
    assert torch.isfinite(rate).all()


@schedules
@laws_of_data
def test_noise_is_the_gradient_of_the_log_density(make, schedule, generator):
    """eps* = -sigma grad log q_t, and J = J^T because it is a gradient."""
    predictor = make(schedule)
    x = noised(predictor, TIMES, generator)
    gradient = grad(lambda x: predictor.log_density(x, TIMES).sum())(x)
    noise = predictor(x, TIMES)
    assert ((noise + schedule(TIMES)[1][:, None] * gradient).abs() <= 1e-9 * noise.abs().amax(1, keepdim=True)).all()
    jacobian = predictor.jacobian(x, TIMES)
    torch.testing.assert_close(jacobian, jacobian.mT)


@laws_of_data
def test_the_largest_eigenvalue_is_at_most_that_of_pure_noise(make, generator):
    """sigma J = I - (alpha/sigma)^2 Cov has no eigenvalue above 1."""
    predictor = make(VP())
    x = noised(predictor, TIMES, generator)
    scaled = VP()(TIMES)[1][:, None, None] * predictor.jacobian(x, TIMES)
    assert (torch.linalg.eigvalsh(scaled) <= 1 + 1e-9).all()


@pytest.mark.parametrize("t", [1e-3, 0.05, 0.5])
def test_densities_integrate_to_one(t):
    """On the line, by quadrature."""
    schedule = VP()
    alpha, sigma = (c.item() for c in schedule(tensor(t)))
    for predictor in (
        GaussianMixture(tensor([1.0, 3.0]), tensor([[-1.0], [1.0]]), tensor([[0.1], [0.0]]), schedule),
        Empirical(tensor([[-1.0], [1.0]]), schedule),
    ):

        def density(x, predictor=predictor):
            return predictor.log_density(tensor([[x]]), tensor([t])).exp().item()

        near = [alpha * c + k * sigma for c in (-1, 1) for k in (-8, -1, 0, 1, 8)]
        total = integrate.quad(density, -4 - 8 * sigma, 4 + 8 * sigma, points=near, limit=500)[0]
        assert abs(total - 1) < 1e-7


# --- limits ---


@pytest.mark.parametrize("sigma", [1e-6, 1e-3])
def test_points_at_tiny_noise_are_told_apart(sigma, generator):
    """With sigma = t far below their distance eps* is the true noise, J = I / sigma and d eps*/dt = -eps*/t."""
    points = torch.randn(40, 6, dtype=DOUBLE, generator=generator)
    predictor, t = Empirical(points, Karras(0.0, 1.0, 1.0)), torch.full((40,), sigma, dtype=DOUBLE)
    noise = torch.randn(40, 6, dtype=DOUBLE, generator=generator)
    x = points + sigma * noise
    # x itself is rounded to 1e-16, sigma times which is what can be known of the noise
    torch.testing.assert_close(predictor(x, t), noise, rtol=0, atol=4e-16 * 4 / sigma)
    torch.testing.assert_close(predictor.jacobian(x, t), (torch.eye(6, dtype=DOUBLE) / sigma).expand(40, 6, 6))
    torch.testing.assert_close(predictor.time_derivative(x, t), -predictor(x, t) / sigma, rtol=1e-12, atol=0)


def test_directions_without_data_are_recognised_in_a_matrix(generator):
    """Covariance 2 a a^T: across a the noise is x / sigma, along a it is sigma x / (2 + sigma^2), at sigma = 1e-6.

    The eigenvalues that should be 0 come out as 1e-17, which is not nothing beside sigma^2.
    """
    a = torch.nn.functional.normalize(torch.randn(9, dtype=DOUBLE, generator=generator), dim=0)
    x, t = torch.randn(5, 9, dtype=DOUBLE, generator=generator), torch.full((5,), 1e-6, dtype=DOUBLE)
    along = (x @ a)[:, None] * a
    wanted = (x - along) / 1e-6 + 1e-6 * along / (2 + 1e-12)
    got = Gaussian(torch.zeros(9, dtype=DOUBLE), 2 * torch.outer(a, a), Karras(0.0, 1.0, 1.0))(x, t)
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=0)


@exact
@schedules
@pytest.mark.parametrize("size", [1e3, 1e6])
def test_far_from_the_data_everything_is_finite(make, schedule, size, generator):
    predictor = make(schedule)
    x = size * torch.randn(len(TIMES), 3, dtype=DOUBLE, generator=generator)
    got = predictor(x, TIMES), predictor.time_derivative(x, TIMES), predictor.jacobian(x, TIMES)
    got += predictor.log_density(x, TIMES), jvp(predictor, (x, TIMES), (x, TIMES))[1], vjp(predictor, x, TIMES)[1](x)[0]
    assert all(torch.isfinite(g).all() for g in got)


@pytest.mark.parametrize("t", [1e-6, 1e-3, 0.1])
def test_a_tie_between_two_points(t):
    """At 0 between a and -a both weigh 1/2, eps* = 0 and d_t eps* = 0; with a counted twice, 2/3 and 1/3."""
    a, at, x = tensor([0.6, -0.8]), tensor([t]), torch.zeros(1, 2, dtype=DOUBLE)
    predictor = Empirical(torch.stack([a, -a, a]), VP())
    alpha, sigma = VP()(at)
    torch.testing.assert_close(predictor(x, at), -(alpha / sigma * a / 3)[None], rtol=1e-12, atol=0)
    wanted = (torch.eye(2, dtype=DOUBLE) - (alpha / sigma) ** 2 * 8 / 9 * torch.outer(a, a)) / sigma
    torch.testing.assert_close(predictor.jacobian(x, at)[0], wanted, rtol=1e-12, atol=1e-12 * wanted.abs().max().item())
    even = Empirical(torch.stack([a, -a]), VP())
    assert (even(x, at) == 0).all()
    assert (even.time_derivative(x, at) == 0).all()


def test_digits(generator):
    """64 numbers, 1797 points: at t = 1e-4 the noise is seen exactly, at t = 1 the data's mean is all that is left."""
    with resources.files("lipdiag").joinpath("assets/digits.npz").open("rb") as file:
        points = torch.from_numpy(next(iter(np.load(file).values()))).to(DOUBLE).reshape(-1, 1, 8, 8)
    points = points / points.max() * 2 - 1
    predictor = Empirical(points, VP())
    t = tensor([1e-6, 1e-4, 0.3, 1.0])
    x0 = predictor.draw(4, generator)
    noise = torch.randn(4, 1, 8, 8, dtype=DOUBLE, generator=generator)
    alpha, sigma = (c[:, None, None, None] for c in VP()(t))
    x = alpha * x0 + sigma * noise
    y = predictor(x, t)
    torch.testing.assert_close(y[:2], noise[:2], rtol=0, atol=1e-11)
    far = (x[3] - alpha[3] * points.mean(0)) / sigma[3]
    assert (y[3] - far).abs().max() < 3e-3  # alpha(1)^2 = 4e-5 times the data's variance
    rate = jvp(lambda t: predictor(x, t), (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(predictor.time_derivative(x, t), rate, rtol=1e-9, atol=1e-9 * rate.abs().max().item())
    v = torch.randn(4, 1, 8, 8, dtype=DOUBLE, generator=generator)
    product = jvp(lambda x: predictor(x, t), (x,), (v,))[1].flatten(1)
    assert predictor.jacobian(x, t).shape == (4, 64, 64)
    torch.testing.assert_close(
        (predictor.jacobian(x, t) @ v.flatten(1)[..., None])[..., 0], product, rtol=1e-9, atol=1e-9
    )


# --- rates near zero ---


SMOOTH = functools.partial(Gaussian, tensor([0.5, -1.0]), tensor([0.25, 1.0]))
DIRAC = functools.partial(Gaussian, tensor([0.5, -1.0]), tensor([0.0, 0.0]))
POINTS = functools.partial(Empirical, tensor([[0.5, -1.0], [1.5, 0.0]]))


@pytest.mark.parametrize(
    ("make", "schedule", "slope"),
    [
        (SMOOTH, VP(), -0.5),
        (DIRAC, VP(), -1.0),
        (POINTS, VP(), -1.0),
        (SMOOTH, Linear(), -0.5),
        (SMOOTH, ShiftedCosine(), 0.0),
        (DIRAC, ShiftedCosine(), -1.0),
        (SMOOTH, Straight(), 0.0),
        (DIRAC, Straight(), -1.0),
    ],
    ids=str,
)
def test_slope_of_the_time_derivative(make, schedule, slope, generator):
    """Root mean square of d_t eps* over t <= 1e-4: sigma' for smooth data, sigma'/sigma for points (Yang et al., 2024).

    sigma' itself has local slope -0.49985 at 1e-6 and -0.485 at 1e-4 for VP.
    """
    t = torch.logspace(-6, -4, 9, dtype=DOUBLE)
    predictor, n = make(schedule), 200
    x0, noise = predictor.draw(n, generator), torch.randn(n, 2, dtype=DOUBLE, generator=generator)
    alpha, sigma = (c[:, None, None] for c in schedule(t))
    x = (alpha * x0 + sigma * noise).reshape(-1, 2)
    rates = predictor.time_derivative(x, t.repeat_interleave(n)).reshape(len(t), n, 2)
    rms = rates.square().sum(-1).mean(-1).sqrt()
    fitted = stats.linregress(t.log().numpy(), rms.log().numpy()).slope
    assert abs(fitted - slope) < 0.01


def test_root_mean_square_of_the_time_derivative_of_normal_data(generator, p_value):
    """VP: E|d_t eps*|^2 = sigma'^2 sum([s^2 (1 + sigma^2) - sigma^2]^2 / V^3 + sigma^4 mu^2 / (alpha^2 V^2))."""
    mean, variance = tensor([0.5, -1.0]), tensor([0.25, 2.0])
    predictor, n = Gaussian(mean, variance, VP()), 20000
    for time in (1e-4, 0.05, 0.5):
        t = torch.full((n,), time, dtype=DOUBLE)
        squares = predictor.time_derivative(noised(predictor, t, generator), t).square().sum(1)
        alpha, sigma = VP()(tensor(time))
        V = alpha**2 * variance + sigma**2
        wanted = ((variance * (1 + sigma**2) - sigma**2) ** 2 / V**3 + sigma**4 * mean**2 / (alpha**2 * V**2)).sum()
        wanted = wanted * VP().rates(tensor(time))[1] ** 2
        p_value(stats.ttest_1samp(squares.numpy(), float(wanted)).pvalue)


# --- sharing ---


def test_plugged_in_sharing_evaluates_the_formula_at_the_edge(generator):
    """eps*(x, f(t)): x has the true noise level, the formula that of the block's first timestep."""
    clock = Shared(Timesteps(), 100, 5)
    t = tensor([0.001, 0.0137, 0.021, 0.1, 0.1005, 0.7])
    edge = tensor([0.001, 0.001, 0.021, 0.081, 0.081, 0.7])
    shared, plain = (MAKERS["mixture"](Linear(), c) for c in (clock, Unit()))
    x = noised(plain, t, generator)
    torch.testing.assert_close(shared(x, t), plain(x, edge), rtol=1e-12, atol=0)
    torch.testing.assert_close(shared.jacobian(x, t), plain.jacobian(x, edge), rtol=1e-12, atol=0)
    assert (shared.time_derivative(x, t)[:5] == 0).all()
    torch.testing.assert_close(shared.time_derivative(x, t)[5], plain.time_derivative(x, t)[5], rtol=1e-12, atol=0)


@pytest.mark.parametrize("x", [-2.0, 0.02, 0.9, 1.1])
def test_shared_optimum_is_the_posterior_mean_over_the_block(x):
    """E[eps | x, timestep in block] by quadrature over x0 at each timestep of the block and a plain sum over those."""
    weights, means, spreads = [0.3, 0.7], [-1.0, 1.0], [0.2, 0.05]
    schedule, clock = Linear(), Shared(Timesteps(), 100, 5)
    mixture = GaussianMixture(tensor(weights), tensor(means)[:, None], tensor(spreads)[:, None] ** 2, schedule)
    for first in (0, 40):
        numerator = denominator = 0.0
        for k in range(first, first + 20):
            alpha, sigma = (c.item() for c in schedule(tensor((k + 1) / 1000)))

            def joint(x0, alpha=alpha, sigma=sigma):
                prior = sum(w * stats.norm.pdf(x0, m, s) for w, m, s in zip(weights, means, spreads, strict=True))
                return prior * stats.norm.pdf(x, alpha * x0, sigma)

            grid = np.linspace(-6, 6, 60001)
            values = joint(grid)
            denominator += integrate.simpson(values, x=grid)
            numerator += integrate.simpson(values * (x - alpha * grid) / sigma, x=grid)
        got = SharedOptimum(mixture, clock)(tensor([[x]]), tensor([(first + 4) / 1000]))
        assert abs(got.item() - numerator / denominator) < 1e-8 * max(1, abs(numerator / denominator))


@pytest.mark.parametrize(
    ("edges", "blocks"),
    [
        ((), [(0, 20), (20, 40), (80, 100)]),
        ((0, 5, 40, 100), [(0, 5), (5, 40), (40, 100)]),
        ((10, 24, 26, 100), [(0, 24), (24, 26), (26, 100)]),  # what lies before the first edge belongs to its block
    ],
    ids=str,
)
@pytest.mark.parametrize("make", ["mixture, matrices", "points"])
def test_shared_optimum_timestep_by_timestep(make, edges, blocks, generator):
    """eps^ = E_p[eps_t] and J^ = E_p[J_t] - Cov_p(eps_t, eps_t / sigma_t), summed over the block's timesteps."""
    schedule, predictor = Linear(), MAKERS[make](Linear())
    t = tensor([0.003, 0.025, 0.099])
    x = noised(predictor, t, generator)
    optimum = SharedOptimum(predictor, Shared(Timesteps(), 100, edges=edges))
    got, got_jacobian = optimum(x, t), optimum.jacobian(x, t)
    for i, (first, end) in enumerate(blocks):
        levels = (torch.arange(first, end, dtype=DOUBLE) + 1) / 1000
        rows = x[i].expand(end - first, -1)
        p = predictor.log_density(rows, levels).softmax(0)
        noise, jacobians, sigma = predictor(rows, levels), predictor.jacobian(rows, levels), schedule(levels)[1]
        mean = sum(w * e for w, e in zip(p, noise, strict=True))
        covariance = sum(w * torch.outer(e - mean, e / s) for w, e, s in zip(p, noise, sigma, strict=True))
        jacobian = sum(w * J for w, J in zip(p, jacobians, strict=True)) - covariance
        assert (got[i] - mean).abs().max() < 1e-9 * mean.abs().max()
        assert (got_jacobian[i] - jacobian).abs().max() < 1e-9 * jacobian.abs().max()
        log_density = predictor.log_density(rows, levels).logsumexp(0) - math.log(end - first)
        torch.testing.assert_close(optimum.log_density(x, t)[i], log_density)


def test_outside_its_blocks_the_shared_optimum_is_exact(generator):
    predictor = MAKERS["mixture"](Linear())
    optimum, t = SharedOptimum(predictor, Shared(Timesteps(), 100, 5)), tensor([0.101, 0.1234, 0.9])
    x = noised(predictor, t, generator)
    for name in ("__call__", "time_derivative", "jacobian", "log_density"):
        torch.testing.assert_close(getattr(optimum, name)(x, t), getattr(predictor, name)(x, t), rtol=1e-12, atol=1e-12)


def test_shared_optimum_is_constant_in_blocks_and_knows_only_the_block(generator):
    optimum = MAKERS["shared optimum of points"](Linear())
    t = tensor([0.001, 0.004, 0.006, 0.0405, 0.041, 0.1])
    x = torch.randn(1, 3, dtype=DOUBLE, generator=generator).expand(6, -1)
    y = optimum(x, t)
    assert torch.equal(y[0], y[1])
    assert torch.equal(y[2], y[3])
    assert torch.equal(y[4], y[5])
    assert not torch.allclose(y[1], y[2])
    assert (optimum.time_derivative(x, t) == 0).all()
    assert torch.equal(y, optimum.conditioned(x, tensor([0.5] * 6), tensor([0, 0, 5, 5, 40, 40])))


def test_what_sharing_costs_for_a_point_on_the_line():
    """Excess loss relative to E|eps*|^2 over the 100 shared steps: 3.2e-2, by Gauss-Hermite quadrature."""
    point = Gaussian(tensor([0.0]), tensor([0.0]), Linear())
    optimum = SharedOptimum(point, Shared(Timesteps(), 100, 5))
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(80))
    t = (torch.arange(100, dtype=DOUBLE) + 1) / 1000
    each_t = t.repeat_interleave(80)
    x = (Linear()(t)[1][:, None] * nodes).reshape(-1, 1)
    excess = (optimum(x, each_t) - point(x, each_t)).square().reshape(100, 80)
    assert abs((excess @ weights / weights.sum()).mean() - 0.032) < 5e-4


# --- being a module ---


@exact
def test_float32_is_computed_in_float64(make, device, generator):
    """The result is the rounded float64 one, also after the module was cast, copied and moved."""
    predictor = make(Linear())
    t = TIMES[1:].to(device)
    x = noised(predictor, t.cpu(), generator).float().to(device)
    wanted = make(Linear()).to(device)(x.double(), t).float()
    for module in (predictor, copy.deepcopy(predictor).float(), copy.deepcopy(predictor).to(torch.bfloat16)):
        got = module.to(device)(x, t)
        assert got.dtype == torch.float32
        assert torch.equal(got, wanted)
        assert all(buffer.dtype == DOUBLE for buffer in module.buffers())


@laws_of_data
def test_draws_have_the_mean_and_covariance_of_the_data(make, seed, p_value):
    """20000 draws of 3 means and 9 second moments, with Bonferroni's correction."""
    predictor, n = make(VP()), 20000
    draws = predictor.draw(n, torch.Generator().manual_seed(seed))
    assert draws.shape == (n, 3)
    if isinstance(predictor, Empirical):
        weights, means, matrices = [1 / 3] * 3, tensor(MEANS), torch.zeros(3, 3, 3, dtype=DOUBLE)
    else:
        rows = predictor.means.shape[0]
        weights = WEIGHTS if rows == 3 else [1.0]
        means = tensor(MEANS)[:rows]
        dense = MATRICES if rows == 3 else MATRICES[1:2]
        matrices = dense if predictor.axes is not None else torch.diag_embed(tensor(VARIANCES)[:rows])
    mean = sum(w * m for w, m in zip(weights, means, strict=True))
    second = sum(w * (S + torch.outer(m, m)) for w, m, S in zip(weights, means, matrices, strict=True))
    products = torch.einsum("bi,bj->bij", draws, draws).flatten(1)
    found, exact = torch.cat([draws, products], 1), torch.cat([mean, second.flatten()])
    errors = (found.mean(0) - exact).abs() / (found.std(0) / math.sqrt(n) + 1e-12)
    p_value(min(1, 2 * len(errors) * stats.norm.sf(float(errors.max()))))


def test_samples_keep_their_shape(generator):
    points = torch.randn(5, 1, 2, 3, dtype=DOUBLE, generator=generator)
    matrix = torch.eye(6, dtype=DOUBLE) + 0.5
    t = tensor([0.1, 0.4])
    for predictor in (
        Empirical(points, VP()),
        Gaussian(points[0], points[1].square(), VP()),
        Gaussian(points[0], matrix, VP()),
        GaussianMixture(torch.ones(5), points, points.square(), VP()),
        GaussianMixture(torch.ones(5), points, matrix.expand(5, 6, 6), VP()),
    ):
        x = predictor.draw(2, generator)
        assert predictor.shape == (1, 2, 3)
        assert x.shape == predictor(x, t).shape == predictor.time_derivative(x, t).shape == (2, 1, 2, 3)
        assert predictor.jacobian(x, t).shape == (2, 6, 6)
        singles = [predictor(x[i : i + 1], t[i : i + 1]) for i in range(2)]
        torch.testing.assert_close(predictor(x, t), torch.cat(singles), rtol=1e-13, atol=1e-13)


def test_a_diagonal_matrix_is_the_same_as_its_variances(generator):
    s = Linear()
    x = torch.randn(7, 3, dtype=DOUBLE, generator=generator)
    dense = GaussianMixture(tensor(WEIGHTS), tensor(MEANS), torch.diag_embed(tensor(VARIANCES)), s)
    for name, get in itertools.product(["__call__", "time_derivative", "jacobian"], [MAKERS["mixture"]]):
        got, wanted = getattr(dense, name)(x, TIMES), getattr(get(s), name)(x, TIMES)
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10 * wanted.abs().max().item())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(tensor([0.0, 0.0]), tensor([1.0]), VP()), "give variances of that shape or matrices"),
        (lambda: Gaussian(tensor([0.0, 0.0]), tensor([1.0, -1.0]), VP()), "got a negative variance, -1"),
        (lambda: Gaussian(tensor([0.0, 0.0]), tensor([[1.0, 0.5], [0.0, 1.0]]), VP()), "not symmetric"),
        (lambda: Gaussian(tensor([0.0, 0.0]), tensor([[1.0, 2.0], [2.0, 1.0]]), VP()), "got a negative variance, -1"),
        (lambda: GaussianMixture(tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2, 1), VP()), "all are positive"),
        (lambda: SharedOptimum(MAKERS["points"](VP()), Shared(Unit(), 0.1)), "only with an index clock"),
    ],
)
def test_what_is_no_law_of_data_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_sigma_as_the_clock_of_a_flow(generator):
    """The ratio sigma / alpha is infinite at t = 1 of a flow; the prediction there is still that of t = 1."""
    t = tensor([0.25, 1.0])
    plain, told = (MAKERS["mixture"](Straight(), c) for c in (Unit(), Sigma(Straight())))
    x = noised(plain, t, generator)
    torch.testing.assert_close(told(x, t), plain(x, t))
    torch.testing.assert_close(told.time_derivative(x, t), plain.time_derivative(x, t))
