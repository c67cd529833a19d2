"""Matrices with singular values or eigenvalues that are known."""

import torch
from scipy.linalg import hilbert

from lipdiag.linalg.operator import Operator
from tests.linalg.networks import randn


def operator(M) -> Operator:
    """Matrices (batch, rows, columns) as an operator."""

    def mv(v):
        return (M @ v[..., None])[..., 0]

    def vm(u):
        return (M.mT @ u[..., None])[..., 0]

    return Operator(mv, vm, M.shape[1], M.shape[2], len(M), M.dtype, M.device)


def orthogonal(batch, n, k, seed):
    """k orthonormal columns, any."""
    return torch.linalg.qr(randn(batch, n, k, seed=seed))[0]


def with_singular_values(values, rows, columns, batch=3, seed=1):
    """Matrices with the given singular values, and zeros if there are too few."""
    values = torch.as_tensor(values, dtype=torch.float64)
    k = len(values)
    return orthogonal(batch, rows, k, seed) * values @ orthogonal(batch, columns, k, seed + 100).mT


def with_eigenvalues(values, batch=3, seed=1):
    """Symmetric matrices with the given eigenvalues."""
    values = torch.as_tensor(values, dtype=torch.float64)
    Q = orthogonal(batch, len(values), len(values), seed)
    return Q * values @ Q.mT


# name -> matrices and the singular values that they were made with (None: to be found by a dense solver)
SPECTRA = {
    "geometric": lambda: (with_singular_values(0.7 ** torch.arange(20.0), 20, 20), 0.7 ** torch.arange(20.0)),
    "flat": lambda: (with_singular_values(torch.linspace(1.1, 0.9, 30), 30, 30), torch.linspace(1.1, 0.9, 30)),
    "one far out": lambda: (with_singular_values([100.0] + [1.0] * 15, 16, 16), torch.tensor([100.0] + [1.0] * 15)),
    "clusters": lambda: (
        with_singular_values([2.0, 2.0, 2.0 - 1e-9, 1.0, 1.0, 1.0, 0.5], 7, 7),
        torch.tensor([2.0, 2.0, 2.0 - 1e-9, 1.0, 1.0, 1.0, 0.5], dtype=torch.float64),
    ),
    "identity": lambda: (torch.eye(6, dtype=torch.float64).expand(3, 6, 6), torch.ones(6)),
    "projection": lambda: (with_singular_values([1.0] * 4, 9, 9), torch.tensor([1.0] * 4 + [0.0] * 5)),
    "rank one": lambda: (with_singular_values([3.0], 8, 8), torch.tensor([3.0] + [0.0] * 7)),
    "zero": lambda: (torch.zeros(3, 5, 5, dtype=torch.float64), torch.zeros(5)),
    "one number": lambda: (torch.tensor([[[2.0]], [[-3.0]], [[0.0]]]).double(), None),
    "Hilbert": lambda: (torch.from_numpy(hilbert(12)).expand(3, 12, 12), None),
    "wide": lambda: (randn(3, 7, 19), None),
    "tall": lambda: (randn(3, 19, 7), None),
    "one row": lambda: (randn(3, 1, 9), None),
    "one column": lambda: (randn(3, 9, 1), None),
    "wide, rank 3": lambda: (randn(3, 8, 3) @ randn(3, 3, 20, seed=2), None),
    "tall, rank 3": lambda: (randn(3, 20, 3) @ randn(3, 3, 8, seed=2), None),
    "tiny numbers": lambda: (1e-150 * randn(3, 10, 10), None),
    "huge numbers": lambda: (1e150 * randn(3, 10, 10), None),
    "each its own": lambda: (
        torch.stack([torch.zeros(6, 6), torch.eye(6), torch.diag(torch.arange(6.0))]).double(),
        None,
    ),
}


def spectrum(name):
    """Matrices, and their singular values from how they were made or else from a dense solver."""
    M, values = SPECTRA[name]()
    return M, (torch.linalg.svdvals(M) if values is None else values.double().expand(len(M), -1))
