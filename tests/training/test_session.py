"""Trainings into folders: stopped and gone on with, and what ends them before their time; nothing is lost by it."""

import csv
import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lipdiag.data.dataset import dataset
from lipdiag.errors import NonFiniteError, RunError, StorageError, UsageError
from lipdiag.formats.native import load
from lipdiag.training import learner, loop
from lipdiag.training.manner import Manner
from lipdiag.training.recipe import RECIPES, set_fields
from lipdiag.training.session import session, shared
from lipdiag.watching.difference import difference, drawn
from lipdiag.watching.log import Log


def rows(path: Path) -> list[dict[str, str]]:
    """Of a log, without what a clock on the wall told."""
    with path.open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def finish(recipe, folder, **options) -> None:
    for _ in session(recipe, folder, **options):
        pass


def test_6_and_6_steps_leave_the_files_of_12(tmp_path, recipe):
    recipe = dataclasses.replace(recipe, steps=12, accumulate=2, flip=True)
    finish(recipe, tmp_path / "whole", measure_every=8)
    done: list[int] = []
    for state in session(recipe, tmp_path / "halves", stop=lambda: len(done) == 5, measure_every=8):
        done.append(state.step)
    assert done == list(range(1, 7))
    assert not (tmp_path / "halves" / "config.json").exists()
    with (tmp_path / "halves" / "log.csv").open("a") as file:  # as a process that was killed after its snapshot left it
        file.write("7,0.5,0.1,1.0,9\n8,0.5,0.1,1.0,9\n9,0.")
    steps = [state.step for state in session(recipe, tmp_path / "halves", measure_every=8)]
    assert steps == list(range(7, 13))
    for name in ("model.safetensors", "recipe.json"):
        assert (tmp_path / "halves" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for name in ("log.csv", "difference.csv"):
        assert rows(tmp_path / "halves" / name) == rows(tmp_path / "whole" / name), name
    assert [int(row["step"]) for row in rows(tmp_path / "whole" / "log.csv")] == list(range(1, 13))
    assert sorted({int(row["step"]) for row in rows(tmp_path / "whole" / "difference.csv")}) == [8, 12]
    assert not (tmp_path / "halves" / "snapshot.safetensors").exists()
    seconds = [float(line.split(",")[-1]) for line in (tmp_path / "halves" / "log.csv").read_text().splitlines()[1:]]
    assert seconds == sorted(seconds)


def test_the_logs_hold_what_the_states_and_the_model_tell(tmp_path, recipe):
    states = [row for s in session(recipe, tmp_path, measure_every=6) for row in s.rows]
    told = [tuple(map(float, row.values())) for row in rows(tmp_path / "log.csv")]
    assert told == states
    model, data = load(tmp_path), dataset("digits")
    for row in rows(tmp_path / "difference.csv"):
        seen = difference(model, *drawn(data, 64), int(row["timestep"]))._asdict()
        assert seen == {name: float(row[name]) for name in seen}


def test_another_recipe_is_refused_with_every_field_that_differs(tmp_path, recipe):
    next(session(recipe, tmp_path))
    other = dataclasses.replace(recipe, batch=2, clip=0.5, clock="shared(timesteps(1000), 100, 5)", accumulate=2)
    with pytest.raises(RunError) as refusal:
        next(session(other, tmp_path))
    for words in ("batch is 4 there and 2 here", "clip is 1.0", "clock is 'timesteps(1000)'"):
        assert words in str(refusal.value)
    assert "accumulate" not in str(refusal.value)
    assert json.loads((tmp_path / "recipe.json").read_text())["batch"] == 4


def test_a_recipe_from_before_a_field_existed_is_gone_on_with(tmp_path, recipe):
    done: list[int] = []
    for state in session(recipe, tmp_path, stop=lambda: True):
        done.append(state.step)
    record = json.loads((tmp_path / "recipe.json").read_text())
    old = {key: record[key] for key in record if key not in ("flip", "penalty", "precision", "accumulate", "compile")}
    (tmp_path / "recipe.json").write_text(json.dumps(old))
    assert [state.step for state in session(recipe, tmp_path)] == [2, 3, 4, 5, 6]


def test_a_finished_training_and_a_strangers_folder_are_left_alone(tmp_path, recipe):
    finish(dataclasses.replace(recipe, steps=1), tmp_path / "done")
    with pytest.raises(RunError, match="finished"):
        next(session(dataclasses.replace(recipe, steps=1), tmp_path / "done"))
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="no training"):
        next(session(recipe, tmp_path))


