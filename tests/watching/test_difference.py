"""K measured during training, against the mean length of a normal vector."""

import numpy as np
import pytest
import torch
from scipy.special import gammaln, hyp1f1

from lipdiag.data.dataset import Array
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import Linear
from lipdiag.watching.difference import difference, drawn
from lipdiag.watching.panel import Panel
from tests.holm import coverage

MEASURED = Panel().draws


def mean_length(center: np.ndarray, sigma: float) -> float:
    """Of center + sigma eps: sigma sqrt(2) G((d + 1)/2) / G(d/2) 1F1(-1/2, d/2, -|center|^2 / (2 sigma^2))."""
    d = center.size
    gammas = np.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
    return float(sigma * np.sqrt(2) * gammas * hyp1f1(-0.5, d / 2, -(center @ center) / (2 * sigma**2)))


@pytest.mark.parametrize("k", [50, *(pytest.param(k, marks=pytest.mark.slow) for k in (0, 900))])
def test_95_of_100_intervals_hold_k(k, seed, p_value):
    """94 to 96, 1.96 standard errors at the draws of a training: 94.5 where lengths are normal, of 63 degrees.

    The exact model of normal data of variance 1/4 is eps = c(t) x with c = sigma / (alpha^2 / 4 + sigma^2), and so
    moves by |c(t') - c(t)| |x|; x is drawn about three points that are not alike.
    """
    points = np.array([[0.2, -0.1, 0.0, 0.3], [0.5, 0.5, -0.4, 0.1], [-0.6, 0.2, 0.7, -0.5]])
    alpha2 = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[k : k + 2]
    c = np.sqrt(1 - alpha2) / (alpha2 / 4 + 1 - alpha2)
    lengths = [mean_length(np.sqrt(alpha2[0]) * point, np.sqrt(1 - alpha2[0])) for point in points]
    truth = abs(c[1] - c[0]) * np.mean(lengths)
    model = Gaussian(torch.zeros(4), torch.full((4,), 0.25), Linear(), Timesteps(1000))
    data = Array("points", points.astype(np.float32), (4,))
    rounds = range(1000 * seed, 1000 * seed + 400)
    found = [difference(model, *drawn(data, MEASURED, each), k)[1:3] for each in rounds]
    p_value(coverage(sum(abs(mean - truth) <= 1.96 * error for mean, error in found), 400, 0.94, 0.96))
