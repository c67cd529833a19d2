"""Names of a known family on tensors of other shapes: refused in a sentence, whatever the reader stumbles over."""

import contextlib
import json

import pytest
import torch

from lipdiag import checkpoints
from lipdiag.errors import LipdiagError

WIDTH = 12


def linear(name: str, out: int, into: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.zeros(out, into), f"{name}.bias": torch.zeros(out)}


def dit() -> dict:
    w = WIDTH
    state = {"x_embedder.proj.weight": torch.zeros(w, 4, 2, 2), "x_embedder.proj.bias": torch.zeros(w)}
    state |= {"pos_embed": torch.zeros(1, 16, w), "y_embedder.embedding_table.weight": torch.zeros(11, w)}
    layers = (("t_embedder.mlp.0", w, 256), ("t_embedder.mlp.2", w, w), ("final_layer.linear", 32, w))
    layers += (("final_layer.adaLN_modulation.1", 2 * w, w), ("blocks.0.attn.qkv", 3 * w, w))
    layers += (("blocks.0.attn.proj", w, w), ("blocks.0.mlp.fc1", 4 * w, w), ("blocks.0.mlp.fc2", w, 4 * w))
    layers += (("blocks.0.adaLN_modulation.1", 6 * w, w),)
    for layer in layers:
        state |= linear(*layer)
    return state


def lucidrains() -> dict:
    signal = torch.linspace(0.999, 0.01, 50)
    buffers = {"betas": torch.linspace(1e-4, 0.02, 50), "alphas_cumprod": signal, "loss_weight": torch.ones(50)}
    network = {f"model.{name}": tensor for name, tensor in linear("final_conv", 3, 8).items()}
    averaged = {f"ema_model.{name}": tensor for name, tensor in (buffers | network).items()}
    return {"model": buffers | network, "ema": averaged, "step": 1}


def score_sde() -> dict:
    model = {"module.sigmas": torch.linspace(1, 50, 10), "module.all_modules.0.W": torch.zeros(4)}
    model |= {f"module.{name}": tensor for name, tensor in linear("all_modules.1", 4, 4).items()}
    shadow = [tensor for name, tensor in model.items() if "all_modules.1" in name]
    return {"model": model, "ema": {"decay": 0.9, "num_updates": 1, "shadow_params": shadow}, "step": 1}


def latent_diffusion() -> dict:
    names = {"time_embed.0": (16, 4), "time_embed.2": (16, 16)}
    state = {k: v for name, sizes in names.items() for k, v in linear(f"model.diffusion_model.{name}", *sizes).items()}
    state |= {f"model.diffusion_model.{k}": v for k, v in linear("out.2", 3, 4).items()}
    state["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(4, 3, 3, 3)
    return {"state_dict": state | {"betas": torch.linspace(1e-4, 0.02, 50), "alphas_cumprod": torch.ones(50)}}


def flow_matching() -> dict:
    network = linear("time_embed.0", 16, 4) | linear("time_embed.2", 16, 16) | linear("label_emb", 6, 16)
    network |= {"input_blocks.0.0.weight": torch.zeros(4, 3, 3, 3), "out.2.weight": torch.zeros(3, 4, 3, 3)}
    network |= linear("input_blocks.1.0.emb_layers.1", 8, 16)
    network |= {"input_blocks.1.0.in_layers.2.weight": torch.zeros(4, 4, 3, 3)}
    network |= {"output_blocks.0.0.in_layers.2.weight": torch.zeros(4, 8, 3, 3)}
    model = {f"model.{name}": tensor for name, tensor in network.items()}
    model |= {f"shadow_params.{i}": tensor for i, tensor in enumerate(network.values())}
    return {"model": model, "optimizer": {}, "lr_schedule": {}, "epoch": 1, "args": {}}


FAMILIES = {f.__name__: f for f in (dit, lucidrains, score_sde, latent_diffusion, flow_matching)}
STRANGE = {
    "a number": torch.tensor(1.0),
    "nothing": torch.zeros(0),
    "whole numbers": torch.ones(3, dtype=torch.int64),
    "many axes": torch.zeros(1, 1, 1, 1, 1),
    "negative": torch.full((50,), -1.0),
}


def places(content: dict, path: tuple = ()) -> list[tuple]:
    """Where the tensors are."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    found = [(*path, key) for key, value in items if isinstance(value, torch.Tensor)]
    return found + [place for key, value in items for place in places(value, (*path, key))]


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_of_other_shapes_are_refused_in_a_sentence(family, strange, tmp_path, monkeypatch):
    (tmp_path / "flags.json").write_text(json.dumps({"num_heads": 2}))
    (tmp_path / "mine_shapes.py").write_text("def make(state):\n    return lambda x, t: x\n")
    monkeypatch.chdir(tmp_path)
    told = {"schedule": "linear()", "parameterization": "eps", "clock": "timesteps(1000)", "shape": (3, 4, 4)}
    for place in places(FAMILIES[family]()):
        content = FAMILIES[family]()
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = STRANGE[strange]
        torch.save(content, "x.pt")
        for reading in ({"original_config": "flags.json"}, {"factory": "mine_shapes:make", **told}):
            with contextlib.suppress(LipdiagError):  # what is harmless may load
                checkpoints.load("x.pt", **reading)
