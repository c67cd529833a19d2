"""Products on tensor cores: what they round, what that costs, and certificates that hold all the same."""

import numpy as np
import pytest
import torch

from lipdiag.linalg.lanczos import singular_values
from lipdiag.linalg.linearize import linearize
from lipdiag.linalg.operator import dense
from lipdiag.linalg.precision import PRODUCTS as MATRIX_PRODUCTS
from lipdiag.linalg.precision import full_precision, tensor_cores
from lipdiag.linalg.products import PRODUCTS, rounded, with_products
from lipdiag.linalg.trace import sphere
from tests.holm import coverage
from tests.linalg.networks import NETWORKS, randn

RUNS = 200
LOSS = {"ieee": 0.0, "tf32": 2.0**-11, "3xtf32": 2.0**-22}  # of a factor, relative


@pytest.fixture(scope="module")
def point(device):
    """A U-Net in float32 at one point, RUNS times, and its Jacobian in float64."""
    return at_one_point(RUNS, device)


def at_one_point(runs, device, side=8):
    torch.manual_seed(0)
    network, f = NETWORKS["UNet2DModel"].make()
    x, t = randn(1, 2, side, side).to(device), torch.tensor([300.0], dtype=torch.float64, device=device)
    network.to(device).double().eval().requires_grad_(False)
    truth = dense(linearize(f, x, t).jacobian)
    network.float()
    return linearize(f, x.float().expand(runs, -1, -1, -1), t.expand(runs)).jacobian, truth


def test_rounding_is_to_the_nearest_of_ten_bits():
    """numpy's float16 has the same ten bits, where its range reaches."""
    z = randn(10_000).float()
    assert torch.equal(rounded(z), torch.from_numpy(z.numpy().astype(np.float16).astype(np.float32)))
    odd = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1e30])
    assert torch.equal(rounded(odd)[:6], torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1.0, 1 + 2.0**-9]))
    assert rounded(torch.tensor([torch.nan])).isnan()
    assert float((rounded(odd)[6] / odd[6] - 1).abs()) <= 2.0**-11


@pytest.mark.parametrize("kind", PRODUCTS)
def test_products_lose_what_their_bits_say(point, kind):
    """Against the float64 Jacobian; an error of one factor grows by the depth of the network, here by less than 8."""
    A, J = with_products(point[0], kind), point[1]
    v, u = (sphere((RUNS, n), torch.Generator().manual_seed(1), device=A.device) for n in (A.columns, A.rows))
    for product, truth in ((A.mv(v), v.double() @ J[0].mT), (A.vm(u), u.double() @ J[0])):
        error = ((product - truth).norm(dim=1) / truth.norm(dim=1)).max()
        assert LOSS[kind] / 8 <= error <= 8 * LOSS[kind] + 3e-6
        if kind == "ieee":
            assert error > 1e-8  # it is float32 that is looked at


@pytest.mark.parametrize("kind", PRODUCTS)
def test_certified_intervals_hold_the_float64_value(point, kind, p_value):
    """RUNS random starts; the bound promises 99 %."""
    A, J = point
    truth = float(torch.linalg.svdvals(J)[0, 0])
    start = sphere((RUNS, A.columns), torch.Generator().manual_seed(2), device=A.device)
    found = singular_values(with_products(A, kind), start, 64, width=0.05, exact=None if kind == "ieee" else A)
    p_value(coverage(int((found.upper >= truth).sum()), RUNS, 0.99))
    assert (found.values[:, 0] <= truth).all()
    assert (found.upper <= 1.05 * found.values[:, 0] * (1 + 1e-3)).all()


def test_where_it_converges_the_interval_is_as_wide_as_the_rounding(device):
    """At full depth no randomness of the start is left: tf32 alone would miss the value by its own error."""
    A, J = at_one_point(2, device, side=4)
    truth = float(torch.linalg.svdvals(J)[0, 0])
    start = sphere((2, A.columns), torch.Generator().manual_seed(3), device=device)
    widths = []
    for kind in PRODUCTS:
        found = singular_values(with_products(A, kind), start, A.columns, exact=None if kind == "ieee" else A)
        assert ((found.values[:, 0] <= truth) & (truth <= found.upper)).all()
        widths.append(float((found.upper / found.values[:, 0] - 1).max()))
    assert widths[0] < widths[2] < 1e-3 < widths[1] < 5e-2


