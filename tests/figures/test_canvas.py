"""Files: whole or not at all, with their data beside them."""

import csv
import os

import numpy as np
import pytest
from matplotlib.figure import Figure

from lipdiag.errors import StorageError, UsageError
from lipdiag.figures import plot, save


@pytest.fixture(scope="module")
def picture(etsdm):
    return plot(etsdm)


@pytest.mark.parametrize(
    ("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG"), (".PNG", b"\x89PNG")]
)
def test_each_suffix_writes_its_format(picture, tmp_path, suffix, start):
    written = save(picture, tmp_path / f"new/figure{suffix}")
    assert written == [tmp_path / f"new/figure{suffix}", tmp_path / "new/figure.csv"]
    assert written[0].read_bytes().startswith(start)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"figure.csv", f"figure{suffix}"}


def test_table_beside_the_figure_holds_the_drawn_numbers_in_full(picture, etsdm, tmp_path):
    save(picture, tmp_path / "a.svg")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["series"] == "digits-etsdm"]
    found = np.array([float(row["mean"]) for row in rows])
    np.testing.assert_allclose(found, etsdm["time_difference"].values.mean(1), rtol=1e-14)
    np.testing.assert_array_equal([float(row["sigma"]) for row in rows], etsdm["sigma"].values)
    assert rows[0]["kind"] == "exactly zero"


def test_plain_figures_are_written_with_the_data_given(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    save(figure, tmp_path / "plain.png")
    assert not (tmp_path / "plain.csv").exists()
    save(figure, tmp_path / "plain.pdf", data=[{"x": 1, "y": 0.1}, {"x": 2, "z": float("nan")}])
    assert (tmp_path / "plain.csv").read_text() == "x,y,z\n1,0.1,\n2,,\n"


def test_other_suffixes_are_refused(picture, tmp_path):
    with pytest.raises(UsageError, match=r"must end in \.pdf, \.svg, \.png"):
        save(picture, tmp_path / "figure.jpg")


def test_a_failed_write_leaves_the_old_file_and_no_other(picture, tmp_path, monkeypatch):
    old = tmp_path / "figure.png"
    old.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"cannot write .*figure\.png: no space left on device"):
        save(picture, old)
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert old.read_text() == "old"


def test_a_file_in_the_way_of_a_folder_is_one_sentence(picture, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a file of that name is in the way"):
        save(picture, tmp_path / "file/figure.png")


def test_a_picture_shows_itself_in_a_notebook(picture):
    assert picture._repr_png_().startswith(b"\x89PNG")
