"""What a user would write for the largest singular value of each Jacobian, at the same median error.

Products are counted on the same operators (see `spectrum.py`); what one of a rival's products costs is measured on
the network itself. Attention kernels have no second derivative, so the rivals run under the mathematical one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import functional, grad
from torch.func import jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.cost import Batch, interleaved, seconds
from benchmarks.spectrum import Count, Spectrum, arpack, krylov, power, spectrum
from lipdiag.design.plan import Plan
from lipdiag.linalg.lanczos import singular_values
from lipdiag.linalg.linearize import linearize
from lipdiag.quantities.point import Point

SAMPLES = 2
"""Pairs that a per-sample method is timed on."""

ROWS = 32
"""Rows of a Jacobian that jacrev computes at once, and is timed on where there are many more."""

LARGEST_SVD = 768
"""Size up to which a dense SVD is timed; beyond that its cost grows with the cube."""


@dataclass(frozen=True)
class Rival:
    """A method's price at a batch of pairs.

    Attributes:
        method: What it is.
        setting: How it stops.
        products: Jacobian products of each sample.
        passes: Forward passes of the batch.
        error: Median relative error.
        run: Whether it was run as a whole; else one iteration was, and its products were counted.
    """

    method: str
    setting: str
    products: float
    passes: float
    error: float
    run: bool


class Problem(NamedTuple):
    """The network at a batch of points, and a direction for each."""

    f: Callable[[Tensor, Tensor], Tensor]
    x: Float[Tensor, "batch *event"]
    t: Float[Tensor, " batch"]
    v: Float[Tensor, "batch *event"]


def problem(point: Point) -> Problem:
    return Problem(point.predictor, point.x, point.t, point.start.reshape(point.x.shape).to(point.x.dtype))


def looped(p: Problem) -> None:
    """An iteration of the power method on `SAMPLES` pairs, one at a time."""
    for i in range(SAMPLES):
        x, t, v = p.x[i : i + 1], p.t[i : i + 1], p.v[i : i + 1]
        _, image = functional.jvp(lambda x, t=t: p.f(x, t), x, v)
        functional.vjp(lambda x, t=t: p.f(x, t), x, image)


def batched(p: Problem) -> None:
    """An iteration of the power method on all pairs, each product from scratch."""
    _, image = functional.jvp(lambda x: p.f(x, p.t), p.x, p.v)
    functional.vjp(lambda x: p.f(x, p.t), p.x, image)


def kept_graph(p: Problem) -> tuple[Tensor, Tensor]:
    """The graph of f."""
    x = p.x.clone().requires_grad_()
    return x, p.f(x, p.t)


def on_kept_graph(graph: tuple[Tensor, Tensor], v: Tensor) -> None:
    """An iteration of the power method on all pairs, the gradient's graph made anew for each, as libraries do."""
    x, y = graph
    u = torch.zeros_like(y, requires_grad=True)
    g = grad(y, x, u, create_graph=True)[0]
    image = grad(g, u, v)[0]
    grad(y, x, image, retain_graph=True)


def kept_graphs(p: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The graphs of f and of its gradient, for products that use them again and again."""
    x = p.x.clone().requires_grad_()
    y = p.f(x, p.t)
    u = torch.zeros_like(y, requires_grad=True)
    return x, y, u, grad(y, x, u, create_graph=True)[0]


def on_kept_graphs(graphs: tuple[Tensor, Tensor, Tensor, Tensor], v: Tensor) -> None:
    """An iteration of the power method on all pairs by kept graphs."""
    x, y, u, g = graphs
    image = grad(g, u, v, retain_graph=True)[0]
    grad(y, x, image, retain_graph=True)


def dense_rows(p: Problem, rows: int) -> Tensor:
    """The first rows of one pair's Jacobian by jacrev."""
    x, t = p.x[0], p.t[:1]
    return jacrev(lambda x: p.f(x[None], t)[0].flatten()[:rows], chunk_size=ROWS)(x).flatten(1)


def ours(batch: Batch, point: Point, reference: Spectrum, rounds: int, limit: float) -> Rival:
    """lipdiag with as many Krylov steps as reach the error."""
    count = krylov(reference)
    values = []

    def work() -> None:
        line = linearize(point.predictor, point.x, point.t)
        values.append(singular_values(line.jacobian, point.start, steps=round(count.products / 2)).values[:, 0])

    passes = median(interleaved(batch.forward, work, rounds, limit))
    error = reference.error(values[-1])
    return Rival("lipdiag: recorded products, Golub-Kahan", count.setting, count.products, passes, error, True)


def reference_of(batch: Batch) -> tuple[Point, Spectrum]:
    """The point that all methods are compared at, and its converged spectrum."""
    point = batch.point(Plan(quantities=("spectral_norm",)))
    line = linearize(point.predictor, point.x, point.t)
    return point, spectrum(line.jacobian, point.start, batch.subject.reference_steps)


def rivals(batch: Batch, rounds: int, limit: float) -> tuple[list[Rival], Spectrum]:
    """Every method's price, lipdiag's first."""
    point, reference = reference_of(batch)
    methods = [ours(batch, point, reference, rounds, limit)]
    p, count, pairs = problem(point), power(reference), len(point.x)
    iterations, n = count.products / 2, p.x[0].numel()

    def price(work: Callable[[], object]) -> float:
        return median(interleaved(batch.forward, work, rounds, limit / 4))

    def rival(method: str, count: Count, passes: float) -> None:
        methods.append(Rival(method, count.setting, count.products, passes, count.error, False))

    with sdpa_kernel(SDPBackend.MATH):
        rival("batched power, autograd.functional", count, iterations * price(lambda: batched(p)))
        build = price(lambda: kept_graph(p))
        graph = kept_graph(p)
        once = price(lambda: on_kept_graph(graph, p.v))
        del graph
        rival("batched power, double backward", count, build + iterations * once)
        build = price(lambda: kept_graphs(p))
        graphs = kept_graphs(p)
        kept = price(lambda: on_kept_graphs(graphs, p.v))
        del graphs
        rival("batched power, double backward on kept graphs", count, build + iterations * kept)
        loop = price(lambda: looped(p)) * pairs / SAMPLES
        rival("loop of autograd.functional.jvp and vjp", count, iterations * loop)
        few = arpack(reference)
        rival("loop of scipy.sparse.linalg.svds", few, few.products / 2 * loop)
        rows = n if n <= 2 * ROWS else ROWS
        dense = price(lambda: dense_rows(p, rows)) * n / rows * pairs
    size = min(n, LARGEST_SVD)
    matrix = torch.randn(size, size)
    svd = seconds(lambda: torch.linalg.svdvals(matrix)) * (n / size) ** 3 * pairs / batch.forward()
    rival("loop of jacrev, then SVD", Count(n, 0.0, f"{n} rows"), dense + svd)
    return methods, reference
