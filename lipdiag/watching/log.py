"""A file of numbers that grows by one row a step: CSV, the first column the step.

A row is one write at the end of the file, so that a killed training leaves at most one torn row. When the training is
gone on with from a snapshot, the rows of later steps are removed: they will be written again.
"""

import os
from pathlib import Path
from types import TracebackType

from ..errors import StorageError
from ..files import atomic_write, reason, shown

LOSSES = ("step", "loss", "learning_rate", "gradient_norm", "seconds")


class Log:
    """Rows under the given columns, open for more.

    Args:
        path: The file; made where it is missing.
        columns: Names, the first of them "step".
        step: Of the snapshot that the training goes on from; rows of later steps go.

    Raises:
        StorageError: If the file cannot be written.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], step: int):
        self.path, self.last = path, dict.fromkeys(columns, 0.0)
        kept = [row for row in rows(path, len(columns)) if row[0] <= step]
        if kept:
            self.last = dict(zip(columns, kept[-1], strict=True))
        atomic_write(path, "".join([",".join(columns) + "\n", *map(line, kept)]).encode())
        try:
            self.file = path.open("ab", buffering=0)
        except OSError as error:
            raise StorageError(f"cannot write {shown(path)}: {reason(error, path.parent)}") from error

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.file.close()

    def sync(self) -> None:
        """Bring the rows to the disk."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {shown(self.path)}: {reason(error, self.path.parent)}") from error

    def write(self, *values: float) -> None:
        """Add a row.

        Raises:
            StorageError: If it cannot be written, or not all of it; what a torn row left goes with the next opening.
        """
        left = line(values).encode()
        try:
            while left:  # a disk that has just run full takes a part
                left = left[self.file.write(left) :]
        except OSError as error:
            raise StorageError(f"cannot write {shown(self.path)}: {reason(error, self.path.parent)}") from error


def line(values: tuple[float, ...]) -> str:
    """A row as text, from which the same numbers are read."""
    return ",".join(repr(int(v) if float(v).is_integer() else float(v)) for v in values) + "\n"


def rows(path: Path, columns: int) -> list[tuple[float, ...]]:
    """The whole rows of a file, without its head and without what is torn; none if it is missing."""
    if not path.exists():
        return []
    kept = []
    for text in path.read_text(errors="replace").splitlines(keepends=True)[1:]:
        try:
            row = tuple(map(float, text.split(",")))
        except ValueError:
            continue
        if len(row) == columns and text.endswith("\n"):
            kept.append(row)
    return kept
