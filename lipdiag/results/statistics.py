"""What many draws say at each timestep: means with their intervals, and quantiles."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Statistics:
    """Over draws, at each timestep: the mean with its interval, quantiles, and how many draws."""

    mean: np.ndarray
    standard_error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    median: np.ndarray
    q05: np.ndarray
    q95: np.ndarray
    max: np.ndarray
    count: np.ndarray

    @property
    def half_width(self) -> np.ndarray:
        return (self.high - self.low) / 2


def over_draws(values: np.ndarray, level: float = 0.95) -> Statistics:
    """Statistics of derived numbers.

    Args:
        values: (row, draw); columns with NaN are left out of their row.
        level: Of the mean's interval.
    """
    import xarray as xr

    dims = ("row", "draw")
    table = xr.Dataset({"value": (dims, values), "done": (dims, np.isfinite(values).astype("int8"))})
    return summary(table, "value", level)


def summary(dataset: "xr.Dataset", variable: str, level: float) -> Statistics:
    """Statistics of one variable of a dataset over the draws that are done."""
    from ..statistics import summarize

    with np.errstate(invalid="ignore"):
        table = summarize(dataset, level)[variable]
    columns = {str(name): table.sel(statistic=name).values for name in table["statistic"].values}
    return Statistics(**{name: columns[name] for name in Statistics.__dataclass_fields__})
