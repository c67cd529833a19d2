"""Statistics over the draws of a run, as a dataset that is also a tidy table."""

from typing import Any

import xarray as xr

from ..statistics import LEVEL, STATISTICS, summary


class Summary(xr.Dataset):
    """Dims (`time`, `statistic`) and what further ones a variable has; see `summarize`."""

    __slots__ = ()

    def to_dataframe(self, dim_order: Any = None) -> Any:
        """A row a variable and timestep, with a column a statistic; xarray's wide table where one was selected.

        Args:
            dim_order: Of xarray's wide table.
        """
        if "statistic" not in self.dims:
            return super().to_dataframe(dim_order)
        import pandas as pd  # type: ignore[import-untyped]

        frames = []
        for name, variable in self.data_vars.items():
            frame = variable.to_dataset("statistic").to_dataframe().reset_index()
            frame.insert(0, "variable", name)
            frames.append(frame.drop(columns="time", errors="ignore"))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def summarize(dataset: xr.Dataset, level: float = LEVEL) -> Summary:
    """Statistics over draws of every variable with a `draw` dimension.

    Args:
        dataset: What `measure` returned, or a run opened with xarray.
        level: Of the interval of the mean.

    Returns:
        A dataset with dims (`time`, `statistic`) and statistics `mean`, `standard_error`, `low`, `high` (Student's
        interval of the mean at `level`), `median`, `q05`, `q25`, `q75`, `q95`, `max` (a lower bound of any Lipschitz
        constant) and `count`; coordinates and attributes as in `dataset`. Draws not done are left out; NaN draws that
        were measured make the statistics NaN. Its `to_dataframe()` has a row a variable and timestep.

    Example:
        >>> run = lipdiag.open_run("digits-ddpm.zarr")
        >>> K = lipdiag.summarize(run)["time_difference"].sel(statistic="mean").values
        >>> bool(K[0] > 10 * K[-1])
        True
    """
    done = dataset["done"] == 1
    out = {}
    for name, variable in dataset.data_vars.items():
        if name == "done" or "draw" not in variable.dims or "entry" in variable.dims:
            continue  # entries of vectors whose sign is arbitrary have no mean
        values = variable.transpose(*[d for d in variable.dims if d != "draw"], "draw")
        mask = done.broadcast_like(values).transpose(*values.dims)
        dims = (*[d for d in values.dims if d != "draw"], "statistic")
        out[name] = xr.Variable(dims, summary(values.values, mask.values, level), attrs=variable.attrs)
    coordinates = {k: c for k, c in dataset.coords.items() if "draw" not in c.dims}
    return Summary(out, {**coordinates, "statistic": list(STATISTICS)}, attrs={**dataset.attrs, "level": level})
