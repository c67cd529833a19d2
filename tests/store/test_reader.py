"""Stores are read as xarray reads them, without zarr or any codec being asked for by its name."""

import json
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lipdiag.comparison.quality import read
from lipdiag.errors import RunError, StorageError
from lipdiag.quality import evaluation
from lipdiag.results.source import open_source
from lipdiag.store.creation import create
from lipdiag.store.format import MOST_CHUNKS
from lipdiag.store.layout import Layout, units
from lipdiag.store.reader import open_evaluation, open_run
from lipdiag.store.store import Column, open_store

PACKED = {
    "name": "zstd",
    "configuration": {"level": 0, "checksum": False},
}


def an_evaluation() -> xr.Dataset:
    found = evaluation.new(["ddim:20", "dpm:5", "euler:é"], [3, 4], {"extractor": "pixels", "n": 40, "versions": {}})
    found["fid"][:] = np.arange(6.0).reshape(3, 2)
    found["seconds"][0, 0] = 1.5
    return found


def a_run(path: Path, draws: int = 10):
    """Two of six units done, of a column with a third dimension too."""
    columns = {"loss": Column({"units": "1"}), "singular_values": Column({"norm": "none"}, {"rank": 3})}
    coordinates = {"timestep": (np.arange(5.0), {"units": "timestep"}), "t": (np.linspace(0, 1, 5), {})}
    store = create(path, Layout(3, 4), draws, coordinates, columns, {"frozen": {"model": {}}})
    for unit in units(Layout(3, 4), 5, range(draws))[1:3]:
        shape = store.read("loss", unit).shape
        generator = np.random.default_rng(unit.draws.start)
        store.write(unit, {"loss": generator.normal(size=shape), "singular_values": generator.normal(size=(*shape, 3))})
    return store


def told_by_xarray(path: Path) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_dataset(
            path, engine="zarr", chunks=None, mask_and_scale=False, drop_variables=["attempts"]
        ).load()


def as_before(path: Path) -> None:
    """An evaluation as it was written before it had checksums: packed by zstandard, which is zarr's own choice."""
    dataset = an_evaluation()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.assign_coords(sampler=dataset["sampler"].values.astype(object)).to_zarr(path, zarr_format=3)


def test_a_run_is_read_as_xarray_reads_it(tmp_path):
    a_run(tmp_path / "a.zarr")
    found = open_run(tmp_path / "a.zarr")
    xr.testing.assert_identical(found.drop_vars("time"), told_by_xarray(tmp_path / "a.zarr"))
    assert found.indexes["time"].tolist() == found["timestep"].values.tolist()
    assert int((found["done"] == 1).sum()) == 3 * 4 + 2 * 4
    assert np.isfinite(found["singular_values"].values).sum() == 3 * 20


@pytest.mark.parametrize("make", [as_before, lambda path: evaluation.write(an_evaluation(), path)])
def test_an_evaluation_is_read_as_xarray_reads_it(tmp_path, make):
    make(tmp_path / "q.zarr")
    xr.testing.assert_identical(open_evaluation(tmp_path / "q.zarr"), an_evaluation())
    seen = told_by_xarray(tmp_path / "q.zarr")
    assert seen["sampler"].values.tolist() == ["ddim:20", "dpm:5", "euler:é"]
    np.testing.assert_array_equal(seen["fid"].values, an_evaluation()["fid"].values)


def test_an_evaluation_that_zarr_cut_into_chunks_is_read_whole(tmp_path):
    many = evaluation.new([f"ddim:{i}" for i in range(1, 400)], list(range(300)), {})
    many["fid"][:] = np.arange(many["fid"].size, dtype=float).reshape(many["fid"].shape)
    evaluation.write(many, tmp_path / "q.zarr")
    assert len(list((tmp_path / "q.zarr" / "fid" / "c").rglob("*"))) > 3
    xr.testing.assert_identical(open_evaluation(tmp_path / "q.zarr"), many)


def test_a_flipped_bit_of_an_evaluation_is_found(tmp_path):
    evaluation.write(an_evaluation(), tmp_path / "q.zarr")
    file = tmp_path / "q.zarr" / "fid" / "c" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[9] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match="fails its checksum"):
        open_evaluation(tmp_path / "q.zarr")


class Touched:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def old_array(place: Path) -> dict:
    """An array of zarr's older format whose filter unpickles what is in its chunk."""
    return {
        "zarr_format": 2, "shape": [1, 1], "chunks": [1, 1], "dtype": "|O", "compressor": None, "fill_value": None,
        "order": "C", "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "dimension_separator": ".",
    }  # fmt: skip


def group_of_format_2(path: Path, ran: Path) -> None:
    (path / "fid").mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / "fid" / ".zarray").write_text(json.dumps(old_array(ran)))
    (path / "fid" / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["sampler", "seed"]}')
    (path / "fid" / "0.0").write_bytes(pickle.dumps(Touched(ran)))


