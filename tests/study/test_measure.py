"""From a checkpoint, data and a plan to a dataset: where things come from."""

import warnings

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.checkpoints import Reading
from lipdiag.cli.measure import describe_cost
from lipdiag.data.dataset import dataset
from lipdiag.design.plan import Plan
from lipdiag.dialect import in_python
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps, v
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import SCHEDULES, Discrete, Linear
from lipdiag.diffusion.spelling import parse
from lipdiag.errors import CheckpointError, LipdiagWarning, UsageError
from lipdiag.pages.page import page
from lipdiag.pages.tables import table
from lipdiag.store.notes import NOT_TRIED, TRIED, collected, recalled
from lipdiag.store.store import open_run
from lipdiag.study import measure as front
from lipdiag.study import resolve, study
from tests.networks import SHAPE, Tiny, predictor

PLAN = Plan(timesteps="0,10", draws=2, quantities=("loss",))
NORMAL = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)


class Clock:
    """A clock that advances by so many seconds each time somebody looks."""

    def __init__(self, step: float):
        self.step, self.now = step, 0.0

    def perf_counter(self) -> float:
        self.now += self.step
        return self.now


def test_given_data_beat_the_checkpoints_record_which_beats_samples_of_the_model():
    embedded = resolve.resolve_model("digits-ddpm")
    given = np.zeros((3, 1, 8, 8), np.float32)
    assert resolve.resolve_source(embedded, given, 0).name == "an array"
    assert resolve.resolve_source(embedded, None, 0).name == "digits"
    assert "samples of the model itself" in resolve.resolve_source(predictor(), None, 0).name


def test_data_on_record_that_are_not_here_give_way_to_samples_of_the_model():
    model = predictor()
    model.data = "/somewhere/else/faces"
    assert "samples of the model itself" in resolve.resolve_source(model, None, 0).name


@pytest.mark.parametrize(("timesteps", "steps"), [(1000, 50), (40, 40), (997, 1)])
def test_samples_of_the_model_fit_its_table(timesteps, steps):
    model = NetworkPredictor(Tiny(), Linear(timesteps=timesteps), eps, Timesteps(timesteps), SHAPE).eval()
    source = resolve.resolve_source(model, None, 0)
    assert f"{steps} steps" in source.name
    assert source.sample(3).shape == SHAPE


def test_a_sample_of_the_model_depends_on_its_draw_alone():
    one, other = (resolve.resolve_source(predictor(), None, 0) for _ in range(2))
    late = one.sample(40)
    torch.testing.assert_close(one.sample(2), other.sample(2), rtol=0, atol=0)
    torch.testing.assert_close(other.sample(40), late, rtol=0, atol=0)
    assert not torch.equal(one.sample(0), one.sample(1))


def test_samples_of_the_model_are_made_once_and_not_before_the_start(monkeypatch):
    """Neither the price nor the checks need them; units of 3 draws do not end where blocks of 4 do."""
    made = []

    def counting(model, noise, steps):
        made.append(len(noise))
        return noise

    monkeypatch.setattr("lipdiag.sampling.sampler.sample", counting)
    plan = Plan(timesteps="0,10,500,900", draws=10, quantities=("loss",), batch=3)
    with front.prepared(predictor(), None, plan) as ready:
        cost = front.estimate(ready)
        assert made == []
        pair = ready.forward_seconds / ready.layout.pairs
        assert cost["sample_passes"] == 50
        assert cost["seconds"] == pytest.approx((40 * 1.25 * cost["passes"] + 12 * 50) * pair)
        front.carry_out(ready, quiet=True)
    assert made == [4, 4, 4]


def test_a_price_takes_a_few_forward_passes():
    """No checks, no probe and no samples before it is known: what they take on a large model is known from it."""
    model, seen = predictor(), []
    model.network.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    plan = Plan(timesteps="0,10,500,900", draws=8)
    with front.prepared(model, np.ones((3, *SHAPE), np.float32), plan, priced=lambda ready: False) as ready:
        assert sum(seen) <= 16 + 3 * ready.layout.pairs  # those of one pair, for the memory
        assert front.estimate(ready)["seconds"] > 0
        assert ready.findings.probe_difference is None
    with front.prepared(model, np.ones((3, *SHAPE), np.float32), plan) as ready:
        assert ready.findings.probe_difference is not None


