"""Whether a model has one answer to one question, whatever it was asked before and whatever else is in the batch.

Every number is a difference or a derivative of answers, so one that depends on anything but x and t spoils all of them.
A batch is asked, turned by one place and all of it told one time, asked again between other questions, with all samples
but one exchanged, and one sample is asked alone: eight forward passes.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..breakdown import of_the_device
from ..errors import CheckpointError, LipdiagError
from ..files import shown
from ..quantities.point import Point
from ..quantities.quantity import norms
from ..quantities.time import other_time

SAME = 1000.0
"""Largest difference of two answers to one question, in units of the last place: over a thousand timesteps no smaller
dependence on time can be told from rounding."""

ALIKE = 1e-2
"""Largest relative difference of two answers to one question in another place or in a batch of another size, which may
go through other kernels."""


class CompanyError(CheckpointError):
    """A model whose answer for a sample depends on the rest of its batch."""


class Answers(NamedTuple):
    """What a model answers at a point, and at the other time of the difference quotient."""

    here: Tensor
    there: Tensor


def consistent(point: Point) -> Answers:
    """The model's answers, after it was asked the same in other ways.

    Raises:
        CheckpointError: If the same question is answered differently, or in another shape.
        CompanyError: If a sample's answer depends on its batch.
    """
    x, t = point.x, point.t
    here = ask(point, x, t)
    if here.shape != x.shape:
        raise CheckpointError(
            f"the model's output has shape {tuple(here.shape[1:])} for an input of shape {tuple(x.shape[1:])}; "
            f"a noise prediction has the shape of its input"
        )
    sigma = point.predictor.schedule(t)[1]
    exact = SAME * torch.finfo(x.dtype).eps * norms(here)
    alike = ALIKE * norms(here) + SAME * torch.finfo(x.dtype).eps * norms(x) / sigma
    others = -x / 2
    if len(x) > 1:
        others[-1] = x[-1]
    # Every question but one follows a far one, from which it differs in time alone (as those of a difference quotient
    # do) or in x alone: what a model keeps of it is seen in the answer after it, which must be the first.
    first, last = slice(0, 1), slice(-1, None)
    moved = [gap(ask(point, x.roll(-1, 0), t[0].expand_as(t))[last], here[first], alike[first])]
    with suppress(Exception):  # a model may need two samples: then it is measured on as many
        moved.append(gap(ask(point, x[last], t[last]), here[last], alike[last]))
    there = ask(point, x, other(point))
    changed = gap(ask(point, x, t), here, exact)
    moved.append(gap(ask(point, x, t[-1].expand_as(t))[last], here[last], exact[last]))
    beside = ask(point, others, t)
    if len(x) > 1:
        moved.append(gap(beside[last], here[last], exact[last]))
    again = ask(point, x, t)
    changed = max(changed, gap(again, here, exact))
    if changed or max(moved):
        at_once = gap(ask(point, x, t), again, exact)
        if changed or at_once:
            raise CheckpointError(fickle(max(changed, at_once), bool(at_once)))
        raise CompanyError(
            f"the model's samples see each other: the rest of a batch, or its order, moves a sample's answer by "
            f"{max(moved):.1%}; take out of it what joins samples: guidance, or batch normalisation that keeps no "
            "running statistics; and switch caches off"
        )
    return Answers(here, there)


def other(point: Point) -> Float[Tensor, " batch"]:
    """The unit time of the difference quotient's other answer."""
    clock = point.predictor.clock
    return clock.base.time(other_time(clock, point.timestep, point.accuracy.step))


def unmoved(point: Point, answers: Answers) -> Bool[Tensor, " batch"]:
    """Where the two answers are the same to the last bit, though the network is told two times."""
    clock = point.predictor.clock
    return (norms(answers.there - answers.here) == 0) & (clock(point.t) != clock(other(point)))


def ask(point: Point, x: Tensor, t: Tensor) -> Tensor:
    with torch.no_grad():
        return point.predictor(x, t)


def gap(got: Tensor, expected: Tensor, allowed: Float[Tensor, " batch"]) -> float:
    """The largest difference of answers relative to their size, 0 where it is allowed or not a number."""
    difference = norms(got.double() - expected.double())
    relative = difference / norms(expected).clamp_min(1e-300)
    return float(torch.where(difference > allowed, relative, 0.0).max())


def fickle(changed: float, at_once: bool) -> str:
    """What is said of a network that answers the same question differently, be it asked twice at once or not."""
    if at_once:
        when, why = "each time", "draws random numbers (dropout that is always on, added noise) or counts its calls"
    else:
        when, why = "after another one", "remembers earlier calls (a cache of features, as samplers are sped up with)"
    return (
        f"the network answers the same question differently {when}, by {changed:.1%} of its output: it {why}, so that "
        "no number of it means anything; switch that off in it"
    )


class Company(NamedTuple):
    """What a batch may hold: pairs of any timesteps (""), of one "timestep", or a single "pair"; and why no more."""

    of: str = ""
    why: str = ""

    def most(self, draws: int) -> int | None:
        """Pairs in a batch where one timestep has that many draws; None for no limit."""
        return {"timestep": draws, "pair": 1}.get(self.of)


def companies(
    make: Callable[[Sequence[float], range], Point], timesteps: Sequence[float], draws: range
) -> tuple[Company, list[Point], list[Answers]]:
    """The largest batches in which a model is consistent: their points at all timesteps and draws, and its answers.

    Args:
        make: Timesteps, draws -> their point.
        timesteps: In the model's own unit.
        draws: Draw numbers.

    Raises:
        CheckpointError: If the model fails or contradicts itself in all of them.
    """
    ways: dict[str, list[tuple[Sequence[float], range]]] = {"": [(timesteps, draws)]}
    if len(timesteps) > 1:
        ways["timestep"] = [([k], draws) for k in timesteps]
    ways["pair"] = [([k], range(i, i + 1)) for k in timesteps for i in draws]
    failure: Exception | None = None
    for of, parts in ways.items():
        points = [make(*part) for part in parts]
        try:
            answers = [consistent(point) for point in points]
        except CompanyError as error:
            if of or len(timesteps) == 1:
                raise
            failure = error
        except LipdiagError:
            raise
        except Exception as error:  # a stranger's network may raise anything
            if of_the_device(error):
                raise
            if isinstance(failure, CompanyError):
                raise failure from error
            failure = failure or error
        else:
            return Company(of, explained(failure, of)), points, answers
    raise CheckpointError(
        f"the network fails on {len(timesteps) * len(draws)} samples with {worded(failure)}; check "
        "its conditioning, or see where with --debug"
    ) from failure


def explained(failure: Exception | None, of: str) -> str:
    """A sentence on a model that no more than pairs of one timestep, or a single pair, may be asked at once."""
    if failure is None:
        return ""
    what = "one timestep a batch" if of == "timestep" else "one sample a batch"
    if isinstance(failure, CompanyError):
        return f"the network's answer depends on the other timesteps of its batch: it is measured with {what}"
    return (
        f"the network fails where a batch holds more than {what[:-8]} ({worded(failure)}): it is measured with {what}"
    )


def worded(error: Exception | None) -> str:
    return f"{type(error).__name__}: {shown(str(error).partition(chr(10))[0])}"
