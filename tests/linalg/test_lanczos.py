"""Singular values and eigenvalues against the spectra that matrices were made with, and the recurrences' identities."""

import itertools
import math
from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode

from lipdiag.linalg import bidiagonalization
from lipdiag.linalg.bidiagonalization import golub_kahan
from lipdiag.linalg.lanczos import extreme_eigenvalues, singular_values
from lipdiag.linalg.operator import Operator, symmetric_part
from lipdiag.linalg.products import with_products
from lipdiag.linalg.trace import sphere
from tests.linalg.matrices import SPECTRA, operator, spectrum, with_eigenvalues, with_singular_values
from tests.linalg.networks import randn

SURE = 1 - 1e-9  # confidence of bounds that no test should see fail; how often they fail otherwise: test_certificate.py


def start(A: Operator, seed=7):
    return sphere((A.batch, A.columns), torch.Generator().manual_seed(seed), dtype=A.dtype, device=A.device)


def size(M):
    """The norm of each matrix, or one where it is zero."""
    norm = torch.linalg.matrix_norm(M, 2)
    return torch.where(norm > 0, norm, 1)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_defining_identities(name, device):
    """A V = U B, A' U = V B' + beta v e', and orthonormal bases, through every breakdown."""
    M = spectrum(name)[0].to(device)
    A, k = operator(M), min(M.shape[1:])
    run = golub_kahan(A, start(A), k)
    U, V, v = run.left.mT, run.right[:, :k].mT, run.right[:, k]
    B = torch.diag_embed(run.alpha) + torch.diag_embed(run.beta[:, :-1], offset=1)
    last = torch.zeros(k, dtype=M.dtype, device=device)
    last[-1] = 1
    scale, eye = size(M)[:, None, None], torch.eye(k, dtype=M.dtype, device=device).expand(len(M), k, k)
    remainder = (run.beta[:, -1:, None] * v[:, :, None]) * last
    torch.testing.assert_close(M @ V / scale, U @ B / scale, rtol=0, atol=1e-13)
    torch.testing.assert_close(M.mT @ U / scale, (V @ B.mT + remainder) / scale, rtol=0, atol=1e-13)
    torch.testing.assert_close(U.mT @ U, eye, rtol=0, atol=1e-13)
    torch.testing.assert_close(V.mT @ V, eye, rtol=0, atol=1e-13)
    assert (run.adjoint_gap < 1e-12).all()


@pytest.mark.parametrize("name", SPECTRA)
def test_at_full_depth_all_singular_values_are_exact(name, device):
    """To 1e-10 of the largest, multiple ones and zeros too, with nothing left to doubt."""
    M, values = spectrum(name)
    M, values = M.to(device), values.to(device)
    A, k = operator(M), min(M.shape[1:])
    found = singular_values(A, start(A), 1000, count=k)
    scale = size(M)
    torch.testing.assert_close(found.values / scale[:, None], values[:, :k] / scale[:, None], rtol=0, atol=1e-10)
    torch.testing.assert_close(found.upper / scale, values[:, 0] / scale, rtol=0, atol=1e-10)
    assert (found.residuals <= 1e-10 * scale[:, None]).all()
    assert found.steps == k
    assert found.products == 2 * k


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_values_approach_from_below_and_evidence_holds(name, steps, device):
    """Each value is at most the true one of its rank and within its residual of some true one; the bound is above."""
    M, values = spectrum(name)
    M, values = M.to(device), values.to(device)
    A = operator(M)
    count = min(steps, *M.shape[1:])
    found = singular_values(A, start(A), steps, count=count, confidence=SURE)
    scale = 1e-10 * size(M)
    assert (found.values <= values[:, :count] + scale[:, None]).all()
    distance = (found.values[:, :, None] - values[:, None, :]).abs().amin(-1)
    assert (distance <= found.residuals + scale[:, None]).all()
    assert (found.upper >= found.values[:, 0]).all()
    assert (found.upper + scale >= values[:, 0]).all()
    torch.testing.assert_close(found.image, A.mv(found.first), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.alpha1, found.image.norm(dim=1))


