"""Numbers as text: as many digits as they deserve."""

import hashlib
import math
import re


def plain(value: float, digits: int = 3) -> str:
    """A number with that many digits."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -3 <= size < 5:
        return _short(f"{value:.{digits - 1}e}")
    return f"{value:.{max(0, digits - 1 - size)}f}"


def with_half_width(mean: float, half: float) -> str:
    """A mean with the half-width of its interval, to two digits of the latter; exact zeros are said to be so."""
    if not math.isfinite(mean):
        return "-"
    if mean == 0 and half == 0:
        return "exactly 0"
    if not math.isfinite(half) or half <= 0:
        return plain(mean)
    size = math.floor(math.log10(half))
    largest = math.floor(math.log10(max(abs(mean), half)))
    if size < -4 or largest >= 5:
        return f"{_short(f'{mean:.{min(4, max(1, largest - size))}e}')} +- {_short(f'{half:.0e}')}"
    decimals = max(0, 1 - size)
    return f"{mean:.{decimals}f} +- {half:.{decimals}f}"


def _short(text: str) -> str:
    """1.0e-05 as 1.0e-5."""
    return text.replace("e-0", "e-").replace("e+0", "e+")


LISTED = 12
"""Numbers of a list that are written out."""

NUMBER = re.compile(r"[-+.\deE]+")
LIST = re.compile(r"[(\[]([^()\[\]]*)[)\]]")


def shortened(text: str) -> str:
    """A text in which each long list of numbers is told by their count, its ends and the start of its SHA-256."""

    def told(found: re.Match[str]) -> str:
        entries = [entry.strip() for entry in found[1].split(",") if entry.strip()]
        if len(entries) <= LISTED or not all(map(NUMBER.fullmatch, entries)):
            return found[0]
        digest = hashlib.sha256(", ".join(entries).encode()).hexdigest()
        inside = f"{len(entries)} numbers from {entries[0]} to {entries[-1]}, SHA-256 {digest[:12]}"
        return f"{found[0][0]}{inside}{found[0][-1]}"

    return LIST.sub(told, text)
