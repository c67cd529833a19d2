"""MONAI's U-Net against MONAI itself, where that is installed, and what names, shapes and a bundle's config tell."""

import json

import pytest
import torch

from lipdiag import checkpoints
from lipdiag.errors import CheckpointError
from lipdiag.formats.monai import arguments, current, recognizes, scheduled
from lipdiag.weights.container import Contents
from tests.formats.agreement import derivatives_agree
from tests.formats.originals import package

PLANE = {
    "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": [16, 32], "attention_levels": [False, True],
    "num_res_blocks": [1, 2], "num_head_channels": [0, 16], "norm_num_groups": 8,
}  # fmt: skip
VOLUME = {
    "spatial_dims": 3, "in_channels": 3, "out_channels": 3, "channels": [16, 16], "attention_levels": [False, True],
    "num_res_blocks": [1, 1], "num_head_channels": 16, "norm_num_groups": 8, "with_conditioning": True,
    "cross_attention_dim": 5, "num_class_embeds": 4, "resblock_updown": True, "transformer_num_layers": 2,
}  # fmt: skip
SCHEDULERS = (
    ("DDPMScheduler", {"num_train_timesteps": 50, "prediction_type": "v_prediction"}),
    ("DDIMScheduler", {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0205}),
    ("DDPMScheduler", {"schedule": "cosine", "prediction_type": "sample"}),
    ("PNDMScheduler", {"schedule": "sigmoid_beta", "num_train_timesteps": 200}),
    ("RFlowScheduler", {"num_train_timesteps": 500}),
)
T = torch.tensor([0.3, 0.8], dtype=torch.float64)


def network(told):
    """MONAI's own, with last layers that are not zero."""
    from monai.networks.nets import DiffusionModelUNet

    torch.manual_seed(0)
    made = DiffusionModelUNet(**told).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return made