def test_conventions_are_not_tried_where_that_is_most_of_the_run(monkeypatch):
    """Two thousand forward passes are seconds for a small network; for a large one they are said, not made."""
    data, plan = np.ones((3, *SHAPE), np.float32), Plan(timesteps="0,10", draws=2)
    monkeypatch.setattr("lipdiag.study.microbatch.SLOW", -1.0)  # every network is slow
    for seconds, tried in ((0.01, True), (1.0, False)):
        monkeypatch.setattr("lipdiag.study.microbatch.time", Clock(seconds))
        with front.prepared(predictor(), data, plan) as ready:
            assert any("calibration:" in note for note in ready.notes) == tried
            assert any("would take 36 min: `lipdiag inspect --data`" in note for note in ready.notes) != tried


def test_the_embedded_pair_differs_in_the_clock_alone():
    ddpm, etsdm = (lipdiag.load(f"digits-{name}") for name in ("ddpm", "etsdm"))
    assert ddpm.schedule == etsdm.schedule
    assert ddpm.parameterization is etsdm.parameterization
    assert ddpm.clock == etsdm.clock.base
    assert {n: p.shape for n, p in ddpm.named_parameters()} == {n: p.shape for n, p in etsdm.named_parameters()}


def test_overrides_replace_what_the_checkpoint_tells():
    model = resolve.resolve_model("digits-ddpm", Reading.of(clock="shared(timesteps(1000), 100, 5)"))
    assert model.clock.bounds == (0, 20, 40, 60, 80, 100)


def test_the_provenance_of_a_launch_is_recorded():
    found = lipdiag.measure("digits-ddpm", plan=PLAN, progress=False, probe=False)
    (launch,) = found.attrs["launches"]
    assert launch["ended"] == "finished"
    assert launch["pairs"] == 4
    assert launch["versions"]["torch"] == torch.__version__
    assert found.attrs["frozen"]["model"]["schedule"] == "linear(0.0001, 0.02, 1000)"
    assert len(found.attrs["frozen"]["model"]["weights_sha256"]) == 64


def test_an_interrupted_measurement_returns_what_was_measured(monkeypatch):
    real, calls = front.study.measure_unit, []

    def interrupted(study, unit):
        calls.append(unit)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(study, unit)

    monkeypatch.setattr(front.study, "measure_unit", interrupted)
    with pytest.warns(LipdiagWarning, match="32 of 48 pairs are not measured"):
        found = lipdiag.measure("digits-ddpm", plan=PLAN.replace(draws=24), progress=False, probe=False)
    assert (found["done"] == 1).sum() == 2 * 8
    assert found.attrs["launches"][0]["ended"] == "interrupted"
    assert found.attrs["warnings"][-1].startswith("32 of 48 pairs are not measured")


def test_data_that_were_not_scaled_are_refused():
    with pytest.raises(UsageError, match="as large as 255"):
        lipdiag.measure("digits-ddpm", np.full((3, 1, 8, 8), 255.0, np.float32), PLAN, progress=False)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps"])
def test_a_device_that_is_not_at_hand_is_refused(name):
    with pytest.raises(UsageError, match="device"):
        lipdiag.measure("digits-ddpm", plan=PLAN, device=name, progress=False)


def test_a_raw_output_is_called_by_its_name_and_has_no_loss():
    """A network that says v = x: K is 0 and J the identity; of eps = alpha v + sigma x they would not be."""

    def network(x, timestep):
        return x + 0 * timestep[:, None].to(x.dtype)

    model = NetworkPredictor(network, Linear(), v, Timesteps(), (4,))
    data = np.random.default_rng(0).normal(size=(8, 4))
    found = lipdiag.measure(model, data, Plan(timesteps="1,10", draws=4), function="raw", progress=False)
    assert "loss" not in found
    assert (found["spectral_norm"] <= 1).all()  # lowered by what rounding may have added
    np.testing.assert_allclose(found["spectral_norm"], 1, rtol=1e-5)
    assert (found["time_difference"] == 0).all()
    words = " ".join(table([found]).split())
    assert "f is the network's own output, v" in words
    assert "|d f/dt|" in words
    assert "eps" not in words
    assert "for eps read the network's own output" in lipdiag.plot(found, figure="jacobian").caption
    asked = Plan(timesteps="1,10", draws=4, quantities=("time_difference", "loss"))
    with pytest.raises(UsageError, match="own output has no loss"):
        lipdiag.measure(model, data, asked, function="raw", progress=False)


