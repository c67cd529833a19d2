"""What the store takes of a measurement, and what several workers gain: the commands measure what they say."""

from benchmarks import store, workers
from lipdiag.store.store import open_run


def test_the_store_is_timed_next_to_the_same_files_written_by_zarr(tmp_path):
    (share,) = store.shares(tmp_path, 1, timesteps="0")
    ours, theirs = open_run(tmp_path / "ours.zarr"), open_run(tmp_path / "theirs.zarr")
    assert (ours["done"] == 1).all()
    assert ours.identical(theirs)
    assert share.files == len(ours.data_vars) + 1
    assert 0 < share.store < share.unit
    assert share.zarr > 0
    assert max(map(len, store.text(share, 1))) <= 80


def test_time_asked_of_a_clock_is_that_of_the_work_alone(monkeypatch):
    now = iter([1.0, 4.0, 10.0, 11.0])
    monkeypatch.setattr(store.time, "perf_counter", lambda: next(now))
    clock = store.Clock()
    work = clock.timed(lambda x: 2 * x)
    assert [work(1), work(2)] == [2, 4]
    assert clock.wall == 4.0


def test_workers_are_judged_by_their_clock_and_said_to_differ_where_they_do(tmp_path):
    one, two = workers.Time(54.0, 50.0), workers.Time(27.0, 26.0)
    said = list(workers.text(one, two, 2, True, "0.1 and 2.0"))
    assert "2 workers are 2.00 times as fast as one (goal: 1.9)" in said
    assert "identical" in said[-1]
    assert max(map(len, said)) <= 80
    slow = "\n".join(workers.text(one, workers.Time(40.0, 26.0), 2, False, "0.1 and 2.0"))
    assert "MISSED" in slow
    assert "DIFFERENT" in slow
