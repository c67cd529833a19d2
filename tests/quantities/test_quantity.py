"""Which two times the difference quotient compares, and every draw's numbers against their formulas."""

import numpy as np
import pytest
import torch
from scipy import stats

from lipdiag.design.plan import Plan
from lipdiag.design.points import points
from lipdiag.diffusion.clock import LogSNR, Sigma, Timesteps, Unit
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import v, velocity, x0
from lipdiag.diffusion.predictor import NetworkPredictor, Predictor
from lipdiag.diffusion.schedule import VE, VP, Linear, UnnormalizedCosine, ZeroTerminalSNR
from lipdiag.quantities.catalogue import measure_point
from lipdiag.quantities.time import other_time
from tests.holm import coverage


@pytest.mark.parametrize("clock", [Timesteps(1000), Unit(1000.0), Sigma(VE()), LogSNR(VP(0.1, 20.0))], ids=str)
@pytest.mark.parametrize("step", [0.5, -0.5, 1.0, -1.0])
def test_the_other_time_is_one_step_away_and_told_as_such(clock, step):
    """At both ends too, where a clock that has no time beyond would tell its last one."""
    timestep = clock(torch.tensor([1e-3, 0.25, 0.5, 1.0], dtype=torch.float64))
    other = other_time(clock, timestep, step)
    torch.testing.assert_close((other - timestep).abs(), torch.full_like(timestep, abs(step)))
    torch.testing.assert_close(clock(clock.time(other)), other, rtol=1e-9, atol=1e-7)


TIMES, DRAWS, SIZE = (0, 99, 998), 3, 6
VARIANCES = np.logspace(-2, 0, SIZE)


def factor(k, variances=VARIANCES):
    """c of eps = c x along an axis, sigma / (alpha^2 s^2 + sigma^2) of DDPM's linear table; (timestep, axis)."""
    alpha2 = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[np.asarray(k)][:, None]
    return np.sqrt(1 - alpha2) / (alpha2 * variances + 1 - alpha2)