def test_values_grow_and_bounds_shrink_with_every_step(device):
    M = with_singular_values(torch.linspace(1.2, 0.1, 60), 60, 60).to(device)
    A = operator(M)
    runs = [singular_values(A, start(A), k) for k in range(1, 40)]
    for a, b in itertools.pairwise(runs):
        assert (b.values >= a.values - 1e-13).all()
        assert (b.upper <= a.upper + 1e-13).all()


def test_products_in_float32_do_not_spoil_the_recurrence(device):
    """Values right to float32, and bases orthogonal to float64, at a depth where they would not be otherwise."""
    M = with_singular_values(0.9 ** torch.arange(100.0), 100, 100).to(device)
    A = operator(M.float())
    found = singular_values(A, start(A), 60, count=5)
    below = (0.9 ** torch.arange(5.0, dtype=torch.float64)).to(device) - found.values
    assert ((below >= 0) & (below <= 1.5e-5)).all()
    assert found.values.dtype == torch.float64
    run = golub_kahan(A, start(A), 60)
    eye = torch.eye(60, dtype=torch.float64, device=device)
    assert ((run.right[:, :60] @ run.right[:, :60].mT) - eye).abs().max() < 1e-12
    assert ((run.left @ run.left.mT) - eye).abs().max() < 1e-12
    assert (run.adjoint_gap < 1e-5).all()


def test_a_run_ends_at_the_first_step_that_is_narrow_enough(device):
    """For all of them, of which now one is the widest and then another."""
    M = with_singular_values(torch.linspace(1.2, 0.1, 200), 200, 200, batch=20).to(device)
    A = operator(M)
    for width in (0.1, 0.085, 0.07, 0.05, 0.03):
        found = singular_values(A, start(A), 100, width=width)
        assert (found.upper <= (1 + width) * found.values[:, 0]).all()
        assert 8 < found.steps < 100
        before = singular_values(A, start(A), found.steps - 1)
        assert (before.upper > (1 + width) * before.values[:, 0]).any()
    assert singular_values(A, start(A), 100, width=10.0).steps == 8
    assert singular_values(A, start(A), 100, width=10.0, minimum=3).steps == 3
    assert singular_values(A, start(A), 9, width=1e-9).steps == 9


@pytest.mark.parametrize("wrong", [0.0, -1.0, 1.01])
def test_products_that_are_not_adjoint_are_noticed(wrong, device):
    M = randn(3, 10, 10).to(device)
    A, B = operator(M), operator(wrong * M)
    found = singular_values(Operator(A.mv, B.vm, 10, 10, 3, M.dtype, M.device), start(A), 3)
    torch.testing.assert_close(found.adjoint_gap, torch.full((3,), abs(1 - wrong)).to(M))


def test_a_sample_that_is_not_finite_does_not_spoil_the_others(device):
    M = randn(3, 20, 20).to(device)
    exact = torch.linalg.svdvals(M)[:, 0]
    M[1, 3, 4] = math.nan
    A = operator(M)
    found = singular_values(A, start(A), 20, width=0.05)
    assert found.values[:, 0].isnan().tolist() == [False, True, False]
    assert found.upper.isnan().tolist() == [False, True, False]
    assert ((found.values[:, 0] <= exact) | found.values[:, 0].isnan()).all()
    S = M + M.mT
    extreme = extreme_eigenvalues(operator(S), start(A), 20, width=0.05)
    for z in extreme[:6]:
        assert z.isnan().tolist() == [False, True, False]


