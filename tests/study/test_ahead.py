"""What is random is made ahead of its micro-batch: the numbers are those of making it then, and so is what fails."""

import threading
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.study import ahead, memory, study
from lipdiag.study import measure as front
from tests.networks import SHAPE, predictor

DATA = np.random.default_rng(0).normal(size=(20, *SHAPE)).astype(np.float32)
QUANTITIES = ("spectral_norm", "loss", "trace", "sensitivity", "time_difference")
PLAN = Plan(timesteps="0,1,19,50,500,999", draws=24, quantities=QUANTITIES)
FAILING = PLAN.replace(quantities=("loss",))
WAYS = "then", "kept", "ahead"


@pytest.fixture
def ways(monkeypatch):
    """A run with what is random made when it is asked for; kept as well, as on a processor; made ahead, for a device.

    Units are of two timesteps by eight draws, of which four may be measured at once.
    """
    monkeypatch.setattr("lipdiag.store.layout.MOST_PAIRS", 16)
    monkeypatch.setitem(memory.MOST_UNITS, "cpu", 4)

    def measured(way, **how):
        with monkeypatch.context() as patch:
            if way == "then":
                real = study.joined
                patch.setattr(study, "joined", lambda *args: real(*args[:-1]))
            patch.setattr(ahead, "SLOWED", set() if way == "ahead" else {"cpu"})
            return measure(**how)

    return measured


def measure(spoil=lambda i: None, plan=PLAN, out=None, stored=True, **how):
    """The run, and of each x0 that it asked for the draw, and whether it was made in the thread that measures."""
    asked, here = [], threading.current_thread()
    with front.prepared(predictor(), DATA, plan, out, device="cpu", probe=False, **how) as ready:
        real = ready.source.sample

        def sample(i):
            asked.append((i, threading.current_thread() is here))
            spoil(i)
            return real(i)

        ready.source = replace(ready.source, sample=sample, stored=stored)
        with suppress(KeyboardInterrupt):
            list(study.run(ready))
        study.finish(ready, {})
        return ready.store.dataset(), asked


def equal(a, b):
    for name in a.data_vars:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


def test_not_a_bit_differs_and_each_draw_is_made_once_for_the_timesteps_that_follow_each_other(ways):
    runs = {way: ways(way) for way in WAYS}
    equal(runs["then"][0], runs["kept"][0])
    equal(runs["then"][0], runs["ahead"][0])
    assert len(runs["then"][1]) > 24
    for way in ("kept", "ahead"):
        assert sorted(i for i, _ in runs[way][1]) == list(range(24)), way
    assert all(here for _, here in runs["kept"][1])
    assert [i for i, here in sorted(runs["ahead"][1]) if not here] == list(range(8, 24))


def test_a_network_that_makes_x0_does_not_run_beside_the_one_that_is_measured(ways):
    found, asked = ways("ahead", stored=False)
    equal(found, ways("then")[0])
    assert all(here for _, here in asked)
    for data, stored in ((DATA, True), (None, False)):
        with front.prepared(predictor(), data, PLAN, device="cpu", probe=False) as ready:
            assert ready.source.stored == stored


def test_samples_of_the_model_are_made_once_for_several_units_at_once(monkeypatch):
    """Sixteen of them span 32 draws or more: more blocks of samples than are remembered where they are made."""
    made = []
    monkeypatch.setattr("lipdiag.store.layout.MOST_PAIRS", 16)
    monkeypatch.setitem(memory.MOST_UNITS, "cpu", 16)
    monkeypatch.setattr(
        "lipdiag.sampling.sampler.sample", lambda model, noise, steps: made.append(noise[0, 0]) or noise
    )
    plan = FAILING.replace(timesteps=tuple(range(0, 1000, 100)), draws=64)
    with front.prepared(predictor(), None, plan, device="cpu", probe=False) as ready:
        list(study.run(ready))
    assert len(made) == 16


