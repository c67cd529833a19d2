"""Text that others wrote: made harmless before it is kept, written or shown."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unicodedata import category

DEEPEST = 64
"""Lists and objects within each other in a JSON text."""

LARGEST_INTEGER = 2**64


def printable(text: str, keep: str = "") -> str:
    """The text with everything spelled out that a terminal would act upon, or that cannot be written.

    Control characters, marks that turn the direction of writing, and halves of characters become what Python calls
    them, such as \\x1b; those in `keep` stay.
    """
    return text if text.isprintable() else spelled(text, lambda c: not c.isprintable() and c not in keep)


def spelled(text: str, strange: Callable[[str], bool]) -> str:
    return "".join(c.encode("unicode_escape", "surrogatepass").decode() if strange(c) else c for c in text)


def writable(text: str) -> str:
    """The text without control characters and halves of characters, which no page and no figure can hold."""
    return text if text.isprintable() else spelled(text, lambda c: category(c) in ("Cc", "Cs"))


def sound(value: Any, deepest: int = DEEPEST) -> Any:
    """A value out of a stranger's JSON whose texts can be written and drawn.

    Raises:
        ValueError: If it is nested more deeply than that, or holds an integer that counts nothing.
    """
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, dict | list):
        if not deepest:
            raise ValueError("it is nested too deeply")
        if isinstance(value, list):
            return [sound(item, deepest - 1) for item in value]
        return {writable(key): sound(item, deepest - 1) for key, item in value.items()}
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError("it holds an integer that is too large")
    return value


class Legible(io.TextIOWrapper):
    """A stream for a terminal to which nothing but text gets through, whoever writes it: also libraries and warnings.

    Lines may end, and a progress bar may go back to the start of its line.
    """

    def write(self, text: str) -> int:
        bar = text.startswith("\r") and not text.endswith("\n")
        super().write("\r" * bar + printable(text[bar:], keep="\n\t"))
        return len(text)


@contextmanager
def legible() -> Iterator[None]:
    """Within it everything that is printed is printable."""
    kept = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    made: list[Legible] = []
    for name, stream in kept.items():
        if hasattr(stream, "buffer"):
            stream.flush()
            encoding = "utf-8" if stream.encoding.lower() in ("ascii", "ansi_x3.4-1968") else stream.encoding
            line_by_line = name == "stderr" or stream.isatty()
            made.append(Legible(stream.buffer, encoding, "backslashreplace", line_buffering=line_by_line))
            setattr(sys, name, made[-1])
    try:
        yield
    finally:
        vars(sys).update(kept)
        for stream in made:
            with suppress(OSError):  # which was told when it was written
                stream.detach()