def test_a_sample_does_not_see_the_others(device):
    M = randn(4, 12, 9).to(device)
    A = operator(M)
    together = singular_values(A, start(A), 6)
    for i in range(4):
        alone = singular_values(operator(M[i : i + 1]), start(A)[i : i + 1], 6)
        torch.testing.assert_close(alone.values[0], together.values[i], rtol=1e-12, atol=0)
        torch.testing.assert_close(alone.upper[0], together.upper[i], rtol=1e-9, atol=0)


def test_what_cannot_be_asked_is_refused():
    A = operator(randn(2, 4, 6))
    with pytest.raises(ValueError, match="5 values were asked for; 4 steps allow 1 to 4"):
        singular_values(A, start(A), 100, count=5)
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.0"):
        singular_values(A, start(A), 3, confidence=1.0)
    with pytest.raises(ValueError, match="5 steps were asked for; a 4 x 6 operator allows 1 to 4"):
        golub_kahan(A, start(A), 5)
    with pytest.raises(ValueError, match="4 x 6 operator"):
        extreme_eigenvalues(A, start(A), 3)
    with pytest.raises(ValueError, match="0 steps"):
        extreme_eigenvalues(operator(randn(2, 4, 4)), start(operator(randn(2, 4, 4))), 0)


class Looks(TorchFunctionMode):
    """Counts what would have to wait for a graphics processor: reads, and answers to a condition."""

    READS = "cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__"

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen += [name for name in self.READS if func is getattr(torch.Tensor, name)]
        return func(*args, **(kwargs or {}))


def reads(device) -> int:
    """How often a device that counts it was waited for."""
    if device.type != "card":
        return 0
    from tests import card

    return card.reads.total()


