"""A run and its summary as tables: found by timestep, and tidy."""

import numpy as np
import pandas as pd
import xarray as xr

import lipdiag
from lipdiag.store.reader import open_run
from tests.runs import make, write


def test_a_summary_is_a_tidy_table(ddpm):
    summary = lipdiag.summarize(ddpm)
    frame = summary.to_dataframe()
    assert len(frame) == sum(variable.size // variable.sizes["statistic"] for variable in summary.data_vars.values())
    row = frame[(frame["variable"] == "loss") & (frame["timestep"] == 5)]
    at = int(np.flatnonzero(ddpm["timestep"].values == 5)[0])
    for name in ("mean", "low", "high", "count"):
        assert row[name].item() == summary["loss"].isel(time=at).sel(statistic=name).item()
    assert row["mean"].item() == ddpm["loss"].isel(time=at).values.mean()
    assert "statistic" not in frame
    mean = summary.sel(statistic="mean")
    plain = xr.Dataset(mean.data_vars, mean.coords)
    pd.testing.assert_frame_equal(mean.to_dataframe(), plain.to_dataframe(), check_like=True)


def test_a_run_is_found_by_its_timestep(tmp_path):
    """Also one that was stored before there was an index: nothing of it is on disk."""
    made = make()
    path = write(made, tmp_path / "run.zarr")
    found = open_run(path)
    assert not (tmp_path / "run.zarr" / "time").exists()
    at = int(np.flatnonzero(made["timestep"].values == 5)[0])
    assert np.array_equal(found["loss"].sel(time=5), made["loss"].isel(time=at))
    assert found.sel(time=5.4, method="nearest")["timestep"] == 5
    assert lipdiag.summarize(found)["loss"].sel(time=5, statistic="mean") == made["loss"].isel(time=at).mean()
    assert lipdiag.results.axis.over_logsnr(found).indexes["time"].tolist() == found["logsnr"].values.tolist()
