"""Whether difference quotients in time are those of the network, or of the rounding of its answers.

What is divided by a step is a small difference of large answers. Rounding that does not follow x shows where x is
moved by a little: the difference must hardly change. Rounding that is the same for every x, as that of a cosine of the
timestep, shows against the same difference in float64.
"""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.continuous import along
from ..diffusion.predictor import Predictor
from ..errors import Caution, CheckpointError
from ..quantities.point import Point
from ..quantities.quantity import norms
from .consistency import Answers, Company, ask, other, unmoved

NEAR = 1e-3
"""How far x is moved, relative to it, to see whether a difference quotient is that of a function or of its rounding."""

ROUNDED, DROWNED = 0.2, 0.5
"""Relative change of a difference quotient thereby that is told (its square is a twentieth too large), and refused."""

OFF = 0.02
"""Relative difference of a quotient from that of float64 that is told."""

FINE = 200
"""Changes of the answer of fewer units in the last place are computed in float64 too."""

NAMED = 6
"""Timesteps that are named one by one."""

MOST = 64
"""Timesteps that are looked at, evenly from the first to the last."""

STILL = "one step on, to the last bit, so it shares timesteps, rounds them or its answer, or does not use them"


class Held(NamedTuple):
    """What difference quotients hold, pair by pair.

    Attributes:
        timestep: Of each.
        moved: How far it moves with x, relative to it; not a number where it is 0.
        share: The share of rounding where that is to be told, else 0.
        still: Whether nothing changes at all, though the network is told two times.
    """

    timestep: Tensor
    moved: Tensor
    share: Tensor
    still: Tensor


def verify_quotients(
    points: Sequence[Point],
    answers: Sequence[Answers],
    make: Callable[[Sequence[float], range], Point],
    more: Sequence[float],
    company: Company,
) -> list[str]:
    """Compare difference quotients with what they are without rounding: four passes a timestep, a few in float64.

    Args:
        points: Some, at which a quotient that is mostly rounding is refused.
        answers: The model's there.
        make: Timesteps, draws -> their point.
        more: Further timesteps, at which one that holds rounding is told.
        company: What a batch may hold.

    Returns:
        What has to be said.

    Raises:
        CheckpointError: If most of the quotients at the points are rounding, and not 0.
    """
    fine = Fine(points[0])
    found = [held(point, both, fine) for point, both in zip(points, answers, strict=True)]
    refuse_drowned(found)
    size, draws = 1 if company.of else len(points[0].x), range(2 if company.of == "timestep" else 1)
    for first in range(0, len(more), size):
        point = make(more[first : first + size], draws)
        found.append(held(point, Answers(ask(point, point.x, point.t), ask(point, point.x, other(point))), fine))
    timestep, _, share, still = (torch.cat(parts).tolist() for parts in zip(*found, strict=True))
    notes: list[str] = []
    if idle := sorted({k for k, rests in zip(timestep, still, strict=True) if rests}):
        notes.append(f"time_difference is 0 at {named([f'{k:g}' for k in idle])}: the network answers the same {STILL}")
    worst: dict[float, float] = {}
    for k, part in zip(timestep, share, strict=True):
        worst[k] = max(part, worst.get(k, 0.0))
    if rounded := [f"{k:g} ({worst[k]:.0%})" for k in sorted(worst) if worst[k]]:
        finer = "--dtype float64, " if points[0].x.dtype == torch.float32 else ""
        notes.append(
            Caution(
                f"time_difference holds rounding at {named(rounded)}: over its step the network changes by little more "
                f"than its arithmetic resolves; give {finer}a longer --step, or take time_derivative there"
            )
        )
    return notes


def refuse_drowned(found: Sequence[Held]) -> None:
    """Refuse quotients most of which are rounding."""
    timestep, moved = torch.cat([some.timestep for some in found]), torch.cat([some.moved for some in found])
    seen = moved[moved.isfinite()]
    if not len(seen) or seen.median() <= DROWNED:
        return
    worst = int(moved.nan_to_num(0.0, 0.0).argmax())
    raise CheckpointError(
        f"the change that time_difference divides by its step is mostly rounding, since it moves by {moved[worst]:.0%} "
        f"at timestep {timestep[worst]:g} when x moves by a thousandth (by {seen.median():.0%} at the median of "
        f"{len(seen)} pairs): the network computes more coarsely than it changes over that step; give a longer --step, "
        "or --dtype float64 to a network without half precision inside"
    )


def held(point: Point, answers: Answers, fine: "Fine") -> Held:
    """What the quotients at a point hold: by their change with x, and where they are small by that in float64."""
    changed, still = answers.there.double() - answers.here.double(), unmoved(point, answers)
    moved = change(point, *answers)
    share = torch.where(moved.nan_to_num(0.0, 0.0) > ROUNDED, moved, 0.0)
    size = norms(changed)
    small = (size < FINE * torch.finfo(point.x.dtype).eps * norms(answers.here)) & (still | (size > 0))
    if small.any() and (exact := fine.change(point)) is not None:
        true = norms(exact)
        apart = norms(changed - exact) / torch.maximum(size, true).clamp_min(1e-300)
        share = torch.where(small & ((size - true).abs() > OFF * true), torch.maximum(share, apart), share)
        still &= true == 0
    return Held(point.timestep, moved, share.clamp(max=1), still)


class Fine:
    """A copy of a model in float64, made when it is first asked.

    Args:
        point: Of the model.
    """

    def __init__(self, point: Point):
        self.possible = point.x.dtype == torch.float32 and point.x.device.type != "mps"
        self.predictor: Predictor | None = None

    def change(self, point: Point) -> Tensor | None:
        """The change of its answer over the quotient's step; None where there is no such copy."""
        if not self.possible:
            return None
        try:
            self.predictor = self.predictor or copy.deepcopy(point.predictor).double()
            with torch.no_grad():
                x = point.x.double()
                return self.predictor(x, other(point)) - self.predictor(x, point.t)
        except Exception:  # a network with float32 written into it, that cannot be copied, or is too large twice
            self.possible, self.predictor = False, None
            return None


def named(timesteps: list[str]) -> str:
    """Timesteps in a sentence, of many the first and the last."""
    if len(timesteps) > NAMED:
        return f"{len(timesteps)} of the timesteps looked at, {timesteps[0]} to {timesteps[-1]}"
    *most, last = timesteps
    return f"timesteps {', '.join(most)} and {last}" if most else f"timestep {last}"


def change(point: Point, here: Tensor, there: Tensor) -> Float[Tensor, " batch"]:
    """How far the answers' difference in time moves with x, relative to it; not a number where it is 0."""
    x, later = point.x, other(point)
    length = torch.minimum(NEAR * norms(x), 20 * NEAR * noise(point.predictor, x, point.t))
    near = x + (along(length, x) * point.start.reshape(x.shape)).to(x.dtype)
    before, after = (
        there.double() - here.double(),
        ask(point, near, later).double() - ask(point, near, point.t).double(),
    )
    return norms(after - before) / norms(before)


def noise(predictor: Predictor, x: Tensor, t: Tensor) -> Float[Tensor, " batch"]:
    """The length of the noise in x, the scale of a network's features in x; at least a thousandth of that of x."""
    length = predictor.schedule(t)[1] * x[0].numel() ** 0.5
    return torch.minimum(length, norms(x)).clamp_min(1e-3 * norms(x)).clamp_min(1e-30)
