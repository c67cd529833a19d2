"""What a user tells about a checkpoint: which weights, what its files leave open, and what stands in their place."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ..diffusion.convention import PARTS, UNTOLD, Convention
from ..errors import UsageError
from ..files import shown

FUNCTIONS = ("eps", "raw")


@dataclass(frozen=True, eq=False)
class Reading:
    """How a checkpoint is to be read, as far as its user tells; None where that is left to the files.

    Attributes:
        weights: "ema", averaged ones where there are any, or "raw".
        convention: The way in which the network is used.
        factory: "package.module:function" of the user's own that makes the network or the predictor.
        shape: Of one sample.
        function: What is measured: "eps", the noise, or "raw", the network's own output.
        conditioning: Further inputs of the network in place of the blank ones, tensors by keyword or a file of them.
        label: The class that the network is told.
        prompt: The text that it is told, by the text encoder in its folder.
        original_config: What the file itself does not tell: a folder of diffusers' with the network's config.json, or a
            JSON file of the flags that the model was trained with.
        download: Whether a model on the Hugging Face hub is fetched that is not in the local cache.

    Raises:
        UsageError: If a word has a value that it cannot have.
    """

    weights: str = "ema"
    convention: Convention = UNTOLD
    factory: str | None = None
    shape: tuple[int, ...] | None = None
    function: str = "eps"
    conditioning: str | Path | Mapping[str, Tensor] | None = None
    label: int | None = None
    prompt: str | None = None
    original_config: str | Path | None = None
    download: bool = False

    def __post_init__(self) -> None:
        if self.weights not in ("ema", "raw"):
            raise UsageError(f"the weights {shown(self.weights)!r} do not exist: ask for ema or raw")
        if self.function not in FUNCTIONS:
            raise UsageError(f"function is {self.function!r}: measure eps, the noise, or raw, the network's own output")

    @classmethod
    def of(cls, **given: Any) -> "Reading":
        """A reading in the words of the command line and of `measure`; what is None is not told.

        Raises:
            UsageError: If there is no such word, or it has a value that it cannot have.
        """
        strange = sorted(set(given) - set(WORDS))
        if strange:
            raise UsageError(f"there is no word {strange[0]!r} for how a model is read; known are {', '.join(WORDS)}")
        told = {name: value for name, value in given.items() if value is not None}
        parts = {name: told.pop(name) for name in PARTS if name in told}
        if "shape" in told:
            told["shape"] = tuple(told["shape"])
        return cls(convention=Convention.of(**parts), **told)

    @property
    def words(self) -> tuple[str, ...]:
        """The words that say something about a checkpoint, as opposed to what is measured of it."""
        names = [f.name for f in fields(self) if f.name not in ("convention", "function")]
        return (*self.convention.parts, *(name for name in names if getattr(self, name) != getattr(SILENT, name)))


SILENT = Reading()
"""What a user tells who tells nothing."""

WORDS = tuple(w for f in fields(Reading) for w in (PARTS if f.name == "convention" else (f.name,)))
"""Options of the command line, and words of `measure`."""
