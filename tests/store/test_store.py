"""The run on disk: what was written is read back, what was not does not exist."""

import errno
import json
import os

import numpy as np
import pytest

from lipdiag.errors import RunError, StorageError
from lipdiag.store import store
from lipdiag.store.creation import create
from lipdiag.store.layout import Layout, WorkUnit, units

LAYOUT = Layout(times=2, draws=4)
TIMES, DRAWS = 5, 8


def new(path):
    return create(
        path,
        LAYOUT,
        DRAWS,
        {"timestep": (np.arange(TIMES) * 1.0, {"units": "step"})},
        {"k": store.Column({"units": "1"}), "s": store.Column({"units": "1"}, {"rank": 3})},
        {"frozen": {"seed": 0}, "launches": []},
    )


def fill(run, unit, value=1.0):
    shape = (unit.times.stop - unit.times.start, unit.draws.stop - unit.draws.start)
    run.write(unit, {"k": np.full(shape, value), "s": np.full((*shape, 3), value)})


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_units_are_read_back_and_the_rest_is_missing(tmp_path, where):
    run = new(tmp_path / "a.zarr" if where == "disk" else None)
    all_units = units(LAYOUT, TIMES, range(DRAWS))
    fill(run, all_units[0], 2.5)
    assert run.complete(all_units[0])
    assert not run.complete(all_units[1])
    dataset = run.dataset()
    assert dataset["k"].dims == ("time", "draw")
    assert dataset["s"].dims == ("time", "draw", "rank")
    assert (dataset["done"].values == 1).sum() == 2 * 4
    assert (dataset["k"].values[:2, :4] == 2.5).all()
    assert np.isnan(dataset["k"].values[2:]).all()
    assert "timestep" in dataset.coords


def test_growing_keeps_what_is_there(tmp_path):
    run = new(tmp_path / "a.zarr")
    first = units(LAYOUT, TIMES, range(DRAWS))[0]
    fill(run, first, 3.0)
    run.grow(16)
    last = units(LAYOUT, TIMES, range(16))[-1]
    fill(run, last, 4.0)
    dataset = store.open_run(tmp_path / "a.zarr")
    assert dataset.sizes["draw"] == 16
    assert dataset["k"].values[0, 0] == 3.0
    assert dataset["k"].values[-1, -1] == 4.0
    np.testing.assert_array_equal(dataset["draw"], np.arange(16))


def test_a_flipped_bit_and_a_lost_chunk_are_found(tmp_path):
    run = new(tmp_path / "a.zarr")
    first, second, *_ = units(LAYOUT, TIMES, range(DRAWS))
    for unit in (first, second):
        fill(run, unit)
    chunk = tmp_path / "a.zarr" / "k" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[9] ^= 1
    chunk.write_bytes(data)
    (tmp_path / "a.zarr" / "s" / "c" / "1" / "0" / "0").unlink()
    again = store.open_store(tmp_path / "a.zarr")
    assert not again.complete(first)
    assert not again.complete(second)
    fill(again, first)
    assert again.complete(first)


def test_chunks_are_those_that_zarr_writes(tmp_path):
    """Byte for byte, cut off at the edge of the array or not; and zarr reads back what is written."""
    import zarr

    ours, theirs = new(tmp_path / "a.zarr"), new(tmp_path / "b.zarr")
    chance = np.random.default_rng(0)
    for unit in units(LAYOUT, TIMES, range(DRAWS)):
        shape = (unit.times.stop - unit.times.start, unit.draws.stop - unit.draws.start)
        values = {"k": chance.normal(size=shape), "s": np.full((*shape, 3), np.nan)}
        ours.write(unit, values)
        with zarr.config.set({"array.write_empty_chunks": True}):
            for name, value in {**values, "done": np.int8(1)}.items():
                theirs.group[name][unit.times, unit.draws] = value
        np.testing.assert_array_equal(ours.group["k"][unit.times, unit.draws], values["k"])
    for name in ("k", "s", "done"):
        files = [file for file in (tmp_path / "a.zarr" / name / "c").rglob("*") if file.is_file()]
        assert len(files) == 6
        for file in files:
            assert file.read_bytes() == (tmp_path / "b.zarr" / file.relative_to(tmp_path / "a.zarr")).read_bytes()


