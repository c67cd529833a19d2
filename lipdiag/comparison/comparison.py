"""A model and its remedy, measured alike: what differs, by how much, and whether that is more than chance.

Runs of one plan see the same data, noise and random directions, draw by draw, so their differences are paired. With
one pair of models draws are the replicates, and what is said holds for these two networks; with pairs from several
training seeds the pairs are, and what is said holds for the way of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import Row
from ..results.label import IN_MEMORY
from ..results.run import Run, read
from ..view import View
from . import quality as compare_quality
from .effect import Effect
from .pairs import Pair, align, effect, values
from .quality import Quality
from .statements import LEVEL, NAMES, SPEED, Statement, averages, of_samples, speeds
from .table import headline, judged, remarks, table

if TYPE_CHECKING:
    import xarray as xr

FORMAT = "lipdiag-comparison/1"
ASKED = (SPEED, "loss", "sensitivity")
"""What a comparison is said to lack where it was not measured."""


@dataclass(frozen=True, repr=False)
class Comparison(View):
    """What `compare` found; printed it is the table of the command.

    Attributes:
        labels: Of the two models.
        pairs: Their runs, one pair a training seed, on the timesteps and draws that all have.
        effects: Variable -> effect at each timestep.
        statements: About whole curves and about samples.
        quality: Of samples, where it was given.
        notes: What was left out of the runs.
        missing: What could not be compared, and what would add it.
    """

    labels: tuple[str, str]
    pairs: tuple[Pair, ...]
    effects: dict[str, Effect]
    statements: tuple[Statement, ...]
    quality: Quality | None
    notes: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def timesteps(self) -> np.ndarray:
        return self.pairs[0][0].timestep

    @property
    def replicates(self) -> str:
        """What the intervals are over."""
        if len(self.pairs) > 1:
            return f"{len(self.pairs)} training seeds"
        counts = np.concatenate([effect.count for effect in self.effects.values()] or [np.zeros(1, int)])
        return f"{counts.min()} draws" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()} draws"

    @property
    def method(self) -> str:
        """How the intervals were made, and what they hold for."""
        if len(self.pairs) > 1:
            return (
                f"paired over {self.replicates}, Student's t: ratios by their logarithms (geometric means), "
                "differences as they are"
            )
        samples = ""
        if self.quality is not None:
            samples = f"; sample quality over {next(iter(self.quality.values.values())).shape[-1]} sampling seeds"
        return (
            f"paired over {self.replicates} with common random numbers{samples}; Student's t, ratios of means by the "
            "delta method on their logarithm, differences as they are; true of these two networks, not of training"
        )

    def to_dict(self) -> dict[str, Any]:
        """All that was found, as strict JSON allows it: what is not finite is None."""
        statements = [
            {
                "name": s.name,
                "variable": s.variable,
                "verdict": s.verdict,
                "by": "ratio" if s.by_ratio else "difference",
            }
            | json_effect(s.effect)
            for s in self.statements
        ]
        quality = self.quality and {"extractor": self.quality.extractor, "floors": self.quality.floors}
        return {
            "format": FORMAT,
            "models": list(self.labels),
            "pairs": [[source(run) for run in pair] for pair in self.pairs],
            "replicates": self.replicates,
            "level": LEVEL,
            "method": self.method,
            "statements": statements,
            "timesteps": self.timesteps.tolist(),
            "curves": {name: json_effect(effect) for name, effect in self.effects.items()},
            "quality": quality,
            "notes": list(self.notes),
            "missing": list(self.missing),
        }

    def rows(self) -> list[Row]:
        """The numbers as a table: a row a variable and timestep, then a row a statement."""
        rows: list[Row] = []
        for name, found_effect in self.effects.items():
            numbers = flat(found_effect)
            for i, k in enumerate(self.timesteps):
                row: Row = {"variable": name, "statement": "", "timestep": float(k)}
                rows.append(row | {key: float(value[i]) for key, value in numbers.items()})
        for s in self.statements:
            row = {"variable": s.variable, "statement": s.name}
            rows.append(row | {key: float(value) for key, value in flat(s.effect).items()} | {"verdict": s.verdict})
        return rows

    def shown(self) -> list[dict[str, str]]:
        names = ("", *self.labels, "ratio x or difference", f"{self.labels[1]} is")
        return [dict(zip(names, cells, strict=True)) for cells in judged(self)]

    def said(self) -> list[str]:
        return [headline(self), *remarks(self)]

    def __str__(self) -> str:
        return table(self)


def flat(effect: Effect) -> dict[str, np.ndarray]:
    """Its numbers by name."""
    ends = ("", "_low", "_high")
    return {
        "a": effect.a,
        "b": effect.b,
        **{f"ratio{end}": value for end, value in zip(ends, effect.ratio, strict=True)},
        **{f"difference{end}": value for end, value in zip(ends, effect.difference, strict=True)},
        "count": effect.count,
    }


def json_effect(effect: Effect) -> dict[str, Any]:
    """Its numbers as JSON has them."""

    def finite(value: Any) -> Any:
        if isinstance(value, list):
            return [finite(item) for item in value]
        return value if np.isfinite(value) else None

    return {name: finite(np.asarray(numbers).tolist()) for name, numbers in flat(effect).items()}


def source(run: Run) -> str:
    """The checkpoint that a run measured."""
    return str(run.dataset.attrs.get("checkpoint") or IN_MEMORY)


def compare(
    a: "str | Path | xr.Dataset",
    b: "str | Path | xr.Dataset",
    pairs: "Sequence[tuple[Any, Any]]" = (),
    quality: "Sequence[tuple[Any, Any]]" = (),
    labels: Sequence[str] | None = None,
) -> Comparison:
    """A model and its remedy compared, from their runs alone.

    Args:
        a: A run of the plain model: a path, or what `measure` returned.
        b: A run of the remedy, of the same plan.
        pairs: Runs of the same two from further training seeds.
        quality: What `evaluate` wrote of both (paths or datasets), in the order of the pairs.
        labels: What to call the two.

    Raises:
        RunError: If runs or evaluations cannot be paired, or one is something else.
        UsageError: If there are not as many evaluations as pairs, or a run has no finished draws.

    Example:
        >>> found = lipdiag.compare("digits-ddpm.zarr", "digits-etsdm.zarr")
        >>> {s.name: s.verdict for s in found.statements}["K, sum < 100"]
        'lower'
    """
    from ..store.store import open_run

    given = [(a, b), *pairs]
    if quality and len(quality) != len(given):
        raise UsageError(
            f"there are {len(given)} pairs of runs and {len(quality)} of evaluations; give --quality once for each pair"
        )
    opened = [[open_run(run) if isinstance(run, str | Path) else run for run in pair] for pair in given]
    read_in = [tuple(read(pair, labels)) for pair in opened]
    aligned, notes = align([(first, second) for first, second in read_in], NAMES)
    runs = [run for pair in aligned for run in pair]
    held = [name for name in NAMES if all(run.has(name) for run in runs)]
    statements, missing = speeds(aligned) if SPEED in held else ([], [])
    statements += [statement for name in held if name != SPEED for statement in averages(aligned, name)]
    missing += not_measured([name for name in ASKED if name not in held])
    samples = None
    if quality:
        samples = compare_quality.read(quality, [(source(first), source(second)) for first, second in aligned])
        statements += of_samples(samples)
    else:
        missing.append(
            "no sample quality: `lipdiag evaluate CKPT --out Q.zarr` for both, then --quality QA.zarr QB.zarr"
        )
    effects = {name: effect(aligned, partial(values, variable=name), LEVEL) for name in held}
    first, second = aligned[0]
    return Comparison(
        (first.label, second.label), tuple(aligned), effects, tuple(statements), samples, tuple(notes), tuple(missing)
    )


def not_measured(names: Sequence[str]) -> list[str]:
    """What the runs do not both have, in one sentence with the command that measures it."""
    if not names:
        return []
    options = " ".join(f"--quantity {name}" for name in ASKED)
    return [f"no {', no '.join(names)}: `lipdiag measure CKPT {options} --out NEW.zarr` for both"]
