"""What has to be known of a run's numbers, in the records of its launches and out of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import Caution
from ..printing import counted

KINDS = ("warnings", "notes")
"""Those that may change what a number means, and facts."""

TRIED = "calibration:"
"""How what the probe of a model's conventions found begins."""

NOT_TRIED = "whether prediction, time, schedule and range are told right was not tried"
"""In its place; of no account once another launch has tried it."""


def sorted_out(notes: Sequence[str]) -> dict[str, list[str]]:
    """Cautions and facts by the words of `KINDS`, for the record of a launch."""
    parts: tuple[list[str], list[str]] = [], []
    for note in notes:
        parts[not isinstance(note, Caution)].append(note)
    return dict(zip(KINDS, parts, strict=True))


def lacking(done: np.ndarray) -> list[str]:
    """That a run holds less than was planned, by its marks: the caution of one that was interrupted or partly given up.

    It is never on record, since it ceases to be true when the run is gone on with.
    """
    lost = int((done != 1).sum())
    if not lost:
        return []
    missing = f"{lost} of {counted(done.size, 'pair')} {'is' if lost == 1 else 'are'} not measured"
    return [f"{missing}: where the run has a folder, the same measurement into it goes on with them"]


def recalled(attributes: Mapping[str, Any], start: str) -> list[str]:
    """What earlier launches of a run noted that begins so."""
    notes = collected(attributes, np.ones(1))
    kept = {kind: [note for note in texts if note.startswith(start)] for kind, texts in notes.items()}
    return [*map(Caution, kept["warnings"]), *kept["notes"]]


def collected(attributes: Mapping[str, Any], done: np.ndarray) -> dict[str, list[str]]:
    """The warnings and the notes of every launch that filled a run, each once, and that it is not whole.

    Args:
        attributes: Of the run; records of another shape than `measure` writes are passed over.
        done: Its marks.
    """
    launches = attributes.get("launches")
    records = [launch for launch in launches if isinstance(launch, dict)] if isinstance(launches, list) else []
    notes: dict[str, list[str]] = {}
    for kind in KINDS:
        lists = [record.get(kind) for record in records]
        texts = [text for texts in lists if isinstance(texts, list) for text in texts if isinstance(text, str)]
        notes[kind] = list(dict.fromkeys(texts))
    if any(note.startswith(TRIED) for texts in notes.values() for note in texts):
        notes = {kind: [note for note in texts if not note.startswith(NOT_TRIED)] for kind, texts in notes.items()}
    notes["warnings"] += lacking(done)
    return notes