def copy_that_names_format_2(path: Path, ran: Path) -> None:
    group_of_format_2(path, ran)
    (path / ".zgroup").unlink()
    table = {"fid": {**old_array(ran), "attributes": {"_ARRAY_DIMENSIONS": ["sampler", "seed"]}}}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": table}
    root = {"zarr_format": 3, "node_type": "group", "consolidated_metadata": consolidated}
    (path / "zarr.json").write_text(json.dumps(root | {"attributes": {"format_version": evaluation.FORMAT}}))


def good_but_for(change):
    """An evaluation of lipdiag's with one array told otherwise, in its own file or in the copy beside the root."""

    def make(path: Path, ran: Path) -> None:
        evaluation.write(an_evaluation(), path)
        change(path, ran)

    return make


def told_otherwise(place: str, **told):
    def change(path: Path, ran: Path) -> None:
        root = json.loads((path / place).read_text())
        array = root["consolidated_metadata"]["metadata"]["fid"] if place == "zarr.json" else root
        array |= told
        (path / place).write_text(json.dumps(root))

    return good_but_for(change)


def old_beside_new(path: Path, ran: Path) -> None:
    (path / "fid" / ".zarray").write_text(json.dumps(old_array(ran)))
    (path / "fid" / "0.0").write_bytes(pickle.dumps(Touched(ran)))
    (path / "fid" / "zarr.json").unlink()