class NearTheData(torch.nn.Module):
    """The noise in x by the true x0 prediction of normal data of variances 1 to 4, of which nearly all of x is left.

    Args:
        size: Of x.
        sigma: Of the noise, and 1 - sigma of the data.
        curved: Whether numbers go through sinh and back, so that it matters where the network is linearized.
    """

    def __init__(self, size, sigma, curved):
        super().__init__()
        self.sigma, self.curved = sigma, curved
        variance = torch.linspace(1, 4, size, dtype=torch.float64)
        inner, alpha = randn(2 * size, size) / size**0.5, 1 - sigma
        outer = (alpha * variance / (alpha**2 * variance + sigma**2))[:, None] * torch.linalg.pinv(inner)
        self.inner, self.outer = torch.nn.Linear(size, 2 * size, False), torch.nn.Linear(2 * size, size, False)
        self.inner.weight.data, self.outer.weight.data = inner.float(), outer.float()

    def forward(self, x):
        hidden = self.inner(x)
        hidden = torch.asinh(torch.sinh(hidden)) if self.curved else hidden
        return (x - (1 - self.sigma) * self.outer(hidden)) / self.sigma


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize(
    ("size", "sigma", "curved"),
    [
        (1, 2**-10, True),
        (2, 2**-10, False),
        (3, 2**-10, True),
        (16, 2**-10, False),
        (16, 2**-6, True),
        (48, 2**-8, True),
    ],
)
def test_intervals_hold_where_all_but_rounding_cancels(size, sigma, curved, kind, device, p_value):
    """RUNS points, each with its own float64 Jacobian: its rounding in float32 is up to a few times the value."""
    network, x = NearTheData(size, sigma, curved).to(device), randn(RUNS, size).float().to(device)
    truth = torch.linalg.svdvals(dense(linearize(network.double(), x.double()).jacobian))[:, 0]
    A = linearize(network.float(), x).jacobian
    start = sphere((RUNS, size), torch.Generator().manual_seed(5), device=device)
    for width in (None, 0.05):
        found = singular_values(with_products(A, kind), start, 64, width=width, exact=None if kind == "ieee" else A)
        p_value(coverage(int((found.upper >= truth).sum()), RUNS, 0.99))
        p_value(coverage(int((found.values[:, 0] <= truth).sum()), RUNS, 0.99))


def test_what_was_linearized_is_not_rounded(point):
    v = sphere((RUNS, point[0].columns), torch.Generator().manual_seed(4), device=point[0].device)
    before = point[0].mv(v)
    with_products(point[0], "tf32").mv(before)
    assert torch.equal(before, point[0].mv(v))


def test_refusals(point):
    with pytest.raises(ValueError, match=r"no products 'bf16'; known are ieee, tf32, 3xtf32"):
        with_products(point[0], "bf16")
    wide = linearize(torch.tanh, randn(2, 3)).jacobian
    with pytest.raises(ValueError, match=r"products of float32, and this operator's are of torch\.float64; use ieee"):
        with_products(wide, "tf32")
    assert with_products(wide, "ieee") is wide


def test_processors_are_told_and_told_back():
    """The flags of products and convolutions alone, inside and after, whether one was set for itself or not."""
    read, write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    places = [MATRIX_PRODUCTS[0], ("cuda", "conv")]
    before = [read(*place) for place in places]
    with full_precision():
        inside = [read(*place) for place in (*places, ("cuda", "all"), ("mkldnn", "matmul"))]
        with tensor_cores():
            assert [read(*place) for place in places] == ["tf32", "tf32"]
            assert read("mkldnn", "matmul") == "ieee"
        assert [read(*place) for place in (*places, ("cuda", "all"), ("mkldnn", "matmul"))] == inside
        write("cuda", "matmul", "ieee")
        with tensor_cores():
            assert read("cuda", "matmul") == "tf32"
        assert read("cuda", "matmul") == "ieee"
    assert [read(*place) for place in places] == before