def test_what_may_change_the_meaning_of_numbers_is_a_warning_and_stays_with_the_run(tmp_path):
    """Samples of its own in the place of data, untrained, made for another range: told in Python, kept, shown first."""
    with pytest.warns(LipdiagWarning, match="x0 are samples of the model itself .* data=") as given:
        found = lipdiag.measure(predictor(), plan=PLAN, out=tmp_path / "a.zarr", progress=False)
    assert any("x0 are doubtful: noised again" in str(warning.message) for warning in given)
    assert [in_python(told) for told in found.attrs["warnings"]] == [str(warning.message) for warning in given]
    assert open_run(tmp_path / "a.zarr").attrs["warnings"] == found.attrs["warnings"]
    text, html = (" ".join(drawn.split()) for drawn in (table([found]), page([found])))
    assert text.startswith("Warning, model: x0 are samples of the model itself")
    heading, caution, section = (html.index(part) for part in ("<h1", "x0 are doubtful: noised again", "<section"))
    assert heading < caution < section
    shifted = np.stack([dataset("digits")[i] for i in range(8)]) / 2 + 0.5
    with pytest.warns(LipdiagWarning, match=r"expects data in \[-1, 1\]"):
        lipdiag.measure("digits-ddpm", shifted, PLAN, progress=False)
    with pytest.warns(LipdiagWarning, match="it is untrained"):
        lipdiag.measure(predictor(), NORMAL, PLAN, progress=False)


def test_a_right_use_gives_no_warning_and_says_so_among_the_notes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lipdiag.measure("digits-ddpm", plan=PLAN, progress=False)
    assert found.attrs["warnings"] == []
    assert any("the convention fits the data" in note for note in found.attrs["notes"])
    assert "Warning" not in table([found])
    assert "the convention fits the data" in page([found])


def test_the_first_of_several_workers_tries_the_conventions():
    for i, tried in ((0, True), (1, False)):
        with front.prepared(predictor(), NORMAL, PLAN.replace(draws=32), shard=(i, 2)) as ready:
            assert any("calibration:" in note for note in ready.notes) == tried


def test_the_probe_can_be_switched_off():
    model, seen = predictor(), []
    model.network.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lipdiag.measure(model, NORMAL, PLAN, progress=False, probe=False)
    assert sum(seen) < 100
    assert any("was not tried" in note for note in found.attrs["notes"])


def test_a_model_that_was_loaded_first_is_measured_as_its_path_is():
    loaded = lipdiag.load("digits-ddpm")
    assert loaded.data == "digits"
    by_path, in_memory = (lipdiag.measure(model, plan=PLAN, progress=False) for model in ("digits-ddpm", loaded))
    np.testing.assert_array_equal(by_path["loss"], in_memory["loss"])
    for kind in ("data", "warnings", "notes"):
        assert by_path.attrs[kind] == in_memory.attrs[kind]


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        ("digits-ddpm", {"nonsense": 3}, "no word 'nonsense' .* known are weights, schedule"),
        ("digits-ddpm", {"function": "x0"}, "function is 'x0'"),
        (None, {"schedule": "cosine()"}, "in memory is measured as it is, so schedule cannot be given"),
        (None, {"label": 1, "weights": "raw"}, "so weights and label cannot be given"),
        (None, {"factory": "lipdiag:load"}, "so factory cannot be given"),
        (None, {"nonsense": 3}, "no word 'nonsense'"),
    ],
)
def test_words_that_cannot_apply_are_refused(model, words, said):
    with pytest.raises(UsageError, match=said):
        lipdiag.measure(model or predictor(), plan=PLAN, progress=False, **words)


def test_notes_of_several_launches_are_told_once_each():
    launches = [{"notes": ["a", "b"], "warnings": ["w"]}, {"notes": ["b", 3]}, "damaged", {"notes": "text"}]
    whole = np.ones((2, 3), np.int8)
    assert collected({"launches": launches}, whole) == {"warnings": ["w"], "notes": ["a", "b"]}
    assert collected({"launches": 1}, whole) == collected({}, whole) == {"warnings": [], "notes": []}


def test_samples_of_a_model_that_are_no_numbers_end_the_measurement():
    model = NetworkPredictor(lambda x, timestep: x * torch.inf, Linear(), eps, Timesteps(), (4,))
    with pytest.raises(CheckpointError, match="not finite: give data by --data"):
        resolve.resolve_source(model, None, 0).sample(0)


def test_samples_of_the_model_are_those_of_eps_also_where_its_raw_output_is_measured():
    model = NetworkPredictor(Tiny(), Linear(), v, Timesteps(), SHAPE).eval()
    raw = resolve.resolve_model(model, Reading(function="raw"))
    one, other = (resolve.resolve_source(found, None, 0).sample(0) for found in (raw, model))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_one_slow_pass_is_no_price(monkeypatch):
    """The first pass of a process may compile: the least of several is what the others take."""
    data, plan = np.ones((3, *SHAPE), np.float32), Plan(timesteps="0,10", draws=2)

    class Hiccup(Clock):
        def perf_counter(self) -> float:
            self.step, step = 1e-3, self.step
            return super().perf_counter() + step

    monkeypatch.setattr("lipdiag.study.microbatch.time", Hiccup(60.0))
    with front.prepared(predictor(), data, plan, priced=lambda ready: False) as ready:
        assert front.estimate(ready)["pass_seconds"] < 1