RAW = [{"name": "bytes", "configuration": {"endian": "little"}}]
HOSTILE = {
    "format 2": group_of_format_2,
    "format 2 in the copy": copy_that_names_format_2,
    "format 2 in the place of format 3": good_but_for(old_beside_new),
    **{
        f"{name} in {place}": told_otherwise(place, **told)
        for place in ("zarr.json", "fid/zarr.json")
        for name, told in {
            "a canary": {"codecs": [{"name": "numcodecs.canary", "configuration": {}}]},
            "a bare canary": {"codecs": [*RAW, {"name": "canary"}]},
            "a canary within shards": {
                "codecs": [{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "canary"}]}}]
            },
            "no checksum": {"codecs": RAW},
            "filled with numbers": {"fill_value": 5.0},
            "objects": {"data_type": "object"},
            "bytes of any length": {"data_type": "variable_length_bytes"},
            "an extension": {"data_type": {"name": "canary", "configuration": {}}},
            "a transformer": {"storage_transformers": [{"name": "canary"}]},
            "a further codec": {"codecs": [*RAW, PACKED, {"name": "crc32c"}]},
            "a grid of its own": {"chunk_grid": {"name": "canary", "configuration": {"chunk_shape": [3, 2]}}},
            "keys of its own": {"chunk_key_encoding": {"name": "canary"}},
            "absurdly many chunks": {
                "shape": [30_000, 30_000], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}
            },
            "48 GB": {
                "shape": [6, 10**9],
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [6, 10**6]}},
            },
        }.items()
    },
}  # fmt: skip
READERS = {
    "open_evaluation": open_evaluation,
    "plot": lambda path: open_source(path, "quality"),
    "compare": lambda path: read([(path, path)], [("a", "a")]),
    "open_run": open_run,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_codec_is_looked_up_before_a_store_is_refused(tmp_path, monkeypatch, name):
    """Whatever zarr and numcodecs would make of the name: their registries are never asked."""
    import numcodecs.registry
    import zarr.registry

    asked, ran, path = [], tmp_path / "ran", tmp_path / "evil.zarr"
    HOSTILE[name](path, ran)
    monkeypatch.setattr(numcodecs.registry, "get_codec", lambda config: asked.append(config))
    for function in [f for f in vars(zarr.registry) if f.startswith("get_")]:
        monkeypatch.setattr(zarr.registry, function, lambda *a, **k: asked.append(a))
    monkeypatch.setattr(zarr, "open_group", lambda *a, **k: asked.append(a))
    monkeypatch.setattr(pickle, "loads", lambda data: asked.append(data))
    for reader in READERS.values():
        with pytest.raises(RunError):
            reader(path)
    assert asked == []
    assert not ran.exists()


def test_good_stores_are_read_where_zarr_is_not_even_there(tmp_path):
    """And numcodecs is needed only for evaluations of before, for the decoder of zstandard."""
    a_run(tmp_path / "a.zarr")
    evaluation.write(an_evaluation(), tmp_path / "q.zarr")
    script = (
        "import sys; sys.modules['zarr'] = sys.modules['numcodecs'] = None;"
        "from lipdiag.store.reader import open_evaluation, open_run;"
        f"print(open_run({str(tmp_path / 'a.zarr')!r}).sizes, open_evaluation({str(tmp_path / 'q.zarr')!r}).sizes)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "'draw': 10" in told
    assert "'sampler': 3" in told


def test_what_zstandard_unpacks_is_bounded_before_it_is(tmp_path):
    """A chunk that says it is a thousand times larger than it may be, one that says nothing, and one that lies."""
    from numcodecs.zstd import Zstd

    as_before(tmp_path / "q.zarr")
    file = tmp_path / "q.zarr" / "fid" / "c" / "0" / "0"
    good = file.read_bytes()
    bomb = Zstd().encode(b"\0" * 2**16)
    silent = bytes([*good[:4], good[4] & 0x1F & ~0x20, *good[5:]])
    file.write_bytes(bomb)
    with pytest.raises(RunError, match="unpacks to more than"):
        open_evaluation(tmp_path / "q.zarr")
    for data in (silent, good[:-3], good[:5] + b"\xff" + good[6:], Zstd().encode(b"\0" * 40), b"", good + good):
        file.write_bytes(data)
        with pytest.raises(RunError, match=r"q\.zarr is damaged"):
            open_evaluation(tmp_path / "q.zarr")


def test_texts_are_cut_by_nothing_but_their_lengths(tmp_path):
    evaluation.write(an_evaluation(), tmp_path / "q.zarr")
    from lipdiag.store.chunk import checksum

    file = tmp_path / "q.zarr" / "sampler" / "c" / "0"
    good = file.read_bytes()[:-4]
    for data in (
        good[:-1],
        b"\xff" * 4 + good[4:],
        good[:4] + b"\xff" * 4 + good[8:],
        good[:-2] + b"\xff\xff",
        good[:6],
    ):
        file.write_bytes(data + checksum(data))
        with pytest.raises(RunError, match=r"q\.zarr is damaged"):
            open_evaluation(tmp_path / "q.zarr")


@pytest.mark.parametrize("name", ["pipe", "device", "link", "folder"])
def test_chunks_are_regular_files(tmp_path, name):
    import os

    make = {
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "link": lambda path: path.symlink_to(tmp_path / "elsewhere"),
        "folder": Path.mkdir,
    }[name]
    a_run(tmp_path / "a.zarr")
    evaluation.write(an_evaluation(), tmp_path / "a.zarr" / "x.zarr")
    shutil.move(tmp_path / "a.zarr" / "x.zarr", tmp_path / "q.zarr")
    (tmp_path / "elsewhere").write_bytes((tmp_path / "q.zarr" / "fid" / "c" / "0" / "0").read_bytes())
    for file in (tmp_path / "q.zarr" / "fid" / "c" / "0" / "0", tmp_path / "a.zarr" / "loss" / "c" / "1" / "0"):
        file.unlink()
        make(file)
    if name == "folder":  # an empty folder is no chunk, and what is not written is not there
        assert np.isnan(open_evaluation(tmp_path / "q.zarr")["fid"].values).all()
        return
    for reader, path in ((open_evaluation, "q.zarr"), (open_run, "a.zarr")):
        with pytest.raises(RunError, match="is a link or no regular file"):
            reader(tmp_path / path)


def test_what_may_not_be_read_is_an_error_of_input(tmp_path, monkeypatch):
    import os

    a_run(tmp_path / "a.zarr")
    evaluation.write(an_evaluation(), tmp_path / "q.zarr")

    def refused(path, *rest):
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("open", "scandir"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refused)
            for reader, path in ((open_evaluation, "q.zarr"), (open_run, "a.zarr")):
                with pytest.raises(StorageError, match=r"annot read .*Permission denied"):
                    reader(tmp_path / path)


def test_a_run_has_no_more_units_than_files_can_be(tmp_path):
    """Eight million units of one pair, and 30,000 x 30,000 pairs: refused by their sizes, before any is counted out."""
    a_run(tmp_path / "a.zarr")
    root = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
    root["attributes"]["layout"] = {"times": 1, "draws": 1}
    for shape in ([1000, 8000], [30_000, 30_000]):
        for array in root["consolidated_metadata"]["metadata"].values():
            size = [shape[["time", "draw"].index(name)] for name in array["dimension_names"] if name != "rank"]
            array["shape"] = size + [3] * ("rank" in array["dimension_names"])
            array["chunk_grid"]["configuration"]["chunk_shape"] = [1] * len(array["shape"])
        (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps(root))
        for name, array in root["consolidated_metadata"]["metadata"].items():
            (tmp_path / "a.zarr" / name / "zarr.json").write_text(json.dumps(array))
        with pytest.raises(RunError, match=f"more than {MOST_CHUNKS} chunks|room for"):
            open_run(tmp_path / "a.zarr")


def test_a_run_that_is_nearly_empty_is_not_spread_out_in_memory(tmp_path):
    """Room for 0.8 GB of numbers, none of them measured: a launch may go on with it, a reader says what to do."""
    columns = {"loss": Column({}, {"entry": 1000})}
    create(tmp_path / "a.zarr", Layout(10, 8), 1000, {"timestep": (np.arange(100.0), {})}, columns, {})
    with pytest.raises(RunError, match=r"of the 80\d MB that it has room for, .* go on with"):
        open_run(tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr").draws == 1000