@pytest.mark.parametrize("failing", [2, 6])
def test_a_disk_that_is_full_once_costs_no_row(tmp_path, recipe, monkeypatch, failing):
    """At a row of the log, and within the rows of differences that one step leaves."""
    recipe = dataclasses.replace(recipe, steps=4)
    finish(recipe, tmp_path / "whole", measure_every=3, snapshot_seconds=0.0)
    calls, real = [], Log.write

    def full(log, *values):
        calls.append(log.path.name)
        if len(calls) == failing:
            log.file.write(b"3,0.")
            raise StorageError("no space left on device")
        real(log, *values)

    monkeypatch.setattr(Log, "write", full)
    with pytest.raises(StorageError, match="no space"):
        finish(recipe, tmp_path / "run", measure_every=3, snapshot_seconds=0.0)
    assert calls[-1] == ("log.csv" if failing == 2 else "difference.csv")
    finish(recipe, tmp_path / "run", measure_every=3, snapshot_seconds=0.0)
    for name in ("log.csv", "difference.csv"):
        assert rows(tmp_path / "run" / name) == rows(tmp_path / "whole" / name), name
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_a_row_of_which_the_system_takes_a_part_is_written_whole(tmp_path):
    """As a disk that is nearly full does, without an error."""
    with Log(tmp_path / "log.csv", ("step", "loss"), 0) as log:
        file = log.file
        log.file = types.SimpleNamespace(write=lambda data: file.write(data[:3]), close=file.close)
        log.write(1, 0.25)
    assert (tmp_path / "log.csv").read_text() == "step,loss\n1,0.25\n"


def test_a_training_that_was_killed_while_it_began_is_begun_again(tmp_path, recipe):
    (tmp_path / ".recipe.json.0123456789ab.tmp").write_bytes(b'{"na')
    finish(dataclasses.replace(recipe, steps=1), tmp_path)
    names = ["README.md", "config.json", "log.csv", "model.safetensors", "recipe.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to."),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_larger_than_memory_says_what_to_lower_and_goes_on(tmp_path, recipe, monkeypatch, error):
    recipe = set_fields(recipe, ["network_config.dropout=0"])
    finish(recipe, tmp_path / "whole")
    calls = []

    def greedy(called, batch, *told):
        calls.append(len(batch.x0))
        if len(calls) > 3 and len(batch.x0) > 2:
            raise error
        return plain(called, batch, *told)

    plain = learner.loss
    monkeypatch.setattr(learner, "loss", greedy)
    with pytest.raises(UsageError, match="accumulate=2"):
        finish(recipe, tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run" / "log.csv")] == ["1", "2", "3"]
    steps = [state.step for state in session(dataclasses.replace(recipe, accumulate=2), tmp_path / "run")]
    assert steps == [4, 5, 6]
    a, b = ([float(row["loss"]) for row in rows(tmp_path / name / "log.csv")] for name in ("whole", "run"))
    assert a == pytest.approx(b, rel=1e-4)


def test_a_training_that_diverges_keeps_the_last_good_state(tmp_path, recipe, monkeypatch):
    calls = []

    def broken(*told):
        calls.append(1)
        return plain(*told) * (torch.nan if len(calls) == 4 else 1)

    plain = learner.loss
    monkeypatch.setattr(learner, "loss", broken)
    with pytest.raises(NonFiniteError, match="step 4"):
        finish(recipe, tmp_path / "run")
    assert next(session(recipe, tmp_path / "run")).step == 4


def test_weights_that_went_on_after_the_last_look_are_not_kept(tmp_path, recipe, monkeypatch):
    """As on a card, which is looked at once a second: what was kept before is what is gone on with."""
    recipe = dataclasses.replace(recipe, steps=12)
    finish(recipe, tmp_path / "whole")
    monkeypatch.setattr(loop, "manner", lambda *told: Manner("float32", False, 1e9))
    calls = []

    def greedy(*told):
        calls.append(1)
        if len(calls) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*told)

    plain = learner.loss
    monkeypatch.setattr(learner, "loss", greedy)
    with pytest.raises(UsageError, match="accumulate=2"):
        finish(recipe, tmp_path / "run", every=(5,), snapshot_seconds=0.0)
    told = []
    finish(recipe, tmp_path / "run", on_step=lambda step, seen: told.append((step, seen["loss"])))
    assert [step for step, _ in told] == list(range(6, 13)), "every step is told, and from the last kept one on"
    assert rows(tmp_path / "run" / "log.csv") == rows(tmp_path / "whole" / "log.csv")
    name = "model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def pictures(folder: Path, count: int, size: tuple[int, int] = (8, 8), colours: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture if colours else picture[..., 0]).save(folder / f"{size[0]}-{colours}-{i:02d}.png")


