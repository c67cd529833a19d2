"""How far the prediction moves with x: numbers of the Jacobian d eps / d x, each with its evidence."""

from typing import Any

import torch

from ..diffusion.clock import Clock
from ..linalg.lanczos import extreme_eigenvalues
from ..linalg.operator import Operator, symmetric_part
from ..linalg.trace import hutchinson_squared_frobenius_norm, hutchinson_trace
from .accuracy import Accuracy
from .point import Point
from .quantity import KRYLOV, MANY_PRODUCTS, PROBES, RANKS, SPECTRAL, Quantity, Values, Variable


def spectral_norm(point: Point) -> Values:
    largest = point.singular_values
    return {
        "spectral_norm": largest.values[:, 0],
        "spectral_norm_upper": largest.upper,
        "spectral_norm_steps": largest.taken.to(largest.upper),
    }


def singular_values(point: Point) -> Values:
    largest = point.singular_values
    return {"singular_values": largest.values, "singular_values_residual": largest.residuals}


def jacobian_square(point: Point) -> Operator:
    A = point.jacobian
    if A.rows != A.columns:
        raise ValueError(f"the Jacobian is {A.rows} x {A.columns}, it must be square")
    return A


def one_sided_lipschitz(point: Point) -> Values:
    symmetric = symmetric_part(jacobian_square(point))
    largest = extreme_eigenvalues(
        symmetric,
        point.start,
        steps=min(point.accuracy.krylov_steps, symmetric.columns),
        width=point.accuracy.certified_width,
        together=point.block,
    ).largest
    sigma = point.predictor.schedule(point.t)[1]
    return {"one_sided_lipschitz": largest, "denoising_bound": sigma * largest}


def squared_frobenius_norm(point: Point) -> Values:
    estimate = hutchinson_squared_frobenius_norm(point.images[1], point.group)
    return {"squared_frobenius_norm": estimate.value, "squared_frobenius_norm_standard_error": estimate.standard_error}


def trace(point: Point) -> Values:
    estimate = hutchinson_trace(*point.images, point.group)
    return {"trace": estimate.value, "trace_standard_error": estimate.standard_error}


def asymmetry(point: Point) -> Values:
    z, Jz = point.images
    transposed = torch.stack([point.jacobian.vm(p.to(point.x.dtype)).double() for p in z])
    difference, total = ((Jz + sign * transposed).square().sum((0, 2)) for sign in (-1, 1))
    return {"asymmetry": (difference / total).sqrt()}


def confidence(clock: Clock, accuracy: Accuracy, timestep: object) -> dict[str, Any]:
    said = {"confidence": f"{accuracy.confidence:g} for each draw and timestep"}
    return said if accuracy.products == "ieee" else {**said, "products": accuracy.products}


QUANTITIES = {
    "spectral_norm": Quantity(
        spectral_norm,
        {
            "spectral_norm": Variable("largest singular value of d eps / d x, lower bound", "1", SPECTRAL),
            "spectral_norm_upper": Variable(
                "the same, upper bound at the plan's confidence", "1", SPECTRAL, facts=confidence
            ),
            "spectral_norm_steps": Variable("Krylov steps taken", "1", "count"),
        },
        needs=KRYLOV,
    ),
    "singular_values": Quantity(
        singular_values,
        {
            "singular_values": Variable("leading singular values of d eps / d x, lower bounds", "1", SPECTRAL, RANKS),
            "singular_values_residual": Variable("distance to a true singular value, at most", "1", SPECTRAL, RANKS),
        },
        needs=KRYLOV | {"ranks"},
    ),
    "one_sided_lipschitz": Quantity(
        one_sided_lipschitz,
        {
            "one_sided_lipschitz": Variable("largest eigenvalue of the symmetric part of d eps / d x", "1", "signed"),
            "denoising_bound": Variable("sigma times it: at most 1 for a true model", "1", "signed"),
        },
        lambda work: 2 * work.krylov_steps,
        MANY_PRODUCTS,
    ),
    "squared_frobenius_norm": Quantity(
        squared_frobenius_norm,
        {
            "squared_frobenius_norm": Variable(
                "sum of squared singular values of d eps / d x", "1", "Frobenius, squared"
            ),
            "squared_frobenius_norm_standard_error": Variable("its standard error over probes", "1", "standard error"),
        },
        needs=PROBES,
    ),
    "trace": Quantity(
        trace,
        {
            "trace": Variable("trace of d eps / d x (divergence of eps)", "1", "signed"),
            "trace_standard_error": Variable("its standard error over probes", "1", "standard error"),
        },
        needs=PROBES,
    ),
    "asymmetry": Quantity(
        asymmetry,
        {"asymmetry": Variable("|J - J^T| / |J + J^T|: 0 for a true score", "1", "Frobenius, over probes")},
        lambda work: work.probes + 1,
        PROBES,
    ),
}
