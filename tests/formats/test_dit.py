"""DiT's and SiT's originals, compared with a reference written from their papers and with their own code."""

import argparse
import copy
import json
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import lipdiag
from lipdiag import checkpoints
from lipdiag.checkpoints.save import save
from lipdiag.errors import CheckpointError, UsageError
from tests.formats.agreement import derivatives_agree
from tests.formats.originals import clone, importable

WIDTH, HEADS, DEPTH, PATCH, CHANNELS, SIDE, CLASSES = 48, 4, 2, 2, 4, 8, 5
T = torch.tensor([0.25, 0.9], dtype=torch.float64)
X = torch.randn(2, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
PARTS = ("ops", "ops.misc", "transforms", "transforms.functional", "datasets", "models", "models.feature_extraction")
ABSENT = ["torchvision", *(f"torchvision.{part}" for part in PARTS)]


def weights(seed: int = 0, doubled: bool = True) -> dict[str, Tensor]:
    """A state dict in the originals' layout."""
    generator = torch.Generator().manual_seed(seed)
    tokens, out = (SIDE // PATCH) ** 2, (1 + doubled) * CHANNELS * PATCH**2
    layers = {
        "t_embedder.mlp.0": (WIDTH, 256), "t_embedder.mlp.2": (WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH), "final_layer.linear": (out, WIDTH),
        "x_embedder.proj": (WIDTH, CHANNELS, PATCH, PATCH),
    }  # fmt: skip
    for i in range(DEPTH):
        layers |= {
            f"blocks.{i}.attn.qkv": (3 * WIDTH, WIDTH), f"blocks.{i}.attn.proj": (WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc1": (4 * WIDTH, WIDTH), f"blocks.{i}.mlp.fc2": (WIDTH, 4 * WIDTH),
            f"blocks.{i}.adaLN_modulation.1": (6 * WIDTH, WIDTH),
        }  # fmt: skip

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]) or 1)

    state = {f"{name}.weight": noise(*shape) for name, shape in layers.items()}
    state |= {f"{name}.bias": 0.3 * noise(shape[0]) for name, shape in layers.items()}
    state["y_embedder.embedding_table.weight"] = noise(CLASSES + 1, WIDTH)
    return state | {"pos_embed": noise(1, tokens, WIDTH)}


