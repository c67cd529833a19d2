"""The explorer: a picture where there are no widgets, a slider over the same pictures where there are."""

import io

import matplotlib
import matplotlib.image
import numpy as np
import pytest

import lipdiag
from lipdiag.errors import UsageError
from lipdiag.figures import explore
from lipdiag.figures.canvas import Picture
from lipdiag.figures.explorer import moment, variables
from lipdiag.results.run import read


def test_without_widgets_it_is_the_picture_of_the_peak(ddpm, monkeypatch):
    monkeypatch.setattr("lipdiag.figures.explorer.find_spec", lambda name: None)
    before = dict(matplotlib.rcParams)
    found = explore(ddpm)
    top = int(ddpm["time_difference"].mean("draw").values.argmax())
    assert isinstance(found, Picture)
    assert f"timestep {float(ddpm['timestep'][top]):g}:" in found.caption
    assert found.contents(".png") == moment(read([ddpm])[0], "time_difference", top).contents(".png")
    assert dict(matplotlib.rcParams) == before


def test_the_histogram_holds_every_draw_of_the_timestep(ddpm):
    picture = moment(read([ddpm])[0], "loss", 7)
    here = picture.axes[1]
    assert sum(patch.get_height() for patch in here.patches if patch.get_height() >= 1) >= ddpm.sizes["draw"]
    (line,) = here.lines
    np.testing.assert_allclose(line.get_xdata()[0], float(ddpm["loss"][7].mean()))


def test_one_draw_and_exact_zeros_can_be_looked_at(etsdm):
    for dataset in (etsdm, etsdm.isel(draw=[0])):
        (run,) = read([dataset])
        assert moment(run, "time_difference", 1).contents(".png").startswith(b"\x89PNG")


def test_speeds_come_first_and_other_names_are_refused(ddpm):
    names = variables(read([ddpm])[0])
    assert names[:2] == ["time_difference", "time_derivative"]
    assert "done" not in names
    with pytest.raises(UsageError, match="to explore; it has time_difference"):
        explore(ddpm, "speed")


def test_the_slider_shows_the_picture_of_its_timestep(ddpm):
    pytest.importorskip("ipywidgets")
    choice, slider, image = lipdiag.explore(ddpm).children
    slider.value = 4
    choice.value = "loss"
    shown, expected = (
        matplotlib.image.imread(io.BytesIO(png))
        for png in (image.value, moment(read([ddpm])[0], "loss", 4).contents(".png", dpi=150))
    )
    np.testing.assert_array_equal(shown, expected)
    assert len(slider.options) == ddpm.sizes["time"]
