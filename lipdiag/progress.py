"""The progress bar of everything that takes long: characters on standard error, widgets in a notebook."""

import sys
from importlib.util import find_spec
from typing import Any


def say(line: str) -> None:
    """A line on standard error, above whatever bars are shown."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def bar(total: int | None, unit: str, what: str, quiet: bool = False, **about: Any) -> Any:
    """A bar of tqdm, to be closed, or entered as a context.

    Args:
        total: At how many units it is full; None where that is not known before the first.
        unit: What is counted.
        what: Is going on.
        quiet: Whether nothing is shown; the bar is updated and closed all the same.
        about: Further arguments of tqdm.
    """
    if "IPython" in sys.modules and find_spec("ipywidgets"):
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm

        about |= {"dynamic_ncols": True}
    if total is None:
        about |= {"delay": 0.1}  # it is shown with the first of them: until then all may be refused
    # a speed over many units: they differ much in price
    return tqdm(total=total, unit=f" {unit}s", desc=what, disable=quiet, smoothing=0.05, **about)
