"""What can go wrong on the user's side, each with the exit code of the command line, and what is to be known."""

import difflib
from collections.abc import Iterable


class LipdiagWarning(UserWarning):
    """A caution, as `lipdiag.measure` gives it in Python."""


class Caution(str):
    """A note that numbers may not mean what their reader takes them for.

    It is kept with a run, stands first in its tables and pages, and is a warning in Python; any other note is a fact.
    """


class LipdiagError(Exception):
    """A sentence for the user: what was got, what is allowed, what to do."""

    exit_code = 1


class UsageError(LipdiagError, ValueError):
    """An argument that cannot be used."""

    exit_code = 2


class CheckpointError(LipdiagError):
    """A checkpoint that is missing, refused, or cannot be measured as asked."""

    exit_code = 3


class RunError(LipdiagError):
    """A run on disk that belongs to another plan, another model or a newer lipdiag."""

    exit_code = 4


class StorageError(LipdiagError):
    """A file that cannot be read or written."""

    exit_code = 5


class NonFiniteError(LipdiagError):
    """A measurement that finished with NaN or infinite values in it."""

    exit_code = 6


class IncompleteError(LipdiagError):
    """A measurement that finished with units missing."""

    exit_code = 7


def meant(got: str, names: Iterable[str]) -> str:
    """What a refusal of a name adds where one of those that there are is close to it."""
    near = difflib.get_close_matches(str(got), list(names), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def unknown(kind: str, name: object, names: Iterable[str]) -> UsageError:
    """The refusal of a name that is none of those that there are of its kind."""
    known = list(names)
    return UsageError(f"there is no {kind} {name!r}{meant(str(name), known)}; known are {', '.join(known)}")
