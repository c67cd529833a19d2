"""Kills and full disks at each step to the disk: `python -m tests.safety.faults MOST FOLDER [NAME...]`, for the tests.

An operation is run once to count its steps: files opened for writing, writes, flushes, renames, folders made, files
removed. Then for each step, or for MOST of them and each kind of fault, it is run in a process that is killed there, or
told, once or from then on, that the disk is full. Whoever looks then must see the old or the new; the same operation
again must end well, and leave what it leaves undisturbed. Each is run in a process forked from one that has imported
everything and started nothing. A write that ends half way leaves half of it.
"""

import builtins
import errno
import functools
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import torch

import tests.safety.killing as toy
from lipdiag.design.plan import Plan
from lipdiag.errors import StorageError
from lipdiag.figures import canvas as picture
from lipdiag.pages import page
from lipdiag.quality import evaluation, grading
from lipdiag.store.merge import merge
from lipdiag.store.store import open_run
from lipdiag.study import measure as front
from lipdiag.training.recipe import Recipe
from lipdiag.training.session import session
from tests.recipes import SMALL

HOWS = ("kill", "full", "hiccup")
PLAN = Plan(timesteps="0,500", draws=4, batch=4, quantities=("loss",), dtype="float64")
RECIPE = Recipe("small", "digits", (1, 8, 8), "UNet2DModel", SMALL, steps=3, batch=4, ema_decay=0.5, seed=3)
REMOVING = ("os.remove", "os.rmdir")
CHANGING = ("os.rename", "os.mkdir", "os.truncate", "os.link", *REMOVING)