def bundle(folder, told, scheduler=None):
    """A bundle as MONAI lays it out, its sizes at the top of the config and referred to below."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    definition = {"_target_": "monai.networks.nets.DiffusionModelUNet", **told, "in_channels": "@channels_in"}
    config = {"device": "$torch.device('cpu')", "channels_in": told["in_channels"], "network_def": definition}
    config["noise_scheduler"] = {"_target_": "monai.networks.schedulers.DDPMScheduler", "num_train_timesteps": "@steps"}
    config |= {"steps": 50} | ({} if scheduler is None else {"noise_scheduler": scheduler})
    (folder / "configs" / "train.json").write_text(json.dumps(config))
    return folder / "models" / "model.pt"


@pytest.mark.parametrize("told", [PLANE, VOLUME], ids=["2-D", "3-D"])
def test_a_bundles_model_is_built_by_monai(tmp_path, told):
    with package("monai"):
        theirs = network(told)
        file = bundle(tmp_path, told)
        torch.save(theirs.state_dict(), file)
        predictor = checkpoints.load(file, shape=(told["in_channels"], *[8] * told["spatial_dims"]))
    assert predictor.schedule.timesteps == 50
    x, k = torch.randn(2, *predictor.shape), torch.tensor([14.0, 39.0])
    inputs = {name: value.expand(2, *value.shape[1:]) for name, value in predictor.conditioning.items()}
    assert set(inputs) == ({"context", "class_labels"} if told is VOLUME else set())
    with torch.no_grad():
        torch.testing.assert_close(predictor.output(x, k), theirs(x, k, **inputs), rtol=1e-5, atol=1e-5)
    if told is PLANE:
        derivatives_agree(predictor, T)


@pytest.mark.parametrize("told", [PLANE, VOLUME], ids=["2-D", "3-D"])
def test_names_and_shapes_tell_the_arguments(told):
    with package("monai"):
        found = arguments(network(told).state_dict())
    kept = {name: value for name, value in told.items() if not name.startswith(("num_head", "norm"))}
    assert kept.items() <= found.items()


@pytest.mark.parametrize(("name", "told"), SCHEDULERS, ids=lambda case: case if isinstance(case, str) else "")
def test_a_scheduler_means_what_monai_makes_of_it(tmp_path, name, told):
    """The noise level at each of its timesteps, and its target, which is the optimum of a network that knows x0."""
    with package("monai"):
        from monai.networks import schedulers

        theirs = getattr(schedulers, name)(**told)
        generator = torch.Generator().manual_seed(0)
        x0, noise = (torch.randn(3, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
        k = torch.tensor([5, 20, 45])
        x = theirs.add_noise(x0, noise, k)
    config = {"noise_scheduler": {"_target_": f"monai.networks.schedulers.{name}", **told}}
    convention, limit, notes = scheduled(config, tmp_path)
    schedule, kind, clock = convention.whole
    t = clock.time(k.double())
    alpha, sigma, a, b = (z.view(-1, 1, 1, 1) for z in (*schedule(t), *kind(schedule, t)))
    torch.testing.assert_close(alpha * x0 + sigma * noise, x.double(), rtol=1e-4, atol=1e-5)
    targets = {"v_prediction": lambda: theirs.get_velocity(x0, noise, k), "sample": lambda: x0}
    flow = name == "RFlowScheduler"  # whose target MONAI's example states as data - noise
    target = x0 - noise if flow else targets.get(told.get("prediction_type"), lambda: noise)()
    torch.testing.assert_close(a * x0 + b * noise, target.double(), rtol=1e-4, atol=1e-5)
    assert limit == ("clip(1)" if name.startswith("DD") else None)
    assert notes == ()


def weights():
    """The names by which it is recognized, and a level's."""
    shapes = {
        "conv_in.conv.weight": (16, 2, 3, 3), "time_embed.0.weight": (64, 16), "out.2.conv.weight": (2, 16, 3, 3),
        "down_blocks.0.resnets.0.norm1.weight": (16,), "down_blocks.0.resnets.0.conv1.conv.weight": (16, 16, 3, 3),
    }  # fmt: skip
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_what_a_file_does_not_tell_is_asked_for(tmp_path, monkeypatch):
    """Expressions of a bundle are code: they are named, never run."""
    monkeypatch.setattr("lipdiag.formats.monai.blank", lambda name, told: ({}, ()))
    torch.save(weights(), tmp_path / "model.pt")
    monkeypatch.setattr("lipdiag.formats.family.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"\(install monai, which has it\)"):
        checkpoints.inspect(tmp_path / "model.pt")
    monkeypatch.setattr("lipdiag.formats.family.find_spec", lambda name: "here")
    with pytest.raises(CheckpointError, match=r"width of its attention heads: give --original-config FILE.json"):
        checkpoints.inspect(tmp_path / "model.pt")
    (tmp_path / "net.json").write_text('{"num_head_channels": 8, "shape": [2, 8, 8]}')
    told = checkpoints.inspect(tmp_path / "model.pt", original_config=tmp_path / "net.json")
    assert (told.shape, told.clock, told.parameterization) == ((2, 8, 8), "timesteps(1000)", "eps")
    assert any(note.startswith("no scheduler is told: taken is DDPMScheduler") for note in told.notes)
    file = bundle(tmp_path / "b", {"in_channels": 2, "num_head_channels": "$4 * 2"})
    torch.save(weights(), file)
    with pytest.raises(CheckpointError, match=r"num_head_channels by '?\$4 \* 2'?, which is code: write the value"):
        checkpoints.inspect(file)


def test_names_of_monai_generative_are_translated():
    old = {
        "a.attention.to_q.weight": "a.attention.attn.to_q.weight",
        "d.0.attentions.1.proj_attn.bias": "d.0.attentions.1.attn.out_proj.bias",
        "m.transformer_blocks.0.attn1.to_out.0.weight": "m.transformer_blocks.0.attn1.out_proj.weight",
        "up_blocks.0.upsampler.conv.conv.weight": "up_blocks.0.upsampler.postconv.conv.weight",
    }
    assert list(current({name: torch.zeros(1) for name in old})) == list(old.values())
    assert list(current({name: torch.zeros(1) for name in old.values()})) == list(old.values())


def test_other_u_nets_are_not_taken_for_it():
    assert recognizes(Contents(weights(), "raw", ("raw",)))
    assert not recognizes(
        Contents({name: z for name, z in weights().items() if name != "out.2.conv.weight"}, "raw", ())
    )
