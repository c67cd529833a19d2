"""What the command line and `measure` make of checkpoints: the probe's words, the raw output, the class of a label."""

import json

import diffusers
import pytest
import torch
from click.testing import CliRunner

import lipdiag
from lipdiag import Plan, checkpoints
from lipdiag.cli import main
from lipdiag.diffusion.schedule import Discrete
from lipdiag.diffusion.spelling import spell
from lipdiag.printing import shortened
from lipdiag.study.resolve import resolve_model

SMALL = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "norm_num_groups": 4,
    "layers_per_block": 1, "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",),
    "add_attention": False,
}  # fmt: skip
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


def test_a_table_of_betas_is_told_in_a_line_and_kept_whole_for_machines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = diffusers.UNet2DModel(**SMALL)
    betas = [1e-4 * 1.005**k for k in range(1000)]
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(trained_betas=betas)).save_pretrained("pipe")
    said = CliRunner().invoke(main, ["inspect", "pipe"]).stdout
    assert len(said.splitlines()) < 20
    assert "1000 numbers from 0.0001 to" in " ".join(said.split())
    whole = json.loads(CliRunner().invoke(main, ["inspect", "pipe", "--json"]).stdout)
    assert whole["schedule"] == spell(Discrete(tuple(betas)))
    assert whole["limit"] == "clip(1)"
    other = shortened(spell(Discrete((*betas[:500], 0.5, *betas[501:]))))
    assert other != shortened(whole["schedule"])
    assert len(other) < 120
    few = "shared(timesteps(1000), 100, 5, (0, 5, 100))"
    assert shortened(few) == few


@pytest.mark.parametrize(("inputs", "outputs"), [(9, 4), (2, 1), (4, 5)])
def test_a_network_that_sees_more_than_x_is_told_of_and_asked_for_what_it_sees(tmp_path, monkeypatch, inputs, outputs):
    monkeypatch.chdir(tmp_path)
    network = diffusers.UNet2DModel(**SMALL | {"in_channels": inputs, "out_channels": outputs})
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained("pipe")
    looked, measured = (CliRunner().invoke(main, [command, "pipe"]) for command in ("inspect", "measure"))
    if outputs > inputs:
        assert (looked.exit_code, measured.exit_code) == (3, 3)
        assert looked.stderr == measured.stderr
        assert f"{inputs} channels in and {outputs} out" in looked.stderr
    else:
        assert (looked.exit_code, measured.exit_code) == (0, 3)
        assert f"sees {inputs - outputs} channels beside x" in looked.output
        assert "as channels by --conditioning" in measured.stderr


def test_inspect_with_data_says_what_the_probe_found():
    done = CliRunner().invoke(
        main, ["inspect", "digits-etsdm", "--clock", "timesteps(1000)", "--data", "digits", "--json"]
    )
    assert done.exit_code == 0, done.output
    (note,) = json.loads(done.output)["calibration"]
    assert '--clock "shared(timesteps(1000), 100, 5)"' in note


def test_the_raw_output_of_a_network_is_measured_beside_eps():
    """For a network that says eps itself the two are one; told that it says x0, they differ by alpha / sigma and x."""
    how = {"progress": False, "probe": False}
    eps, raw = (lipdiag.measure("digits-ddpm", "digits", PLAN, function=name, **how) for name in ("eps", "raw"))
    torch.testing.assert_close(
        torch.from_numpy(eps["time_difference"].values), torch.from_numpy(raw["time_difference"].values)
    )
    assert (eps.attrs["function"], raw.attrs["function"]) == ("eps", "raw")
    other = lipdiag.measure("digits-ddpm", "digits", PLAN, function="raw", parameterization="x0", **how)
    torch.testing.assert_close(
        torch.from_numpy(other["time_difference"].values), torch.from_numpy(raw["time_difference"].values)
    )


def test_a_label_for_a_model_without_classes_is_refused():
    done = CliRunner().invoke(main, ["measure", "digits-ddpm", "--label", "3", "--dry-run"])
    assert done.exit_code == 2
    assert "leave --label out" in done.output


def test_notes_say_that_the_raw_output_is_measured():
    notes = resolve_model("digits-ddpm", checkpoints.Reading(function="raw")).notes
    assert any("the network's own output in its own input" in note for note in notes)
