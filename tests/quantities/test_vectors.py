"""Singular vectors of Gaussians: along the axes, largest where the data are thinnest."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import Linear


def test_vectors_of_a_gaussian_are_its_axes(device):
    variances = torch.tensor([0.5, 0.002, 1.0, 0.05, 0.2, 0.01], dtype=torch.float64)
    model = Gaussian(torch.zeros(6), variances, Linear(), Timesteps())
    plan = Plan(timesteps="0,50", draws=3, dtype="float64", quantities=("vectors",), ranks=3)
    run = lipdiag.measure(model, np.zeros((4, 6)) + 0.1, plan, progress=False, device=str(device))
    assert run["right_singular_vectors"].dims == ("time", "draw", "rank", "entry")
    alpha2 = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[[0, 50]]
    eigenvalues = np.sqrt(1 - alpha2)[:, None] / (alpha2[:, None] * variances.numpy() + 1 - alpha2[:, None])
    order = np.argsort(variances.numpy())[:3]
    for draw in range(3):
        found = run.isel(draw=draw)
        np.testing.assert_allclose(found["vector_singular_values"], eigenvalues[:, order], rtol=1e-6)
        for side in ("right", "left"):
            vectors = found[f"{side}_singular_vectors"].values
            np.testing.assert_allclose(vectors, np.broadcast_to(np.eye(6)[order], vectors.shape), atol=1e-6)
        assert (found["vector_residuals"].values <= 1e-3 * eigenvalues.max(1, keepdims=True)).all()


def test_left_and_right_belong_together(device):
    """J v = value u and J' u = value v, for a full matrix that is not symmetric."""

    class Matrix:
        schedule, shape, clock = Linear(), (5,), Timesteps()
        A = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

        def __call__(self, x, t):
            return x @ self.A.T.to(x) + 1e-3 * t[:, None].to(x)

    plan = Plan(timesteps="9", draws=2, dtype="float64", quantities=("vectors",), ranks=9)
    run = lipdiag.measure(Matrix(), np.zeros((3, 5)), plan, progress=False, device=str(device)).isel(time=0, draw=1)
    v, u = (run[f"{side}_singular_vectors"].values for side in ("right", "left"))
    values, A = run["vector_singular_values"].values, Matrix.A.numpy()
    np.testing.assert_allclose(values, np.linalg.svd(A, compute_uv=False), rtol=1e-10)
    np.testing.assert_allclose(v @ A.T, values[:, None] * u, atol=1e-10)
    np.testing.assert_allclose(u @ A, values[:, None] * v, atol=1e-10)
    assert all(vector[np.abs(vector).argmax()] > 0 for vector in v)


@pytest.mark.parametrize(
    ("size", "asked", "kept"),
    [(2, {}, 2), (12, {"ranks": 12}, 12), (14, {"ranks": 5, "krylov_steps": 3}, 3), (1, {"products": "3xtf32"}, 1)],
)
def test_as_many_ranks_as_there_are_numbers_and_steps(size, asked, kept):
    """Of a diagonal matrix, known all; more ranks than the steps that its width takes are waited for."""
    values = torch.linspace(2, 1, size)

    def model(x, t):
        return x * values.to(x)

    model.schedule, model.shape, model.clock = Linear(), (size,), Timesteps()
    names = ("singular_values", "vectors", "spectral_norm")
    plan = Plan(timesteps="9", draws=2, quantities=names, certified_width=0.5, **asked)
    run = lipdiag.measure(model, np.zeros((3, size)), plan, progress=False, device="cpu", probe=False)
    for name in ("singular_values", "vector_singular_values"):
        assert run[name].shape == (1, 2, kept)
        below = values[:kept].numpy() - run[name].values
        assert (below > 0).all()
        if plan.krylov_steps > 3:
            assert (below < 1e-3).all()
    assert run["right_singular_vectors"].shape == (1, 2, kept, size)
    assert not run["singular_values_residual"].isnull().any()