class Fault:
    """Counts the steps that a process takes below a folder, and ends it at one of them."""

    def __init__(self, folder: Path, at: int = 0, how: str = "kill"):
        self.folder, self.at, self.how, self.count = str(folder), at, how, 0

    def install(self) -> None:
        builtins.open = io.open = self.opening(io.open)
        os.fdopen = self.opening(os.fdopen)
        os.fsync = self.flushing(os.fsync)
        sys.addaudithook(self.hear)

    def hear(self, event: str, told: tuple) -> None:
        if event == "open" and self.below(told[0]) and told[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.step()
        elif event in CHANGING and (self.below(told[0]) or event in REMOVING):  # which name them within their folder
            self.step(removing=event in REMOVING)

    def below(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder)

    def step(self, removing: bool = False, half=lambda: None) -> None:
        self.count += 1
        if self.count != self.at and not (self.how == "full" and 0 < self.at < self.count):
            return
        if self.how == "kill":
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        elif not removing:
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opening(self, real):
        @functools.wraps(real)
        def opened(file, mode="r", *rest, **named):
            handle = real(file, mode, *rest, **named)
            return Torn(handle, self) if set(mode) & set("wax+") and file != 2 else handle

        return opened

    def flushing(self, real):
        def flushed(descriptor):
            self.step()
            return real(descriptor)

        return flushed


class Torn:
    """A file whose write may end half way."""

    def __init__(self, handle, fault: Fault):
        self.handle, self.fault = handle, fault

    def __getattr__(self, name):
        return getattr(self.handle, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.handle.close()

    def write(self, data):
        def half():
            self.handle.write(data[: len(data) // 2])
            self.handle.flush()

        self.fault.step(half=half)
        return self.handle.write(data)


class Operation:
    """Something that writes below a folder: what is there before, what it does, and what is to be seen of it."""

    def before(self, place: Path) -> None: ...

    def run(self, place: Path) -> None:
        raise NotImplementedError

    def look(self, place: Path) -> None:
        """What holds at any moment."""

    def left(self, place: Path) -> str:
        """All that it leaves, as a text to be compared."""
        raise NotImplementedError


def measure(path: Path, plan: Plan = PLAN, shard: tuple[int, int] = (0, 1)) -> None:
    with front.prepared(toy.model(), toy.DATA, plan, path, device="cpu", shard=shard) as ready:
        assert front.carry_out(ready, quiet=True)


class Measure(Operation):
    lengths: tuple[int, ...] = (4,)

    def run(self, place):
        measure(place / "a.zarr")

    def look(self, place):
        if (place / "a.zarr").exists():
            found = open_run(place / "a.zarr")
            np.testing.assert_array_equal(found["draw"], np.arange(found.sizes["draw"]))
            assert found.sizes["draw"] in self.lengths, found.sizes
            assert np.isfinite(found["loss"].values[found["done"].values == 1]).all()
            assert (found["done"].values < 2).all()

    def left(self, place):
        found = open_run(place / "a.zarr")
        values = {name: hashlib.sha256(found[name].values.tobytes()).hexdigest() for name in found.variables}
        return json.dumps([values, sorted(os.listdir(place))], sort_keys=True)


class Grow(Measure):
    lengths = (4, 8)

    def before(self, place):
        measure(place / "a.zarr")

    def run(self, place):
        measure(place / "a.zarr", PLAN.replace(draws=8))


class Merge(Measure):
    lengths = (4, 8)

    def before(self, place):
        measure(place / "b.zarr", shard=(0, 2))
        measure(place / "c.zarr", PLAN.replace(draws=8), shard=(1, 2))

    def run(self, place):
        merge(place / "a.zarr", [place / "b.zarr", place / "c.zarr"])


class Train(Operation):
    def run(self, place):
        for _ in session(RECIPE, place / "t", measure_every=3, snapshot_seconds=0):
            pass

    def left(self, place):
        logs = {
            name: [line.split(",")[: 4 if name == "log.csv" else None] for line in (place / "t" / name).open()]
            for name in ("log.csv", "difference.csv")
        }
        weights = hashlib.sha256((place / "t" / "model.safetensors").read_bytes()).hexdigest()
        return json.dumps([logs, weights, sorted(os.listdir(place)), sorted(os.listdir(place / "t"))])


class Evaluate(Operation):
    """The writing side of an evaluation: the numbers are made up."""

    def run(self, place):
        nothing = torch.zeros(16, 2)
        for name in ("require_torchmetrics", "require_sampler"):
            setattr(grading, name, lambda *_: None)
        grading.frechet = lambda _, x: float(x.mean())
        grading.kernel = lambda *_: grading.kernel  # with two attributes
        grading.kernel.value = grading.kernel.standard_error = 0.5
        grading.nearest = lambda x, _: x[:, 0]
        grading.own_distance = lambda _: 1.0
        features = type("Features", (), {"name": "f", "sha256": "", "__call__": lambda _, x: x})()
        predictor = type("Predictor", (), {"schedule": None})()

        def draw(_, n, steps, seed, **__):
            return torch.full((n, 2), steps + seed / 7)

        grading.grade(predictor, nothing, features, ("a:1", "b:2"), 8, (0,), place / "e.zarr", draw=draw)

    def look(self, place):
        if (place / "e.zarr").exists() or (place / ".e.zarr.old").exists():
            evaluation.open_evaluation(place / "e.zarr")

    def left(self, place):
        found = evaluation.open_evaluation(place / "e.zarr").drop_vars("seconds")
        return json.dumps([found.to_dict(), sorted(os.listdir(place))])


class Report(Operation):
    """A page and a figure, whose contents are made up."""

    def before(self, place):
        (place / "r.html").write_text("old")

    def run(self, place):
        page.page = lambda *_: "new" * 100
        page.report([], place / "r.html")
        picture.write(place / "f.png", b"\x89PNG" * 100)

    def look(self, place):
        assert (place / "r.html").read_text() in ("old", "new" * 100)

    def left(self, place):
        shown = [name for name in sorted(os.listdir(place)) if not name.startswith(".")]
        return json.dumps([shown, [(place / name).read_bytes().hex() for name in shown]])


OPERATIONS = {kind.__name__.lower(): kind() for kind in (Measure, Grow, Merge, Train, Evaluate, Report)}


def forked(work) -> tuple[int, str]:
    """How a process ended that does it, and what it returned; a refusal in a sentence about the disk ends with 5."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.write(writer, (work() or "").encode())
            code = 0
        except StorageError:
            code = 5
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    text = b""
    while part := os.read(reader, 1 << 16):
        text += part
    os.close(reader)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text.decode()


def disturbed(operation: Operation, place: Path, at: int, how: str) -> int:
    """How the operation ends with a fault at a step, and for step 0, which is none, how many it takes."""

    def work():
        fault = Fault(place, at, how)
        fault.install()
        operation.run(place)
        return str(fault.count)

    code, text = forked(work)
    assert code in ((0,) if not at else (-signal.SIGKILL,) if how == "kill" else (0, 5)), f"it ended with {code}"
    return code if at else int(text)


def again(operation: Operation, place: Path, done: bool) -> str:
    """What the same operation leaves after a fault; one that has ended well is not done again."""

    def work():
        operation.look(place)
        if not done:
            operation.run(place)
        operation.look(place)
        return operation.left(place)

    code, text = forked(work)
    assert code == 0, f"the same again ended with {code}"
    return text


def torment(name: str, folder: Path, most: int) -> dict[str, int]:
    """Put each kind of fault at every step of an operation, or at so many that lie evenly, each kind at others."""
    operation, trials = OPERATIONS[name], 0
    before, whole = folder / f"{name}-before", folder / f"{name}-whole"
    before.mkdir()
    assert forked(lambda: operation.before(before))[0] == 0
    shutil.copytree(before, whole)
    steps = disturbed(operation, whole, 0, "kill")
    expected = forked(lambda: operation.left(whole))[1]
    count = min(most, steps)
    for i, (number, how) in enumerate(itertools.product(range(count), HOWS)):
        at = number + 1 if count == steps else round((i + 0.5) / (len(HOWS) * count) * steps)
        place = folder / f"{name}-{how}-{at}"
        shutil.copytree(before, place)
        try:
            code = disturbed(operation, place, at, how)
            found = again(operation, place, done=code == 0)
            assert found == expected, f"{found}\n{expected}"
        except AssertionError as error:
            raise AssertionError(f"{name}, {how} at step {at} of {steps}: {error}") from error
        shutil.rmtree(place)
        trials += 1
    return {"steps": steps, "trials": trials}


if __name__ == "__main__":
    torch.set_num_threads(1)
    most, folder, names = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(OPERATIONS)
    print(json.dumps({name: torment(name, folder, most) for name in names}))