@contextmanager
def unread(device):
    """Raises where the host waits for the device, if that is one to be waited for."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    before = reads(device)
    try:
        with Looks() as looks:
            yield looks
        assert reads(device) == before
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_no_krylov_step_is_waited_for(device, monkeypatch):
    """Through breakdowns too; whether to go on is read once a step, and not before the least of them are done."""
    monkeypatch.setattr(bidiagonalization, "READ_FREELY", set())
    for name in ("geometric", "rank one"):
        A = operator(spectrum(name)[0].to(device))
        first = start(A)
        with unread(device) as looks:
            golub_kahan(A, first, min(A.rows, A.columns))
        assert looks.seen == []
    A = operator(with_singular_values(torch.linspace(1.2, 0.1, 200), 200, 200).to(device))
    for steps in (7, 8, 11):
        with Looks() as looks:
            assert singular_values(A, start(A), steps, width=1e-9).steps == steps
        assert looks.seen.count("cpu") == max(0, steps - 7) + 1
    S = operator(with_eigenvalues(torch.linspace(-3, 2, 200)).to(device))
    with Looks() as looks:
        assert extreme_eigenvalues(S, start(S), 11, width=1e-9).steps == 11
    assert looks.seen.count("cpu") == 4


@pytest.mark.parametrize("name", SPECTRA)
def test_a_device_that_is_not_waited_for_takes_the_same_steps(name, monkeypatch):
    A = operator(spectrum(name)[0])
    found = golub_kahan(A, start(A), min(A.rows, A.columns))
    monkeypatch.setattr(bidiagonalization, "READ_FREELY", set())
    same = golub_kahan(A, start(A), min(A.rows, A.columns))
    for z, w in zip(vars(found).values(), vars(same).values(), strict=True):
        assert torch.equal(z, w)


EIGENVALUES = {
    "both signs": torch.linspace(-3, 2, 25),
    "negative": -(0.8 ** torch.arange(20.0)),
    "clusters": torch.tensor([-1.0, -1.0, 0.0, 2.0, 2.0, 2.0]),
    "identity": torch.ones(5),
    "minus identity": -torch.ones(5),
    "zero": torch.zeros(5),
    "one number": torch.tensor([-4.0]),
    "one far out": torch.tensor([-1e6] + [1.0] * 10),
}


@pytest.mark.parametrize("name", EIGENVALUES)
def test_at_full_depth_extreme_eigenvalues_are_exact(name, device):
    values = EIGENVALUES[name].double().to(device)
    A = operator(with_eigenvalues(EIGENVALUES[name]).to(device))
    found = extreme_eigenvalues(A, start(A), 1000)
    scale = max(float(values.abs().max()), 1e-300)
    for z, exact in (
        (found.smallest, values.min()),
        (found.lower, values.min()),
        (found.largest, values.max()),
        (found.upper, values.max()),
    ):
        assert ((z - exact).abs() <= 1e-10 * scale).all()
    assert (found.smallest_residual <= 1e-10 * scale).all()
    assert (found.largest_residual <= 1e-10 * scale).all()
    assert found.steps == len(values)


@pytest.mark.parametrize("name", EIGENVALUES)
@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_extreme_eigenvalues_approach_from_inside_and_evidence_holds(name, steps, device):
    values = EIGENVALUES[name].double().to(device)
    A = operator(with_eigenvalues(EIGENVALUES[name]).to(device))
    found = extreme_eigenvalues(A, start(A), steps, confidence=SURE)
    tolerance = 1e-12 * max(float(values.abs().max()), 1e-300)
    assert (found.smallest >= values.min() - tolerance).all()
    assert (found.largest <= values.max() + tolerance).all()
    assert (found.lower <= values.min() + tolerance).all()
    assert (found.upper >= values.max() - tolerance).all()
    for z, residual in ((found.smallest, found.smallest_residual), (found.largest, found.largest_residual)):
        assert ((z[:, None] - values).abs().amin(1) <= residual + tolerance).all()


def test_a_run_for_eigenvalues_ends_when_both_bounds_are_close(device):
    A = operator(with_eigenvalues(torch.linspace(-3, 2, 200)).to(device))
    found = extreme_eigenvalues(A, start(A), 100, width=0.05)
    assert (found.upper - found.largest <= 0.05 * 3).all()
    assert (found.smallest - found.lower <= 0.05 * 3).all()
    assert 8 < found.steps < 100
    assert extreme_eigenvalues(A, start(A), 100, width=10.0).steps == 8


@pytest.mark.parametrize("products", ["exact", "rounded"])
def test_samples_that_belong_together_end_at_a_step_of_their_own(products):
    """As if each group were alone, whatever stands between its samples: values, bounds and steps."""
    generator = torch.Generator().manual_seed(3)
    slow = torch.linspace(1, 0.5, 40, dtype=torch.float64)
    fast = 0.3 ** torch.arange(40, dtype=torch.float64)
    sides = torch.linalg.qr(torch.randn(2, 5, 40, 40, generator=generator, dtype=torch.float64))[0]
    group = torch.tensor([1, 0, 1, 0, 2])
    M = sides[0] * torch.stack([fast if g else slow for g in group])[:, None] @ sides[1]

    def found(some):
        kind = torch.float64 if products == "exact" else torch.float32
        A, v = operator(M[some].to(kind)), start(operator(M))[some]
        rounded = with_products(A, "tf32") if products == "rounded" else A
        exact = A if products == "rounded" else None
        largest = singular_values(rounded, v, 40, 2, 0.01, SURE, exact=exact, together=group[some])
        symmetric = symmetric_part(operator(M[some]))
        return largest, extreme_eigenvalues(symmetric, v, 40, 0.01, SURE, together=group[some])

    allowed = 1e-7 if products == "exact" else 2e-5  # by as much as exact float32 products differ in another batch
    whole = found(torch.arange(5))
    assert len(whole[0].taken.unique()) > 1
    for number in (0, 1, 2):
        some = (group == number).nonzero()[:, 0]
        for all_of_them, alone in zip(whole, found(some), strict=True):
            for name in alone._fields:
                if name not in ("steps", "products"):
                    torch.testing.assert_close(
                        getattr(all_of_them, name)[some], getattr(alone, name), rtol=1e-6, atol=allowed
                    )
