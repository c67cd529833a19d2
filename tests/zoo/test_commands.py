"""What the command line and `measure` make of the zoo: the probe's words, the raw output, the class of a label."""

import json

import torch
from click.testing import CliRunner

import lipdiag
from lipdiag import Plan
from lipdiag.cli import main
from lipdiag.resolve import resolve_model

PLAN = Plan(timesteps="100,500", draws=2, quantities=("time_difference",))


def test_inspect_says_what_a_factory_made_or_what_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "seen.py").write_text(
        "import lipdiag\nfrom torch import nn\n"
        "def model(state):\n    return lipdiag.load('digits-ddpm')\n"
        "def bare(state):\n    return nn.Conv2d(1, 1, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(2)}, "x.pt")
    outcome = CliRunner().invoke(main, ["inspect", "x.pt", "--factory", "seen:model", "--json"])
    found = json.loads(outcome.stdout)
    assert (found["shape"], found["clock"], found["kind"]) == ([1, 8, 8], "timesteps(1000)", "made by seen:model")
    assert found["parameters"] == sum(p.numel() for p in lipdiag.load("digits-ddpm").parameters())
    refused = CliRunner().invoke(main, ["inspect", "x.pt", "--factory", "seen:bare"])
    assert refused.exit_code == 2
    assert "give --schedule" in refused.stderr


def test_inspect_with_data_says_what_the_probe_found():
    done = CliRunner().invoke(
        main, ["inspect", "digits-etsdm", "--clock", "timesteps(1000)", "--data", "digits", "--json"]
    )
    assert done.exit_code == 0, done.output
    (note,) = json.loads(done.output)["calibration"]
    assert '--clock "shared(timesteps(1000), 100, 5)"' in note


def test_the_raw_output_of_a_network_is_measured_beside_eps():
    """For a network that says eps itself the two are one; told that it says x0, they differ by alpha / sigma and x."""
    eps, raw = (
        lipdiag.measure("digits-ddpm", "digits", PLAN, progress=False, function=function) for function in ("eps", "raw")
    )
    torch.testing.assert_close(
        torch.from_numpy(eps["time_difference"].values), torch.from_numpy(raw["time_difference"].values)
    )
    assert (eps.attrs["function"], raw.attrs["function"]) == ("eps", "raw")
    other = lipdiag.measure("digits-ddpm", "digits", PLAN, progress=False, function="raw", parameterization="x0")
    torch.testing.assert_close(
        torch.from_numpy(other["time_difference"].values), torch.from_numpy(raw["time_difference"].values)
    )


def test_a_label_for_a_model_without_classes_is_refused():
    done = CliRunner().invoke(main, ["measure", "digits-ddpm", "--label", "3", "--dry-run"])
    assert done.exit_code == 2
    assert "leave --label out" in done.output


def test_notes_say_that_the_raw_output_is_measured():
    notes = resolve_model("digits-ddpm", function="raw").notes
    assert any("the network's own output in its own input" in note for note in notes)