def test_a_network_that_fails_at_once_ends_in_a_sentence():
    def network(x, timestep):
        raise KeyError("class_labels")

    model = NetworkPredictor(network, Linear(), eps, Timesteps(), (4,))
    with pytest.raises(CheckpointError, match=r"shape \(2, 4\) in float32 with KeyError: 'class_labels'"):
        lipdiag.measure(model, np.zeros((8, 4)), PLAN, progress=False)


def test_a_schedule_of_a_thousand_betas_is_read_back(tmp_path):
    betas = tuple(Linear().betas.sqrt().square().tolist())
    model = lipdiag.load("digits-ddpm", schedule=Discrete(betas))
    plan = Plan(timesteps="0,500", draws=2, quantities=("loss",))
    lipdiag.measure(model, plan=plan, out=tmp_path / "run.zarr", progress=False, probe=False)
    spelled = open_run(tmp_path / "run.zarr").attrs["frozen"]["model"]["schedule"]
    assert len(spelled) > 20_000
    assert parse(spelled, SCHEDULES) == Discrete(betas)


def test_the_price_is_that_of_the_first_look_at_a_tolerance():
    """Two draws are asked for, and more are measured before the tolerance is looked at."""
    plan = PLAN.replace(tolerance=0.5)
    with front.prepared(predictor(), NORMAL, plan, device="cpu", probe=False) as ready:
        told = front.estimate(ready)["pairs"]
        assert told == next(iter(study.run(ready))).total > 2 * PLAN.draws


def test_what_is_left_is_counted_and_a_finished_run_is_told_to_be_so(tmp_path, capfd):
    """Shards are of whole units, so that 128 pairs in units of 16 are 48, 48 and 32; the bar is full at so many."""
    plan = Plan(timesteps="0,10", draws=64, quantities=("loss",), batch=16)
    out = tmp_path / "run.zarr"
    for shard, pairs in (((0, 3), 48), ((2, 3), 32)):
        with front.prepared(predictor(), NORMAL, plan, out, device="cpu", probe=False, shard=shard) as ready:
            assert front.estimate(ready)["pairs"] == front.estimate(ready)["left"] == pairs
            assert f"= 128 pairs, {pairs} of them in shard {shard[0]}/3" in describe_cost(ready, out)
            front.carry_out(ready)
            assert f"{pairs}/{pairs}" in capfd.readouterr().err
            assert (front.estimate(ready)["left"], front.estimate(ready)["seconds"]) == (0, 0)
            assert "nothing of that is left to be measured" in describe_cost(ready, out)
            assert front.tried_conventions(ready) == []
    with front.prepared(predictor(), NORMAL, plan.replace(draws=4), out, device="cpu", probe=False) as ready:
        assert "the run has 64 draws already" in describe_cost(ready, out)


def test_a_caution_that_a_later_launch_answers_is_of_no_account():
    told = [{"warnings": [f"{NOT_TRIED}, which would take {n} min"]} for n in (1, 2)]
    done = np.ones((1, 1))
    assert recalled({"launches": told}, NOT_TRIED) == told[0]["warnings"] + told[1]["warnings"]
    told.append({"notes": [f"{TRIED} the convention fits the data"]})
    assert collected({"launches": told}, done) == {"warnings": [], "notes": told[2]["notes"]}
    assert recalled({"launches": told}, TRIED) == told[2]["notes"]


def test_the_floor_is_of_the_steps_that_were_taken():
    plan = PLAN.replace(timesteps="0,999", draws=3, batch=2, quantities=("spectral_norm",))
    with front.prepared("digits-ddpm", None, plan, device="cpu", probe=False) as ready:
        front.carry_out(ready, quiet=True)
    steps = ready.store.dataset()["spectral_norm_steps"].values
    assert steps.min() < steps.max()
    assert ready.krylov_steps == pytest.approx(steps.mean())
    assert ready.floor == 1 + 2 * int(steps.mean())


def test_a_forward_pass_that_was_timed_on_a_slow_machine_is_timed_again():
    """Were it not, a pair would be said to take less than the passes that it needs."""
    with front.prepared(predictor(), NORMAL, PLAN, device="cpu", probe=False) as ready:
        ready.forward_seconds = 1e6
        front.carry_out(ready, quiet=True)
    assert ready.forward_seconds < 60
