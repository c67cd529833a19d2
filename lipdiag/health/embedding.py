"""The chain through which a network hears of time: the timestep, what its embedding is given, the embedding, the rest.

The embedding of every timestep is computed by itself, by passes that end where it is known, so that what is wrong with
it is found whatever the rest of the network makes of it: timesteps that are one to it, or look like one far away.
Along a few samples the change of each link from a timestep to the next is followed to the output.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.predictor import NetworkPredictor, Predictor, device_of
from ..errors import CheckpointError
from ..quantities.embedding import find
from ..quantities.modules import tensors
from ..quantities.point import Point
from ..quantities.time import other_time
from .diagnosis import Link
from .laws import Test, certain

MOST, BATCH = 1000, 125
"""Timesteps that are looked at, and how many at once."""

SMALLEST = 1e-9
"""Times below are none of a table's."""

FEW = 50
"""Timesteps of fewer of which it is not asked whether neighbours are alike."""

FAR = 0.05
"""Part of the whole time that is far."""

NEAR = 0.5
"""Part of the way to a neighbour, within which a far timestep looks like this one."""

BITS = {torch.bfloat16: 8, torch.float16: 11}
"""Types of half precision, and to how many binary digits they round."""


class Known(BaseException):
    """Ends a pass where the embedding is known; no network catches it."""


class Embedded(NamedTuple):
    """What the embedding of time is given and returns, a row a timestep, float64.

    Attributes:
        told: Timesteps that the network is told, rising in t.
        given: The embedding's input.
        said: Its output.
    """

    told: np.ndarray
    given: np.ndarray
    said: np.ndarray


@contextmanager
def overheard(module: nn.Module, end: bool) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Input and output of a module at each of its calls, a row a sample; a pass ends there if that is wanted."""
    heard: list[tuple[Tensor, Tensor]] = []

    def hear(_: nn.Module, given: Any, kwargs: Any, said: Any) -> None:
        first, last = (next(tensors(z)).detach() for z in ((given, kwargs), said))
        heard.append((first.reshape(len(first), -1).double(), last.reshape(len(last), -1).double()))
        if end:
            raise Known

    handle = module.register_forward_hook(hear, with_kwargs=True)
    try:
        yield heard
    finally:
        handle.remove()


def home(predictor: Predictor) -> nn.Module | None:
    """The module that embeds the timestep, if one is known by its name."""
    if not isinstance(predictor, NetworkPredictor) or not isinstance(predictor.network, nn.Module):
        return None
    try:
        return find(predictor.network)
    except CheckpointError:
        return None


@torch.no_grad()
def embedded(predictor: Predictor) -> Embedded | None:
    """The embedding of all timesteps that a network may be told, or of `MOST` of them; None where it is not known."""
    module = home(predictor)
    if module is None or not isinstance(predictor, NetworkPredictor):
        return None
    clock = predictor.clock
    t = torch.linspace(0.001, 1, MOST, dtype=torch.float64, device="cpu")
    if clock.base.discrete:
        t = clock.base.time(clock.base(t).round())
    told = clock(t[t > SMALLEST])
    told = told[told.isfinite()].unique_consecutive()
    parts = []
    for some in told.to(device_of(predictor)).split(BATCH):
        weight = next(predictor.parameters(), torch.empty(0, dtype=torch.float32))
        x = torch.zeros(len(some), *predictor.shape, dtype=weight.dtype, device=some.device)
        with overheard(module, end=True) as heard, suppress(Known):
            predictor.output(x, some)
        if not heard or any(len(z) != len(some) for z in heard[0]):
            return None
        parts.append(heard[0])
    given, said = (torch.cat(z).cpu().numpy() for z in zip(*parts, strict=True))
    return Embedded(told.numpy(), given, said)


def embedding_tests(found: Embedded, thresholds: dict[str, float]) -> Iterator[Test]:
    """Whether an embedding tells timesteps apart, is rounded, comes round, and how fast it moves."""
    n = len(found.told)
    if n < 2 or not np.isfinite(found.said).all():
        return
    step, before = (np.linalg.norm(np.diff(z, axis=0), axis=1) for z in (found.said, found.given))
    same = step == 0
    where = " and in what it is given" if (before[same] == 0).all() else " and not in what it is given"
    if same.any():
        where += f", first at timestep {found.told[:-1][same][0]:.4g}"
    yield certain("plateau", same.mean(), thresholds["plateau"], n - 1, said=where)
    moves = step > 0
    if not moves.any():
        return
    grain = rounding(found.said)[:-1][moves] / step[moves]
    yield certain("grain", float(np.median(grain)), thresholds["grain"], n - 1)
    if n < FEW:
        return
    apart = distances(found.said)
    index = np.arange(n)
    apart[np.abs(index[:, None] - index) <= FAR * n] = np.inf
    beside = np.minimum(np.append(step, np.inf), np.append(np.inf, step))
    nearest = apart.min(1)
    like = (nearest < NEAR * beside) & (beside > 0)
    worst = int(np.argmin(np.where(like, nearest / np.maximum(beside, 1e-300), np.inf)))
    said = f", such as {found.told[worst]:.4g} like {found.told[apart[worst].argmin()]:.4g}" if like.any() else ""
    yield certain("alias", float(like.mean()), thresholds["alias"], n, said=said)
    any_two = np.sqrt(2) * np.linalg.norm(found.said - found.said.mean(0), axis=1)
    pace = float(np.median(step) / np.sqrt(np.square(any_two).mean()))
    yield certain("pace", pace, thresholds["pace"], n - 1)


def rounding(values: np.ndarray) -> np.ndarray:
    """The root mean square that rounding took off each row, if all numbers are of half precision; else 0."""
    numbers = torch.from_numpy(values)
    for kind, bits in BITS.items():
        if bool((numbers.to(kind).double() == numbers).all()):
            last = np.exp2(np.frexp(values)[1] - bits) * (values != 0)
            return np.asarray(np.linalg.norm(last, axis=1) / np.sqrt(12))
    return np.zeros(len(values))


def distances(values: np.ndarray) -> np.ndarray:
    """Euclidean distances of each row to each, by the square expanded about the mean, which float64 allows."""
    z = values - values.mean(0)
    square = np.square(z).sum(1)
    return np.sqrt(np.maximum(square[:, None] + square - 2 * z @ z.T, 0))


@torch.no_grad()
def chain(point: Point) -> list[Link]:
    """The links at each timestep of a point, means over its draws, in two passes; none where no embedding is known."""
    predictor, module = point.predictor, home(point.predictor)
    if module is None or not isinstance(predictor, NetworkPredictor):
        return []
    other = other_time(predictor.clock, point.timestep, None)
    passes = []
    with overheard(module, end=False) as heard:
        for t in (point.t, predictor.clock.base.time(other)):
            heard.clear()
            output = predictor.output(point.x, predictor.clock(t)).flatten(1).double()
            if not heard or any(len(z) != len(point.x) for z in heard[0]):
                return []
            passes.append((*heard[0], output))
    moved = [(there - here).norm(dim=1) / (other - point.timestep).abs() for here, there in zip(*passes, strict=True)]
    links = []
    for timestep in point.timestep.unique().tolist():
        start, middle, end = (float(z[point.timestep == timestep].mean()) for z in moved)
        links.append(
            Link(timestep, start, middle / start if start > 0 else 0.0, end / middle if middle > 0 else 0.0, end)
        )
    return links
