"""Operators against matrices that are known."""

import pytest
import torch

from lipdiag.linalg.operator import dense, jacobian, symmetric_part, transpose
from tests.linalg.matrices import operator
from tests.linalg.networks import randn


@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 3, 5), (1, 1, 1)])
def test_matrices_come_back(shape, device):
    M = randn(*shape).to(device)
    A = operator(M)
    torch.testing.assert_close(dense(A), M)
    torch.testing.assert_close(dense(transpose(A)), M.mT)
    assert (transpose(A).rows, transpose(A).columns) == (A.columns, A.rows)


def test_the_symmetric_part(device):
    M = randn(2, 4, 4).to(device)
    torch.testing.assert_close(dense(symmetric_part(operator(M))), (M + M.mT) / 2)
    with pytest.raises(ValueError, match="3 x 4"):
        symmetric_part(operator(randn(1, 3, 4)))


def test_the_jacobian_of_a_quadratic_form_per_sample(device):
    """f(x)_k = x' Q_k x has the rows (Q_k + Q_k') x; every sample its own."""
    Q, x = randn(5, 6, 6).to(device), randn(3, 2, 3, seed=2).to(device)
    A = jacobian(lambda z: torch.einsum("bi,kij,bj->bk", z.flatten(1), Q, z.flatten(1)), x)
    assert (A.rows, A.columns, A.batch, A.dtype, A.device) == (5, 6, 3, torch.float64, x.device)
    torch.testing.assert_close(dense(A), torch.einsum("kij,bj->bki", Q + Q.mT, x.flatten(1)))


def test_the_jacobian_equals_that_of_torch_func(device):
    W, x = randn(4, 4).to(device), randn(3, 4, seed=2).to(device)
    f = lambda z: torch.tanh(z @ W) * z.sum(1, keepdim=True)  # noqa: E731
    torch.testing.assert_close(dense(jacobian(f, x)), torch.func.vmap(torch.func.jacrev(lambda z: f(z[None])[0]))(x))
    torch.testing.assert_close(dense(transpose(jacobian(f, x))).mT, dense(jacobian(f, x)))
