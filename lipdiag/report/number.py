"""Numbers as text: as many digits as they deserve."""

import math


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
