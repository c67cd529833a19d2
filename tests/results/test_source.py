"""What is given on the command line, read: files of samples, trainings, evaluations, and what is none of them."""

import dataclasses
import json

import numpy as np
import pytest

from lipdiag.errors import RunError
from lipdiag.figures import FIGURES
from lipdiag.quality.evaluation import write
from lipdiag.results.source import open_source
from tests.runs import evaluation, training_log


def test_floats_are_taken_as_they_are_and_bytes_are_scaled(tmp_path):
    floats = np.linspace(-1.2, 1.2, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    np.savez(tmp_path / "a.npz", samples=floats, seed=np.arange(2))
    np.testing.assert_array_equal(open_source(tmp_path / "a.npz", "samples")["samples"].values, floats)
    shades = np.array([0, 255], dtype=np.uint8)[:, None, None, None] * np.ones((1, 5, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "b.npz", shades)  # channels last
    found = open_source(tmp_path / "b.npz", "samples")
    assert found["samples"].shape == (2, 3, 5, 4)
    np.testing.assert_array_equal(found["samples"].values[:, 0, 0, 0], [-1, 1])
    assert found.attrs["name"] == "b"


def test_files_that_hold_no_images_are_refused(tmp_path):
    np.savez(tmp_path / "flat.npz", x=np.zeros((3, 2)))
    with pytest.raises(RunError, match=r"holds x \(3, 2\), and not one array of images; .* `lipdiag sample`"):
        open_source(tmp_path / "flat.npz", "samples")
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(RunError, match=r"text\.npz is no file of samples"):
        open_source(tmp_path / "text.npz", "samples")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object))
    with pytest.raises(RunError, match=r"object\.npy is no file of samples"):
        open_source(tmp_path / "object.npy", "samples")
    with pytest.raises(RunError, match="is a folder"):
        open_source(tmp_path, "samples")


def test_a_training_is_read_up_to_its_last_whole_line(tmp_path):
    training_log(tmp_path)
    found = open_source(tmp_path, "training")
    np.testing.assert_array_equal(found["step"], np.arange(1, 201))
    np.testing.assert_array_equal(found["loss"], 1 / np.arange(1, 201))
    np.testing.assert_array_equal(found["mean"].sel(measured=100), 100 / (1 + np.array([0, 10, 500])))


def test_k_during_training_may_be_called_by_its_name(tmp_path):
    training_log(tmp_path)
    text = (tmp_path / "measure.csv").read_text().replace("mean", "time_difference")
    (tmp_path / "measure.csv").unlink()
    (tmp_path / "difference.csv").write_text(text)
    np.testing.assert_array_equal(open_source(tmp_path, "training")["mean"][:, 0], [50, 100, 200])


def test_a_training_without_measurements_is_drawn_without_them(tmp_path):
    from lipdiag.figures import plot

    training_log(tmp_path)
    (tmp_path / "measure.csv").unlink()
    picture = plot(open_source(tmp_path, "training"), figure="training")
    assert len(picture.axes) == 3
    assert "--measure-every" in picture.caption


def test_a_log_that_cannot_be_read_is_a_sentence(tmp_path):
    with pytest.raises(RunError, match=r"log\.csv is missing; this figure needs the folder"):
        open_source(tmp_path, "training")
    (tmp_path / "log.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(RunError, match="lacks learning_rate, gradient_norm"):
        open_source(tmp_path, "training")
    (tmp_path / "log.csv").write_text("step,loss,learning_rate,gradient_norm\n1,much,0,0\n")
    with pytest.raises(RunError, match="holds what is no number"):
        open_source(tmp_path, "training")


def test_an_evaluation_is_read_whole_and_a_run_is_none(tmp_path):
    dataset = evaluation()
    write(dataset, tmp_path / "e.zarr")
    found = open_source(tmp_path / "e.zarr", "quality")
    np.testing.assert_array_equal(found["fid"].values, dataset["fid"].values)
    assert found.attrs["n"] == 1000
    with pytest.raises(RunError, match=r"there is no evaluation .* `lipdiag evaluate`"):
        open_source(tmp_path / "none", "quality")


def test_the_list_of_figures_fits_a_terminal():
    from click.testing import CliRunner

    from lipdiag.cli import main

    lines = CliRunner().invoke(main, ["plot", "--list"]).output.splitlines()
    assert [line.split()[0] for line in lines] == list(FIGURES)
    assert all(len(line) <= 80 for line in lines)
    told = json.loads(CliRunner().invoke(main, ["plot", "--list", "--json"]).output)
    assert list(told) == list(FIGURES)
    assert told["pairs"]["measure"] == "--quantity pairs --timesteps log:24 --draws 32"
    assert (told["vectors"]["most"], told["quality"]["source"], told["quality"]["measure"]) == (1, "quality", "")


def test_the_command_draws_from_each_source(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from lipdiag.cli import main

    monkeypatch.chdir(tmp_path)
    training_log(tmp_path / "short")
    result = CliRunner().invoke(main, ["plot", "short", "--figure", "training", "--out", "a.svg"])
    assert result.output == "a.svg\n"
    assert {path.name for path in tmp_path.iterdir()} == {"short", "a.svg", "a.csv"}
    for arguments, code in ((["nowhere", "--figure", "samples"], 4), (["x", "--figure", "nothing"], 2), ([], 2)):
        result = CliRunner().invoke(main, ["plot", *arguments])
        assert result.exit_code == code, result.output
        assert result.stderr.startswith("lipdiag: ")
        assert result.stderr.count("\n") == 1


def test_a_log_without_a_whole_line_is_no_training_to_draw_yet(tmp_path):
    """What a training has written that was stopped in its first row."""
    (tmp_path / "log.csv").write_text("step,loss,learning_rate,gradient_norm\n1,0.5,")
    with pytest.raises(RunError, match=r"log\.csv has no whole line yet"):
        open_source(tmp_path, "training")


def test_a_training_is_read_while_it_runs(tmp_path, recipe):
    """After its first steps, before K was measured for the first time, and afterwards."""
    from lipdiag.training.session import session

    for state in session(dataclasses.replace(recipe, steps=5), tmp_path, measure_every=3):
        found = open_source(tmp_path, "training")
        assert found["step"].values.tolist() == list(range(1, state.step + 1))
        assert found["loss"].values[-1] == state.loss
        measured = found["measured"].values.tolist() if "measured" in found else []
        assert measured == [step for step in (3, 5) if step <= state.step]


def test_a_number_that_is_half_written_is_not_taken_for_another(tmp_path):
    """Of 2 a row ends with 1, in the last of the columns that are drawn."""
    (tmp_path / "log.csv").write_text("step,loss,learning_rate,gradient_norm\n1,0.5,0.1,10.25\n2,0.5,0.1,1")
    assert open_source(tmp_path, "training")["gradient_norm"].values.tolist() == [10.25]


def test_what_numpy_says_of_a_broken_archive_is_cut_to_a_line(tmp_path):
    np.savez(tmp_path / "a.npz", samples=np.zeros((1, 1, 8, 8)))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[:26] + b"\x00\x10" + data[28:])  # a name of 4096 bytes
    with pytest.raises(RunError, match="is no file of samples") as refusal:
        open_source(tmp_path / "a.npz", "samples")
    assert len(str(refusal.value)) < 600
