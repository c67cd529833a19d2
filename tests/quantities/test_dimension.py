"""FLIPD and the normal bundle of data whose dimension is known, and where they have a closed form, the form."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.diffusion.clock import Timesteps, Unit
from lipdiag.diffusion.exact import Empirical, Gaussian, GaussianMixture
from lipdiag.diffusion.schedule import VE, VP, Linear, Straight
from lipdiag.quantities import draw

D, K = 10, 3
NAMES = ("flipd", "normal_bundle")


def measured(model, data, timesteps=(1e-4,), quantities=NAMES, **how):
    plan = Plan(timesteps=timesteps, dtype="float64", quantities=quantities, **({"draws": 4, "probes": 2} | how))
    return lipdiag.measure(model, data, plan, progress=False, probe=False)


def turned(variances):
    """A Gaussian of these variances along axes of no picture, and data of it."""
    g = torch.Generator().manual_seed(3)
    axes = torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64))[0]
    spread = torch.as_tensor(variances, dtype=torch.float64)
    covariance = axes @ torch.diag(spread) @ axes.T
    return lambda schedule: Gaussian(torch.full((D,), 0.3, dtype=torch.float64), covariance, schedule)


@pytest.mark.parametrize(
    ("schedule", "dimension"),
    [(VP(), 0), (VP(), K), (VE(0.001, 50.0), K), (Straight(), D - 1), (VP(), D)],
    ids=["none", "vp", "ve", "straight", "all"],
)
def test_a_plane_has_its_dimension(schedule, dimension):
    model = turned([1.0] * dimension + [0.0] * (D - dimension))(schedule)
    data = model.draw(64, torch.Generator().manual_seed(0)).numpy()
    run = measured(model, data, (1e-3,), draws=16)
    assert (run["normal_bundle"] == dimension).all()
    assert (run["normal_bundle_gap"] > 0.3).all()
    off = run["flipd"].values - dimension  # of the signs that tell the trace
    assert abs(off.mean()) < 4.5 * off.std(ddof=1) / 4 + 0.02


def test_two_planes_of_unlike_dimension_are_told_apart_at_each_sample():
    """Which of them a sample lies in is what a mean over the data would not tell."""
    flat = torch.zeros(2, D, D, dtype=torch.float64)
    for plane, dimension in enumerate((2, 6)):
        flat[plane].diagonal()[:dimension] = 1.0
    means = torch.stack([torch.full((D,), 5.0), torch.full((D,), -5.0)]).double()
    model = GaussianMixture(torch.tensor([0.5, 0.5]), means, flat + 1e-12 * torch.eye(D, dtype=torch.float64), VP())
    data = model.draw(32, torch.Generator().manual_seed(0)).numpy()
    run = measured(model, data, draws=8)
    x0 = np.stack([data[draw.data_index(0, i, len(data))] for i in range(8)])
    expected = np.where(x0[:, -1] > 0, 2, 6)  # the last axis is flat in both
    assert set(expected) == {2, 6}
    np.testing.assert_array_equal(run["normal_bundle"][0], expected)
    np.testing.assert_allclose(run["flipd"][0], expected, atol=0.02)


def test_flipd_is_the_formula_of_a_gaussian():
    """At alpha x0: with V = alpha^2 v + sigma^2, the sum of alpha^2 v / V and of (sigma alpha (x0 - m) / V)^2."""
    variances = torch.tensor(np.geomspace(1e-3, 2, D))
    model = Gaussian(torch.full((D,), 0.3, dtype=torch.float64), variances, VP())
    data = model.draw(16, torch.Generator().manual_seed(0)).numpy()
    run = measured(model, data, (0.01, 0.2, 0.7), ("flipd",))
    for number, t in enumerate(run["time"].values):
        alpha, sigma = (float(s) for s in model.schedule(torch.tensor(float(t), dtype=torch.float64)))
        V = alpha**2 * variances.numpy() + sigma**2
        for i in range(4):
            x0 = data[draw.data_index(0, i, len(data))]
            truth = D - (sigma**2 / V).sum() + ((sigma * alpha * (x0 - 0.3) / V) ** 2).sum()
            assert float(run["flipd"][number, i]) == pytest.approx(truth, rel=1e-6)


def test_what_is_known_by_heart_is_told_from_what_is_understood():
    """The exact predictor of few points knows them as points, at any noise that is small between them."""
    points = torch.randn(12, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    learned, by_heart = turned([1.0] * K + [0.0] * (D - K))(VP()), Empirical(points, VP())
    data = learned.draw(64, torch.Generator().manual_seed(0)).numpy()
    for model, x0, share in ((by_heart, points.numpy(), 1), (learned, data, 0)):
        run = measured(model, x0, (1e-3,))
        assert (lipdiag.geometry(run)["memorized"] == share).all()
        assert ((run["normal_bundle"] == 0) == share).all()


def test_what_the_predictions_have_in_common_is_no_direction():
    """Off the data, as by an error of the model, all copies are told of the way back."""
    model = turned([1.0] * K + [0.0] * (D - K))(VP())
    data = model.draw(8, torch.Generator().manual_seed(0)).numpy()
    off = 0.1 * np.linalg.svd(data - 0.3)[2][-1]  # normal to the plane
    assert (measured(model, data + off, (1e-4,), ("normal_bundle",))["normal_bundle"] == K).all()


def test_smooth_data_have_no_gap():
    """Where variances are spread about that of the noise, none of them is thin and none wide."""
    model = turned(np.geomspace(0.05, 5, D))(VE(0.01, 50.0))
    at = float(model.schedule.time(torch.tensor(0.7, dtype=torch.float64)))  # sigma^2 = 0.5
    run = measured(model, model.draw(8, torch.Generator().manual_seed(0)).numpy(), (at,), ("normal_bundle",))
    assert (run["normal_bundle_gap"] < 0.3).all()


def test_they_are_optional_and_have_their_price():
    assert not set(NAMES) & set(Plan().quantities)
    assert Plan(quantities=("normal_bundle",)).passes(12, (1, 8, 8)) == 1 + 4 * 64
    assert Plan(quantities=("flipd",), probes=3).passes(12) == 1 + 4


@pytest.mark.parametrize("clock", [Unit(), Timesteps(1000)], ids=["continuous", "index"])
def test_no_number_depends_on_what_is_measured_beside_it(clock):
    model = Gaussian(torch.zeros(D, dtype=torch.float64), torch.ones(D, dtype=torch.float64), Linear(), clock)
    first, last = (10.0, 100.0) if clock == Timesteps(1000) else (0.01, 0.1)
    data = np.ones((2, D))
    together, alone = (measured(model, data, times)["normal_bundle"] for times in ((first, last), (last,)))
    np.testing.assert_array_equal(together[1], alone[0])
