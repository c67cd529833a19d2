"""What is to be checked is: types, shapes that belong together, results, dataclasses; and the package itself."""

import sys

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from lipdiag.diffusion.parameterization import convert, eps
from lipdiag.diffusion.schedule import Linear
from tests import signatures

MODULE = """
from contextlib import contextmanager
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
import torch
from jaxtyping import Float
from torch import Tensor
if TYPE_CHECKING:
    from nowhere import Nothing

def half(x: int) -> int:
    return x // 2 if x else None

def both(x: Float[Tensor, "n d"], y: Float[Tensor, " n"]) -> Float[Tensor, " d"]:
    return x.mT @ y if y.any() else x[0, :1]

def several(parts: list[Float[Tensor, " n"]], name: "Nothing | None" = None) -> Float[Tensor, " n"]:
    return parts[0][: len(both(torch.ones(3, 2), torch.ones(3)))]

def drawn(count: int, more: int = 0) -> Float[Tensor, "{count} 2"]:
    return torch.ones(count + more, 2)

@contextmanager
def opened(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Iterator[int]:
    yield len(x)

@dataclass(frozen=True)
class Pair:
    first: Float[Tensor, " n"]
    second: Float[Tensor, " n"]

    def taken(self, times: int) -> "Pair":
        return self if times else 0

    @classmethod
    def of(cls, x: float) -> "Pair":
        return cls(torch.full((1,), float(x)), torch.ones(1))
"""


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    (folder / "subject.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(sys, "meta_path", [*sys.meta_path])
        signatures.check("subject")
        import subject

        yield subject
        del sys.modules["subject"]


def ones(*shape):
    return torch.ones(*shape)


RIGHT = [
    lambda s: s.half(4) == 2,
    lambda s: s.both(ones(3, 2), ones(3)).tolist() == [3, 3],
    lambda s: s.several([ones(2)], name="whatever").shape == (2,),
    lambda s: s.drawn(3).shape == (3, 2),
    lambda s: s.opened(ones(2), ones(2)).__enter__() == 2,
    lambda s: s.Pair(ones(2), ones(2)).taken(1).first.shape == (2,),
    lambda s: s.Pair.of(1).first.shape == (1,),  # an integer is a float, as PEP 484 has it
]
WRONG = {
    "an argument": lambda s: s.half("4"),
    "a result": lambda s: s.half(0),
    "a type of numbers": lambda s: s.both(ones(3, 2).long(), ones(3)),
    "a shape": lambda s: s.both(ones(3), ones(3)),
    "two shapes": lambda s: s.both(ones(3, 2), ones(4)),
    "the shape of a result": lambda s: s.both(ones(3, 2), 0 * ones(3)),
    "a shape in a list": lambda s: s.several([ones(2, 2)]),
    "a shape told as a number": lambda s: s.drawn(3, 1),
    "an argument of what is decorated": lambda s: s.opened(ones(2), ones(3)),
    "fields that do not belong together": lambda s: s.Pair(ones(2), ones(3)),
    "an argument of a method": lambda s: s.Pair.of(1).taken("once"),
    "an argument of a class method": lambda s: s.Pair.of("1"),
}


@pytest.mark.parametrize("number", range(len(RIGHT)))
def test_what_is_right_passes(subject, number):
    assert RIGHT[number](subject)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused(subject, name):
    with pytest.raises((BeartypeCallHintViolation, TypeCheckError)):
        WRONG[name](subject)


def test_names_of_dimensions_mean_one_number_in_a_call_and_another_in_the_next(subject):
    """Also within a call: `several` with n = 2 calls `both` with n = 3."""
    assert [len(subject.both(ones(n, d), ones(n))) for n, d in ((3, 2), (2, 5))] == [2, 5]
    assert subject.several([ones(2)]).shape == (2,)


def test_the_package_is_checked():
    t = torch.full((3,), 0.5, dtype=torch.float64)
    convert(t, t, t, Linear(), eps, eps)
    with pytest.raises(BeartypeCallHintViolation):
        convert(t, t, t[:2], Linear(), eps, eps)