def test_a_part_of_a_chunk_is_replaced_without_losing_or_inventing_the_rest(tmp_path):
    """A plan of fewer draws goes on with a run that has grown: the rest stays, or is missing if it is damaged."""
    run = new(tmp_path / "a.zarr")
    first = units(LAYOUT, TIMES, range(DRAWS))[0]
    part = WorkUnit(first.times, slice(0, 3))
    fill(run, first, 1.0)
    fill(run, part, 2.0)
    assert run.complete(first)
    np.testing.assert_array_equal(run.read("k", first), [[2, 2, 2, 1]] * 2)
    chunk = tmp_path / "a.zarr" / "k" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    fill(run, part, 3.0)
    assert run.complete(part)
    assert not run.marked(first)
    np.testing.assert_array_equal(run.read("k", first), [[3, 3, 3, np.nan]] * 2)


def test_nan_results_are_kept_as_done(tmp_path):
    run = new(tmp_path / "a.zarr")
    first = units(LAYOUT, TIMES, range(DRAWS))[0]
    fill(run, first, np.nan)
    assert store.open_store(tmp_path / "a.zarr").complete(first)


def test_a_unit_without_its_mark_does_not_exist(tmp_path, monkeypatch):
    run = new(tmp_path / "a.zarr")
    first = units(LAYOUT, TIMES, range(DRAWS))[0]
    with pytest.raises(KeyError):  # the second variable is missing, as after a kill between two writes
        run.write(first, {"k": np.zeros((2, 4)), "no such": np.zeros((2, 4))})
    assert not run.complete(first)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no run .*thing: give .*; a checkpoint has to be measured first"),
        (lambda path: path.mkdir(), "no zarr.json"),
        (lambda path: path.write_text("x"), "is no lipdiag run: it is a file.*; a checkpoint has to be measured first"),
        (lambda path: (path.mkdir(), (path / "zarr.json").write_text("{")), "cannot be read"),
        (lambda path: (path.mkdir(), (path / "zarr.json").write_text('{"attributes": {}}')), "did not make"),
    ],
)
def test_something_else_is_refused(tmp_path, make, words):
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(RunError, match=words):
        store.open_run(path)


def test_a_newer_format_is_refused(tmp_path):
    new(tmp_path / "a.zarr")
    meta = tmp_path / "a.zarr" / "zarr.json"
    content = json.loads(meta.read_text())
    content["attributes"]["format_version"] = 99
    meta.write_text(json.dumps(content))
    with pytest.raises(RunError, match="newer lipdiag"):
        store.open_store(tmp_path / "a.zarr")


def test_a_full_disk_is_said_and_loses_nothing(tmp_path, monkeypatch):
    run = new(tmp_path / "a.zarr")
    first, second, *_ = units(LAYOUT, TIMES, range(DRAWS))
    fill(run, first)

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"No space left on device .* are free"):
        fill(run, second)
    with pytest.raises(StorageError):
        fill(run, first, 9.0)
    monkeypatch.undo()
    again = store.open_store(tmp_path / "a.zarr")
    assert again.complete(first)
    assert (again.read("k", first) == 1.0).all()
    assert not [file for file in (tmp_path / "a.zarr").rglob("*") if file.name.startswith(".")]


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        new(tmp_path / "file" / "a.zarr")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_differences_name_each_field():
    old = {"plan": {"seed": 0, "step": 1}, "data": "a"}
    new_ = {"plan": {"seed": 1, "step": 1}, "data": "b"}
    assert store.differences(old, new_) == ['data is "a" there and "b" here', "plan.seed is 0 there and 1 here"]


def test_a_unit_that_grew_is_not_complete_before_its_new_draws_are_there(tmp_path):
    """Six draws in blocks of four leave half a block; room for eight makes it one whose other half is missing."""
    run = create(
        tmp_path / "a.zarr",
        LAYOUT,
        6,
        {"timestep": (np.arange(TIMES) * 1.0, {"units": "step"})},
        {"k": store.Column({"units": "1"})},
        {"frozen": {"seed": 0}, "launches": []},
    )
    half = units(LAYOUT, TIMES, range(6))[3]
    run.write(half, {"k": np.ones((2, 2))})
    assert run.complete(half)
    run.grow(8)
    whole = units(LAYOUT, TIMES, range(8))[3]
    assert (half.draws, whole.draws) == (slice(4, 6), slice(4, 8))
    assert not run.complete(whole)
    run.write(whole, {"k": np.ones((2, 4))})
    assert run.complete(whole)


def test_a_full_disk_is_told_with_what_is_left_of_the_run(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    for name, said in (("run", "what was measured is kept"), ("none", "nothing was measured: make room")):
        (tmp_path / "run").mkdir(exist_ok=True)
        with pytest.raises(StorageError, match=said), store.writing(tmp_path / name):
            raise full