@pytest.mark.parametrize("way", WAYS)
def test_a_draw_that_fails_costs_the_units_it_belongs_to(ways, way):
    def spoil(i):
        if i == 17:
            raise OSError("unreadable")

    found, _ = ways(way, spoil=spoil, plan=FAILING)
    assert (found["done"][:, :16] == 1).all()
    assert (found["done"][:, 16:] == 2).all()
    notes = found.attrs["launches"][0]["notes"]
    assert sum("failed with OSError (unreadable) at timesteps 0 to 1, draws 16 to 23" in note for note in notes) == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_draw_that_failed_once_is_made_again(ways, way):
    failed = []

    def spoil(i):
        if i == 17 and not failed:
            failed.append(i)
            raise OSError("for a moment")

    found, _ = ways(way, spoil=spoil, plan=FAILING)
    assert failed
    assert (found["done"] == 1).all()
    np.testing.assert_allclose(found["loss"], ways("then", plan=FAILING)[0]["loss"], rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_an_interruption_while_a_draw_is_made_loses_nothing(ways, tmp_path, way):
    def spoil(i):
        if i == 17:
            raise KeyboardInterrupt

    how = {"plan": FAILING, "out": tmp_path / "a.zarr", "deterministic": True}
    part, _ = ways(way, spoil=spoil, **how)
    assert 0 < (part["done"] == 1).sum() < part["done"].size
    again, _ = ways(way, **how)
    equal(again, ways("then", plan=FAILING, deterministic=True)[0])


def test_nothing_is_made_for_units_that_are_done_or_another_worker_s(ways, tmp_path):
    for shard in (0, 1):
        _, asked = ways("ahead", out=tmp_path / "a.zarr", plan=PLAN.replace(draws=8), shard=(shard, 2))
        assert sorted(i for i, _ in asked) == list(range(8))
    _, asked = ways("ahead", out=tmp_path / "a.zarr", plan=PLAN.replace(draws=16))
    assert sorted(i for i, _ in asked) == list(range(8, 16))
    assert ways("ahead", out=tmp_path / "a.zarr", plan=PLAN.replace(draws=16))[1] == []
    assert (lipdiag.open_run(tmp_path / "a.zarr")["done"] == 1).all()


def test_what_is_made_is_held_for_this_micro_batch_and_the_next_one_alone(monkeypatch):
    monkeypatch.setattr(ahead, "SLOWED", set())
    made = []

    def make(role, i):
        made.append((role, i))
        return torch.full((2,), float(i))

    cpu = torch.device("cpu")
    with ahead.Ahead(cpu, alone=("x0",)) as rows:
        rows.turn([0, 1], [1, 2])
        for role in ("x0", "noise", "noise"):
            assert rows(make, role, [0, 1, 0], cpu).tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
        rows.turn([1, 2], [])
        assert rows(make, "noise", [2], cpu).tolist() == [[2.0, 2.0]]
        assert made == [("x0", 0), ("x0", 1), ("noise", 0), ("noise", 1), ("noise", 2)]
        assert set(rows._rows) == {("x0", 1), ("noise", 1), ("noise", 2)}
    assert not rows._rows
    rows(make, "noise", [1], cpu)
    assert made[-1] == ("noise", 1)
    assert not rows._rows


def test_what_is_made_ahead_is_pinned_on_the_card_of_the_model(monkeypatch):
    """In a thread another card is current, which pinned memory would belong to."""
    current, pinned = threading.local(), []

    @contextmanager
    def entered(device):
        current.device = device
        yield
        del current.device

    monkeypatch.setattr(torch.cuda, "device", entered)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda z: pinned.append((z.tolist(), current.device)) or z)
    card, cpu = torch.device("cuda", 1), torch.device("cpu")
    with ahead.Ahead(card) as rows:
        rows.turn([0], [1])
        rows(lambda role, i: torch.tensor([float(i)]), "noise", [0], cpu)
        rows.turn([1], [])
        assert rows(lambda role, i: torch.tensor([-1.0]), "noise", [1], cpu).tolist() == [[1.0]]
    assert pinned == [([1.0], card)]