COLOUR = ["shape=[3,8,8]", "network_config.in_channels=3", "network_config.out_channels=3"]


@pytest.mark.parametrize(
    ("size", "colours", "words"),
    [((8, 9), True, "1 are of another size, such as"), ((8, 8), False, "1 are grey, such as"), (None, True, "no pict")],
)
def test_folders_that_cannot_be_trained_on_are_refused_before_the_first_step(tmp_path, recipe, size, colours, words):
    folder = tmp_path / "pictures"
    folder.mkdir()
    if size is not None:
        pictures(folder, 12)
        pictures(folder, 1, size, colours) if size != (8, 8) else pictures(folder / "grey", 1, size, colours)
    with pytest.raises(UsageError, match=words) as refusal:
        next(session(set_fields(recipe, [*COLOUR, f"data={folder}"]), tmp_path / "run"))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_corrupt_picture_ends_a_training_that_goes_on_when_it_is_repaired(tmp_path, recipe):
    folder = tmp_path / "pictures"
    pictures(folder, 12)
    recipe = set_fields(recipe, [*COLOUR, f"data={folder}", "steps=9"])
    finish(recipe, tmp_path / "whole")
    last = folder / "8-True-03.png"  # drawn in some step after the first
    good = last.read_bytes()
    last.write_bytes(good[:-30])  # its head is whole
    with pytest.raises(UsageError, match=r"8-True-03.png cannot be read as a picture") as refusal:
        finish(recipe, tmp_path / "run")
    assert "\n" not in str(refusal.value)
    last.write_bytes(good)
    finish(recipe, tmp_path / "run")
    assert rows(tmp_path / "run" / "log.csv") == rows(tmp_path / "whole" / "log.csv")


@pytest.mark.parametrize(
    ("clock", "spelling", "expected"),
    [
        ("timesteps(1000)", "default", "shared(timesteps(1000), 100, 5)"),
        ("timesteps(500)", "default", "shared(timesteps(500), 50, 5)"),
        ("timesteps(500)", "100,4", "shared(timesteps(500), 100, 4)"),
        ("unit()", "default", "shared(unit(1), 0.1, 5)"),
        ("timesteps(1000)", "edges:0,5,100", "shared(timesteps(1000), 100, 2, (0, 5, 100))"),
        ("timesteps(1000)", "100,7", "divide"),
        ("timesteps(1000)", "edges:0,20,10,100", "rise"),
        ("timesteps(1000)", "edges:0,20,1500", "from 0 to 1000"),
        ("timesteps(1000)", "edges:-5,20,100", "from 0 to 1000"),
        ("timesteps(1000)", "2000,5", "from 0 to 1000"),
        ("unit()", "2,5", "from 0 to 1"),
        ("timesteps(32)", "default", "up to 3.2"),
        ("timesteps(1000)", "100", "neither"),
        ("shared(timesteps(1000), 100, 5)", "default", "already"),
    ],
)
def test_sharing_is_spelled_as_asked_or_refused_in_a_sentence(clock, spelling, expected):
    recipe = dataclasses.replace(RECIPES["digits"], clock=clock)
    if expected.startswith("shared"):
        twin = shared(recipe, spelling)
        assert twin == dataclasses.replace(recipe, clock=expected)
        return
    with pytest.raises(UsageError, match=expected) as refusal:
        shared(recipe, spelling)
    assert "\n" not in str(refusal.value)
