"""Training from Python: the words of the command, and a function of the user's that is called after each step."""

import csv
import dataclasses
import math

import pytest
from click.testing import CliRunner

import lipdiag
from lipdiag.cli import main
from lipdiag.errors import UsageError
from lipdiag.printing import plain
from lipdiag.watching.panel import Panel, observe

TINY = ["block_out_channels=[8,8]", "attention_head_dim=8", "norm_num_groups=4"]


def log(folder):
    with (folder / "log.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_python_and_the_command_leave_the_same_files(tmp_path):
    told = [word for setting in TINY for word in ("--set", f"network_config.{setting}")]
    words = ["--steps", "3", "--seed", "5", "--set", "batch=4", *told, "--etsdm", "50,2", "--quiet"]
    result = CliRunner().invoke(main, ["train", "--recipe", "digits", *words, "--out", str(tmp_path / "typed")])
    assert result.exit_code == 0, result.output
    smaller = {"block_out_channels": [8, 8], "attention_head_dim": 8, "norm_num_groups": 4}
    config = lipdiag.training.recipe.RECIPES["digits"].network_config | smaller
    changes = {"steps": 3, "seed": 5, "batch": 4, "network_config": config}
    made = lipdiag.train("digits", tmp_path / "called", etsdm="50,2", progress=False, device="cpu", **changes)
    assert made == tmp_path / "called"
    for name in ("model.safetensors", "recipe.json"):
        assert (tmp_path / "called" / name).read_bytes() == (tmp_path / "typed" / name).read_bytes()


def test_a_function_hears_of_every_step_what_the_log_holds_and_the_bar_shows_the_largest_k(tmp_path, recipe, capsys):
    heard = []
    recipe = dataclasses.replace(recipe, clock="shared(timesteps(1000), 100, 2)")
    lipdiag.train(recipe, tmp_path / "a", on_step=lambda *told: heard.append(told), measure_every=6, device="cpu")
    assert [step for step, _ in heard] == [1, 2, 3, 4, 5, 6]
    for (step, numbers), row in zip(heard, log(tmp_path / "a"), strict=True):
        assert {"step": step, **{name: numbers[name] for name in row if name != "step"}} == row
    last = heard[-1][1]
    model = lipdiag.load(tmp_path / "a")
    readings = {r.timestep: r for r in observe(model, lipdiag.data.dataset.dataset("digits"), Panel()).readings}
    assert last["time_difference/49"] == readings[49].time_difference > 0 == readings[20].time_difference
    assert last["loss/500"] == readings[500].loss
    assert last["jump"] == max(readings[49].time_difference, readings[99].time_difference)
    assert last["spectral_norm"] == readings[100].spectral_norm
    assert math.isnan(readings[500].spectral_norm)
    largest = max(readings.values(), key=lambda reading: reading.time_difference)
    shown = capsys.readouterr().err.split("\r")[-1]
    assert f", K {plain(largest.time_difference)} at {largest.timestep}]" in shown


def test_a_function_that_raises_ends_in_a_sentence_and_the_training_goes_on(tmp_path, recipe):
    lipdiag.train(recipe, tmp_path / "whole", progress=False, device="cpu")

    def fails(step, numbers):
        if step == 4:
            raise ConnectionError("the tracker is away")

    with pytest.raises(UsageError, match="failed at step 4 with ConnectionError: the tracker is away; mend it"):
        lipdiag.train(recipe, tmp_path / "a", on_step=fails, progress=False, device="cpu")
    steps = []
    lipdiag.train(recipe, tmp_path / "a", on_step=lambda step, _: steps.append(step), progress=False, device="cpu")
    assert steps == [5, 6]
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_the_command_takes_the_function_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "my_tracker.py").write_text(
        "def heard(step, numbers):\n    with open('heard', 'a') as file:\n"
        "        file.write(f'{step} {sorted(numbers)}\\n')\n"
    )
    monkeypatch.chdir(tmp_path)
    told = [word for setting in TINY for word in ("--set", f"network_config.{setting}")]
    words = ["train", "--steps", "2", "--set", "batch=2", *told, "--on-step", "my_tracker:heard", "--quiet"]
    assert CliRunner().invoke(main, words).exit_code == 0
    names = "['gradient_norm', 'learning_rate', 'loss', 'seconds']"
    assert (tmp_path / "heard").read_text() == f"1 {names}\n2 {names}\n"
    refused = CliRunner().invoke(main, [*words[:-2], "my_tracker:nothing"])
    assert refused.exit_code == 2
    assert "the function my_tracker:nothing cannot be imported" in refused.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"recipe": "cats"}, "no recipe 'cats'"),
        ({"speed": 3}, "a recipe has no speed"),
        ({"batch": -1}, "batch is -1"),
        ({"etsdm": "a,b"}, "edges:"),
    ],
)
def test_refusals(tmp_path, words, sentence):
    with pytest.raises(UsageError, match=sentence):
        lipdiag.train(**{"recipe": "digits", "out": tmp_path / "a", **words})