def reference(w: dict[str, Tensor], x: Tensor, t: Tensor, y: int) -> Tensor:
    """The transformer of the DiT paper (section 3, figure 3: adaLN-Zero) as a function of the weights."""

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return h * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)

    n, side = len(x), SIDE // PATCH
    angles = t.float().unsqueeze(1) * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    time = linear(
        "t_embedder.mlp.2", functional.silu(linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], 1)))
    )
    c = functional.silu(time + w["y_embedder.embedding_table.weight"][y])
    pieces = x.reshape(n, CHANNELS, side, PATCH, side, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(n, side**2, -1)
    h = pieces @ w["x_embedder.proj.weight"].flatten(1).T + w["x_embedder.proj.bias"] + w["pos_embed"]
    for i in range(DEPTH):
        block = f"blocks.{i}"
        shift, scale, gate, shift2, scale2, gate2 = linear(f"{block}.adaLN_modulation.1", c).split(WIDTH, 1)
        qkv = linear(f"{block}.attn.qkv", modulated(h, shift, scale)).reshape(n, -1, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        heads = (q @ k.mT / math.sqrt(WIDTH // HEADS)).softmax(-1) @ v
        h = h + gate.unsqueeze(1) * linear(f"{block}.attn.proj", heads.transpose(1, 2).reshape(n, -1, WIDTH))
        wide = functional.gelu(linear(f"{block}.mlp.fc1", modulated(h, shift2, scale2)), approximate="tanh")
        h = h + gate2.unsqueeze(1) * linear(f"{block}.mlp.fc2", wide)
    shift, scale = linear("final_layer.adaLN_modulation.1", c).split(WIDTH, 1)
    out = linear("final_layer.linear", modulated(h, shift, scale)).reshape(n, side, side, PATCH, PATCH, -1)
    return out.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, SIDE, SIDE)[:, :CHANNELS]


@pytest.fixture
def written(tmp_path):
    """Writes a checkpoint as train.py does, or bare, and the flags of its heads; returns both paths."""

    def write(content, name="0050000.pt", **flags):
        torch.save(content, tmp_path / name)
        (tmp_path / "flags.json").write_text(json.dumps({"num_heads": HEADS} | flags))
        return tmp_path / name, tmp_path / "flags.json"

    return write


def trained(**args) -> dict:
    """What train.py saves."""
    return {"model": weights(0), "ema": weights(1), "opt": {"state": {}, "param_groups": []},
            "args": argparse.Namespace(**args)}  # fmt: skip


@pytest.mark.parametrize(("which", "seed"), [("ema", 1), ("raw", 0)])
def test_a_dit_of_train_py_is_the_paper_s_transformer(written, which, seed):
    file, flags = written(trained(model="DiT-S/2", image_size=64, num_classes=CLASSES))
    for label, y in ((3, 3), (None, CLASSES)):  # the last class is the null one
        predictor = lipdiag.load(file, which, original_config=flags, label=label)
        with torch.no_grad():
            expected = reference(weights(seed), X, torch.tensor([249, 899]), y)
            torch.testing.assert_close(predictor(X, T), expected, rtol=1e-5, atol=1e-5)
    found = checkpoints.inspect(file, original_config=flags)
    assert (found.kind, found.schedule, found.clock, found.shape, found.available) == (
        "DiT file", "linear(0.0001, 0.02, 1000)", "timesteps(1000)", (CHANNELS, SIDE, SIDE), ("ema", "raw"),
    )  # fmt: skip
    assert found.parameters == sum(weight.numel() for weight in weights().values())
    assert not any("do not tell" in note for note in found.notes)
    if which == "ema":
        derivatives_agree(copy.deepcopy(predictor), T)


def amplitudes(path: str, s: Tensor) -> tuple[Tensor, Tensor]:
    """Of data and noise at SiT's time s, which is 0 at the noise (SiT, table 1)."""
    if path == "Linear":
        return s, 1 - s
    if path == "GVP":
        return (s * math.pi / 2).sin(), (s * math.pi / 2).cos()
    integral = 0.1 * (1 - s) + 19.9 * (1 - s) ** 2 / 2
    return (-integral / 2).exp(), (1 - (-integral).exp()).sqrt()


@pytest.mark.parametrize("prediction", ["velocity", "score", "noise"])
@pytest.mark.parametrize("path", ["Linear", "GVP", "VP"])
def test_a_sit_runs_from_noise_to_data_on_its_own_path(written, path, prediction):
    """At x = a x0 + b eps the network says a' x0 + b' eps, -eps / b or eps, primes for the derivative in its time."""
    file, flags = written(trained(model="SiT-S/2", path_type=path, prediction=prediction))
    predictor = lipdiag.load(file, original_config=flags)
    (a, b), (da, db) = torch.func.jvp(lambda s: amplitudes(path, s), (1 - T,), (torch.ones_like(T),))
    a, b, da, db = (c.float().reshape(-1, 1, 1, 1) for c in (a, b, da, db))
    with torch.no_grad():
        y = reference(weights(1), X, 1 - T, CLASSES)
        noise = {"velocity": (a * y - da * X) / (a * db - da * b), "score": -b * y, "noise": y}[prediction]
        torch.testing.assert_close(predictor(X, T), noise, rtol=1e-5, atol=1e-5)
    if path == "Linear" and prediction == "velocity":
        derivatives_agree(predictor, T)


@pytest.mark.parametrize(
    ("name", "flags", "kind", "note"),
    [
        ("DiT-XL-2-256x256.pt", {}, "DiT", "taken as DiT by the file's name"),
        ("SiT-XL-2-256x256.pt", {}, "SiT", "taken as SiT by the file's name"),
        (
            "visit.pt",
            {},
            "DiT",
            '--schedule "straight()" --parameterization "data_velocity" --clock "reversed(unit(1))"',
        ),
        ("visit.pt", {"model": "SiT-XL/2"}, "SiT", None),
        ("visit.pt", {"path_type": "GVP"}, "SiT", None),
    ],
)
def test_weights_alone_are_told_apart_by_name_or_flag_and_it_is_said(written, name, flags, kind, note):
    file, config = written(weights(), name, **flags)
    found = checkpoints.inspect(file, original_config=config)
    assert found.kind == f"{kind} file"
    said = [text for text in found.notes if "do not tell DiT from SiT" in text]
    assert [note in text for text in said] == ([True] if note else [])
    with torch.no_grad():
        predictor = lipdiag.load(file, original_config=config)
        told = predictor.clock(T)
        torch.testing.assert_close(
            predictor.output(X, told), reference(weights(), X, told, CLASSES), rtol=1e-5, atol=1e-5
        )


def test_a_network_without_a_learned_variance_and_its_own_format(written, tmp_path):
    """What is loaded is saved with its frequencies and places, and read back bit for bit."""
    file, config = written(weights(doubled=False))
    predictor = lipdiag.load(file, original_config=config)
    with torch.no_grad():
        expected = reference(weights(doubled=False), X, torch.tensor([249, 899]), CLASSES)
        torch.testing.assert_close(predictor(X, T), expected, rtol=1e-5, atol=1e-5)
        save(tmp_path / "own", predictor)
        assert torch.equal(lipdiag.load(tmp_path / "own")(X, T), predictor(X, T))


def test_published_widths_need_no_flags(written):
    state = {name: weight for name, weight in weights().items() if "blocks" not in name}
    width = 384
    grown = {
        name: torch.zeros([{WIDTH: width, 2 * WIDTH: 2 * width}.get(size, size) for size in weight.shape])
        for name, weight in state.items()
    }
    grown |= {
        f"blocks.0.{name}": torch.zeros(shape)
        for name, shape in {
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,), "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
            "adaLN_modulation.1.weight": (6 * width, width), "adaLN_modulation.1.bias": (6 * width,),
        }.items()
    }  # fmt: skip
    torch.save(grown, written({})[0])
    predictor = lipdiag.load(written(grown)[0])
    assert (predictor.network.config.num_attention_heads, predictor.network.config.attention_head_dim) == (6, 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.0.attn.q_norm.weight": torch.ones(12)}, "'blocks.0.attn.q_norm.weight'.*factory="),
        ({"pos_embed": torch.ones(1, 15, WIDTH)}, "no square picture.*factory="),
        ({"final_layer.linear.weight": torch.ones(13, WIDTH)}, "no square picture.*factory="),
        ({"blocks.0.mlp.fc1.weight": torch.ones(3 * WIDTH, WIDTH)}, "shape"),
    ],
)
def test_another_network_of_the_same_names_is_refused(written, change, words):
    file, config = written(weights() | change)
    with pytest.raises(CheckpointError, match=words):
        lipdiag.load(file, original_config=config)


def test_what_is_not_told_is_asked_for(written):
    file, config = written(weights(), heads=3)
    with pytest.raises(CheckpointError, match=r"width 48.*384, 768, 1024, 1152.*num_heads"):
        lipdiag.load(file)
    with pytest.raises(CheckpointError, match=r"'heads'.*num_heads"):
        lipdiag.load(file, original_config=config)
    file, config = written(trained(model="SiT-S/2", path_type="cosine"))
    with pytest.raises(CheckpointError, match=r"'cosine'.*factory="):
        lipdiag.load(file, original_config=config)


def test_a_class_that_does_not_exist_is_refused(written):
    file, config = written(weights())
    lipdiag.load(file, original_config=config, label=CLASSES)
    for label in (-1, CLASSES + 1):
        with pytest.raises(UsageError, match=f"classes 0 to {CLASSES}: {label}"):
            lipdiag.load(file, original_config=config, label=label)


@pytest.fixture
def original(written):
    """Builds a network of a clone, and writes what its train.py would."""

    def make(name, **args):
        import importlib

        with importable(clone(name), *ABSENT):
            pytest.importorskip("timm")
            module = importlib.import_module("models")
        torch.manual_seed(0)
        network = getattr(module, name)(
            input_size=SIDE, patch_size=PATCH, in_channels=CHANNELS, hidden_size=WIDTH, depth=DEPTH, num_heads=HEADS,
            num_classes=CLASSES,
        )  # fmt: skip
        average = copy.deepcopy(network).eval()
        with torch.no_grad():  # its last layers start at zero
            for weight in (w for w in average.parameters() if w.requires_grad):
                weight.add_(0.1 * torch.randn(weight.shape))
        content = {"model": network.state_dict(), "ema": average.state_dict(), "opt": {}}
        return average, *written(content | {"args": argparse.Namespace(model=f"{name}-S/2", **args)})

    return make


def test_the_original_dit_itself(original):
    network, file, flags = original("DiT", num_classes=CLASSES)
    predictor = lipdiag.load(file, original_config=flags, label=2)
    with importable(clone("DiT")):
        from diffusion import create_diffusion

        diffusion = create_diffusion(timestep_respacing="")
    labels = torch.tensor([2, 2])
    with torch.no_grad():
        k = torch.tensor([249, 899])
        found = predictor(X, T)
        torch.testing.assert_close(found, network(X, k, labels)[:, :CHANNELS], rtol=1e-5, atol=1e-5)
        data = diffusion.p_mean_variance(network, X, k, clip_denoised=False, model_kwargs={"y": labels})["pred_xstart"]
        alpha, sigma = (c.float().reshape(-1, 1, 1, 1) for c in predictor.schedule(T))
        torch.testing.assert_close((X - sigma * found) / alpha, data, rtol=1e-5, atol=1e-4)
    derivatives_agree(predictor, T)


@pytest.mark.parametrize("prediction", ["velocity", "score", "noise"])
@pytest.mark.parametrize("path", ["Linear", "GVP", "VP"])
def test_the_original_sit_itself(original, path, prediction):
    """Its own score function, times minus sigma, is the noise."""
    network, file, flags = original("SiT", path_type=path, prediction=prediction, num_classes=CLASSES)
    predictor = lipdiag.load(file, original_config=flags, label=2)
    with importable(clone("SiT")):
        pytest.importorskip("torchdiffeq")
        from transport import create_transport

        transport = create_transport(path, prediction)
    with torch.no_grad():
        s = (1 - T).float()
        score = transport.get_score()(X, s, network, y=torch.tensor([2, 2]))
        sigma = transport.path_sampler.compute_sigma_t(s)[0].reshape(-1, 1, 1, 1)
        torch.testing.assert_close(predictor(X, T), -sigma * score, rtol=1e-5, atol=1e-5)
    if path == "GVP":
        derivatives_agree(predictor, T)
