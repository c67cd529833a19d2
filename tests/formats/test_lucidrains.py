"""The arguments that names and shapes of lucidrains' U-Net tell; test_originals_factories.py has the networks."""

import importlib
import itertools

import pytest
import torch

from lipdiag import checkpoints
from lipdiag.diffusion.schedule import Linear
from lipdiag.errors import CheckpointError
from lipdiag.formats.lucidrains import arguments, recognizes
from lipdiag.weights.container import Contents
from tests.formats.agreement import derivatives_agree
from tests.formats.originals import package


def state(widths, channels, heads, size, full, fourier=None, first=None, inputs=None, outputs=None):
    """The tensors of a U-Net, as the package writes them, by which its arguments are told."""
    dim = widths[0]
    rows = [first or dim, *widths]
    found = {"init_conv.weight": (rows[0], inputs or channels, 7, 7), "time_mlp.1.weight": (4 * dim, fourier or dim)}
    found |= {"final_conv.weight": (outputs or channels, rows[0], 1, 1)}
    if fourier:
        found["time_mlp.0.weights"] = (fourier // 2,)
    for i, (into, out) in enumerate(itertools.pairwise(rows)):
        last, inner = i == len(widths) - 1, heads[i] * size[i]
        found[f"downs.{i}.0.block1.proj.weight"] = (into, into, 3, 3)
        found[f"downs.{i}.2.mem_kv"] = (2, heads[i], 4, size[i]) if full[i] else (2, heads[i], size[i], 4)
        found[f"downs.{i}.2.to_qkv.weight"] = (3 * inner, into, 1, 1)
        found[f"downs.{i}.2.to_out{'' if full[i] else '.0'}.weight"] = (into, inner, 1, 1)
        found[f"downs.{i}.3{'' if last else '.1'}.weight"] = (out, into, 3, 3) if last else (out, 4 * into, 1, 1)
    return {name: torch.zeros(shape) for name, shape in found.items()}


PLAIN = {"heads": (4, 4), "size": (32, 32), "full": (False, True)}
CASES = [
    (state((8, 16), 3, **PLAIN), {"dim": 8, "dim_mults": [1, 2], "channels": 3}),
    (
        state((8, 16), 3, **PLAIN, first=16, inputs=6),
        {"dim": 8, "dim_mults": [1, 2], "channels": 3, "init_dim": 16, "self_condition": True},
    ),
    (
        state((8, 16), 2, **PLAIN, outputs=4),
        {"dim": 8, "dim_mults": [1, 2], "channels": 2, "learned_variance": True},
    ),
    (
        state((8, 24), 1, (2, 3), (8, 16), (True, False)),
        {
            "dim": 8, "dim_mults": [1, 3], "channels": 1, "attn_heads": [2, 3], "attn_dim_head": [8, 16],
            "full_attn": [True, False],
        },
    ),
    (
        state((8, 16), 1, **PLAIN, fourier=17),
        {"dim": 8, "dim_mults": [1, 2], "channels": 1, "learned_sinusoidal_cond": True, "learned_sinusoidal_dim": 16},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "told"), CASES, ids=lambda case: str(case)[:60] if "dim" in case else "")
def test_shapes_tell_the_arguments(tensors, told):
    assert arguments(tensors) == told


def test_other_names_are_not_taken_for_it():
    whole = state((8, 16), 3, **PLAIN)
    assert recognizes(Contents(whole, "raw", ("raw",)))
    assert recognizes(Contents({f"net.{name}": tensor for name, tensor in whole.items()}, "raw", ("raw",)))
    assert not recognizes(Contents(whole | {"cond_mlp.0.weight": torch.zeros(1)}, "raw", ("raw",)))
    del whole["time_mlp.1.weight"]
    assert not recognizes(Contents(whole, "raw", ("raw",)))


def test_a_file_tells_its_schedule_and_what_it_lacks_is_asked_for_at_once(tmp_path, monkeypatch):
    """Where the package is not installed a factory is begun instead."""
    table = {"betas": Linear().betas.float(), "alphas_cumprod": (1 - Linear().betas).cumprod(0).float()}
    network = state((8, 16), 3, **PLAIN)
    torch.save({"model": table | {f"model.{name}": z for name, z in network.items()}}, tmp_path / "model-1.pt")
    torch.save({"model": {f"net.{name}": z for name, z in network.items()}}, tmp_path / "model-2.pt")
    torch.save({"model": {f"model.{name}": z for name, z in network.items()}}, tmp_path / "model-3.pt")
    monkeypatch.setattr("lipdiag.formats.family.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"does not have \(install denoising_diffusion_pytorch, which has it"):
        checkpoints.inspect(tmp_path / "model-1.pt")
    monkeypatch.setattr("lipdiag.formats.family.find_spec", lambda name: "here")
    kept, elucidated, bare = (checkpoints.inspect(tmp_path / f"model-{i}.pt") for i in (1, 2, 3))
    assert (kept.clock, kept.unknown) == ("timesteps(1000)", ("parameterization", "shape"))
    assert (elucidated.parameterization, elucidated.unknown) == ("edm(0.5)", ("shape",))
    assert bare.unknown == ("schedule", "parameterization", "clock", "shape")
    with pytest.raises(CheckpointError) as raised:
        checkpoints.load(tmp_path / "model-3.pt")
    assert "give them by --schedule, --parameterization, --clock and --shape, as --schedule" in str(raised.value)


ABSENT = ("torchvision", "torchvision.transforms", "torchvision.utils", "torchvision.models")
FLOWS = (
    {"dim": 8, "dim_mults": (1, 2), "channels": 1, "attn_dim_head": 8},
    {"dim": 8, "dim_mults": (1, 2, 2), "channels": 2, "xattnres_heads": 2, "xattnres_dim_lora": 4, "attn_heads": 2},
)


@pytest.mark.parametrize("told", FLOWS, ids=("", "other heads"))
def test_a_rectified_flows_trainer_and_what_lipdiag_reads_of_it(tmp_path, told):
    """The package's own Trainer trains, averages and saves; its own prediction of the flow is the truth."""
    with package("rectified_flow_pytorch", *ABSENT):
        original = importlib.import_module("rectified_flow_pytorch.rectified_flow")
        torch.manual_seed(0)
        flow = original.RectifiedFlow(original.Unet(**told))
        data = torch.rand(8, told["channels"], 8, 8)
        trainer = original.Trainer(
            flow, dataset=list(data), num_train_steps=2, batch_size=4,
            checkpoint_every=2, num_samples=4, checkpoints_folder=str(tmp_path), results_folder=str(tmp_path / "r"),
            accelerate_kwargs={"cpu": True}, ema_kwargs={"update_after_step": 0, "update_every": 1, "beta": 0.5},
        )  # fmt: skip
        trainer()
        file = tmp_path / "checkpoint.2.pt"
        averaged, raw = (checkpoints.load(file, w, shape=(told["channels"], 8, 8)) for w in ("ema", "raw"))
    x, t = torch.randn(2, told["channels"], 8, 8), torch.tensor([0.3, 0.8], dtype=torch.float64)
    for made, theirs in ((averaged, trainer.ema_model.ema_model), (raw, flow)):
        with torch.no_grad():
            expected = (
                x
                - (1 - t.float()).view(-1, 1, 1, 1)
                * theirs.eval().predict_flow(theirs.model, x, times=1 - t.float())[1]
            )
            torch.testing.assert_close(made(x, t), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(averaged(x, t), raw(x, t))
    derivatives_agree(averaged, t)