def test_every_draw_has_the_numbers_of_the_formulas(device):
    """To rounding, draw by draw: over a mean of draws a step of two timesteps would pass for one."""
    model = Gaussian(torch.zeros(SIZE), torch.from_numpy(VARIANCES), Linear(), Timesteps()).to(device)
    names = ("time_difference", "time_derivative", "loss", "stein_product")
    data = torch.randn(DRAWS, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    point = points(model, Plan(quantities=names, dtype="float64"), data.__getitem__, TIMES, range(DRAWS), record=False)
    found = {name: values.view(len(TIMES), DRAWS).cpu().numpy() for name, values in measure_point(point).items()}
    x, noise = (z.view(len(TIMES), DRAWS, SIZE).cpu().numpy() for z in (point.x, point.noise))
    alpha2 = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[list(TIMES)][:, None, None]
    np.testing.assert_allclose(x, np.sqrt(alpha2) * data.numpy() + np.sqrt(1 - alpha2) * noise, rtol=1e-9)
    here, later = (factor(np.array(TIMES) + step)[:, None] for step in (0, 1))
    difference = np.linalg.norm((later - here) * x, axis=-1)
    np.testing.assert_allclose(found["time_difference"], difference, rtol=1e-7)
    np.testing.assert_allclose(found["loss"], ((here * x - noise) ** 2).mean(-1), rtol=1e-9)
    np.testing.assert_allclose(found["stein_product"], (here * x * noise).sum(-1), rtol=1e-9)
    np.testing.assert_allclose(found["stein_square"], ((here * x) ** 2).sum(-1), rtol=1e-9)
    h = 1e-6  # timesteps, of which 1000 make the unit of t
    near = (model(point.x, point.t + h) - model(point.x, point.t - h)).norm(dim=1).view(len(TIMES), DRAWS) / (2e3 * h)
    np.testing.assert_allclose(found["time_derivative"], near.cpu(), rtol=1e-5)


@pytest.mark.parametrize("kind", [v, x0, velocity], ids=lambda kind: kind.__name__)
def test_the_way_to_the_data_starts_where_there_is_no_signal_left(kind):
    """At zero terminal SNR eps = x says nothing of x0, yet the network does; in float32 and one timestep before too.

    The truth are steps of the flow made of the network's own x0, by differences along them.
    """
    schedule, clock = ZeroTerminalSNR(Linear()), Timesteps()

    def network(x, timestep):
        return torch.tanh(2 * x) * torch.cos(timestep / 500)[:, None].to(x.dtype)

    def ends(x, k):
        """x0 and eps at timestep k: two linear equations."""
        t = torch.tensor([(k + 1) / 1000], dtype=torch.float64)
        alpha, sigma = schedule(t)
        a, b = kind(schedule, t)
        y = network(x, torch.full((len(x),), k, dtype=torch.float64))
        return torch.linalg.solve(
            torch.stack([torch.cat([alpha, sigma]), torch.cat([a, b])]), torch.stack([x, y]).flatten(1)
        ).reshape(2, *x.shape)

    model = NetworkPredictor(network, schedule, kind, clock, (SIZE,))
    data = torch.randn(DRAWS, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times, h = (300, 998, 999), 1e-4
    for dtype, rtol in (("float64", 1e-3), ("float32", 5e-3)):
        plan = Plan(quantities=("trajectory_derivative",), dtype=dtype)
        point = points(model, plan, data.__getitem__, times, range(DRAWS), record=False)
        found = measure_point(point)["trajectory_derivative"].view(len(times), DRAWS).numpy()
        for row, k in enumerate(times):
            x = point.x.view(len(times), DRAWS, SIZE)[row].double()
            before = schedule(torch.tensor([(k - h + 1) / 1000], dtype=torch.float64))
            clean, noise = ends(x, k)
            moved = (noise - ends(before[0] * clean + before[1] * noise, k - h)[1]) / h
            truth = moved.norm(dim=1).numpy()
            np.testing.assert_allclose(found[row], truth, rtol=rtol, atol=3e-9)


def test_random_vectors_that_no_quantity_asks_for_are_not_drawn():
    """They would take as long as a small network's forward pass."""
    model = Gaussian(torch.zeros(SIZE), torch.from_numpy(VARIANCES), Linear(), Timesteps())
    vectors = {"start", "probes", "perturbation"}
    for name, drawn in (
        ("time_derivative", set()),
        ("loss", set()),
        ("spectral_norm", {"start"}),
        ("trace", {"start", "probes"}),
        ("sensitivity", {"perturbation"}),
    ):
        point = points(model, Plan(quantities=(name,)), lambda i: torch.zeros(SIZE), TIMES, range(DRAWS))
        measure_point(point)
        assert vectors & vars(point).keys() == drawn, name


class Matrix(Predictor):
    """eps = A x, a matrix whose trace and Frobenius norm are known."""

    def __init__(self, A):
        super().__init__(Linear(), Timesteps(), A.shape[:1])
        self.register_buffer("A", A)

    def conditioned(self, x, t, timestep):
        return x @ self.A.T.to(x.dtype)


REPEATED = [pytest.param(40, id="40"), pytest.param(400, id="400", marks=pytest.mark.slow)]


@pytest.mark.parametrize("units", REPEATED)
def test_intervals_of_traces_cover_as_they_are_measured(units, seed, p_value):
    """Units of eight draws, two random signs and the Krylov start each; Student's 95 % intervals cover 93 to 97 %.

    The start is uniform on the sphere, so that the estimates are nearly normal and no more.
    """
    n, plan = 60, Plan(quantities=("trace", "squared_frobenius_norm"), dtype="float64", krylov_steps=1, seed=seed)
    A = torch.eye(n, dtype=torch.float64)
    A = A + torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / n**0.5
    model, truths = Matrix(A), {"trace": float(A.trace()), "squared_frobenius_norm": float(A.square().sum())}
    errors, halves = ({name: [] for name in truths} for _ in range(2))
    for unit in range(units):
        draws = range(8 * unit, 8 * unit + 8)
        found = measure_point(points(model, plan, lambda i: torch.zeros(n), [9.0], draws))
        for name, truth in truths.items():
            errors[name].append(found[name] - truth)
            halves[name].append(stats.t.ppf(0.975, 8 * plan.probes) * found[f"{name}_standard_error"])
    for name in truths:
        error, half = torch.cat(errors[name]), torch.cat(halves[name])
        hits = int((error.abs() <= half).sum())
        p_value(coverage(hits, len(error), 0.93, 0.97))
        p_value(stats.ttest_1samp(error.numpy(), 0).pvalue)  # nor do wide ones hide a bias


def test_a_quotient_does_not_reach_into_a_log_snr_that_ends_in_infinity():
    """Pure noise has none: at t = 0.999 the second time is the one before."""
    clock = LogSNR(UnnormalizedCosine())
    t = torch.tensor([0.5, 0.999], dtype=torch.float64)
    assert clock(torch.ones(1, dtype=torch.float64)).isinf()
    torch.testing.assert_close(clock.time(other_time(clock, clock(t), None)), torch.tensor([0.501, 0.998]).double())
