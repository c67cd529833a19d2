"""lipdiag's own checkpoints: what is saved is loaded, and what is wrong is refused by name."""

import io
import json
import struct
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save as serialize
from torch import nn

from lipdiag import checkpoints
from lipdiag.checkpoints.save import save
from lipdiag.diffusion.clock import Timesteps, Unit
from lipdiag.diffusion.convention import Convention
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear, Straight
from lipdiag.errors import CheckpointError, StorageError, UsageError
from lipdiag.formats.checkpoint import assemble
from lipdiag.formats.native import CONFIG, EMA, MODEL, load, read
from lipdiag.formats.networks import NETWORKS, TimeByKeyword, create_network
from lipdiag.training.loop import build


@pytest.fixture
def predictor(recipe) -> NetworkPredictor:
    return build(recipe).eval()


def averaged(predictor: NetworkPredictor) -> dict[str, torch.Tensor]:
    """Other weights of the same names."""
    return {name: tensor + 1 for name, tensor in predictor.network.state_dict().items()}


@pytest.mark.parametrize("name", ["model.pt", "folder"])
@pytest.mark.parametrize("both", [True, False])
def test_what_is_saved_is_loaded(tmp_path, predictor, name, both):
    ema = averaged(predictor)
    facts = {"steps": 3, "loss": 0.5}
    save(tmp_path / name, predictor, ema=ema if both else None, data="digits", training=facts)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.001, 0.5], dtype=torch.float64)
    raw = load(tmp_path / name, "raw")
    for weight, stored in zip(raw.parameters(), predictor.parameters(), strict=True):
        assert torch.equal(weight, stored)
    # The same weights elsewhere in memory change the last bit of a convolution.
    torch.testing.assert_close(raw(x, t), predictor(x, t), rtol=0, atol=2e-6)
    assert (raw.schedule, raw.parameterization, raw.clock, raw.shape) == (Linear(), eps, Timesteps(1000), (1, 8, 8))
    assert not raw.training
    assert not any(weight.requires_grad for weight in raw.parameters())
    for key, tensor in load(tmp_path / name).network.state_dict().items():
        assert torch.equal(tensor, ema[key] if both else predictor.network.state_dict()[key])
    told = read(tmp_path / name)
    assert told.weights == ("ema" if both else "raw")
    assert told.available == (("ema", "raw") if both else ("raw",))
    assert (told.data, told.training) == ("digits", facts)


def test_the_record_of_its_data_is_saved_with_a_model(tmp_path, predictor):
    predictor.data = "digits"
    save(tmp_path / "a.pt", predictor)
    save(tmp_path / "b.pt", predictor, data="faces")
    assert (read(tmp_path / "a.pt").data, read(tmp_path / "b.pt").data) == ("digits", "faces")
    assert load(tmp_path / "a.pt").data == "digits"


def test_the_same_model_has_the_same_bytes(tmp_path, predictor):
    for name in ("a", "b"):
        save(tmp_path / name, predictor)
    assert read(tmp_path / "a").sha256 == read(tmp_path / "b").sha256
    for file in (CONFIG, MODEL):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_averaged_weights_alone_are_not_called_raw(tmp_path, predictor):
    save(tmp_path / "x", predictor, weights="ema")
    assert read(tmp_path / "x").weights == "ema"
    with pytest.raises(CheckpointError, match="averaged weights only"):
        load(tmp_path / "x", "raw")
    with pytest.raises(UsageError, match="'best'"):
        checkpoints.load(tmp_path / "x", "best")


def test_conditioning_and_networks_told_their_time_by_keyword(tmp_path):
    """SD3's second argument is not the time; its prediction of velocity is converted as eps = x + (1 - t) v."""
    config = {
        "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 1, "attention_head_dim": 8,
        "num_attention_heads": 2, "joint_attention_dim": 16, "caption_projection_dim": 16,
        "pooled_projection_dim": 12, "out_channels": 4, "pos_embed_max_size": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    network = create_network("SD3Transformer2DModel", config, "here")
    inputs = {"encoder_hidden_states": torch.randn(1, 3, 16), "pooled_projections": torch.randn(1, 12)}
    from lipdiag.diffusion.parameterization import velocity

    predictor = NetworkPredictor(TimeByKeyword(network), Straight(), velocity, Unit(1000.0), (4, 8, 8), inputs).eval()
    save(tmp_path / "x", predictor)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 0.5], dtype=torch.float64)
    both = {name: tensor.expand(2, *tensor.shape[1:]) for name, tensor in inputs.items()}
    with torch.no_grad():
        v = network(x, timestep=1000 * t.float(), **both).sample
        torch.testing.assert_close(load(tmp_path / "x")(x, t), x + (1 - t).float().view(-1, 1, 1, 1) * v)


def config_of(folder) -> dict:
    return json.loads((folder / CONFIG).read_text())


def change_config(folder, **changes):
    """The config with keys replaced, or taken out where the value is ..."""
    config = config_of(folder) | changes
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def change_weights(folder, change):
    """The weights changed, and the config told so."""
    from safetensors.torch import load_file

    state = change(load_file(folder / MODEL))
    (folder / MODEL).write_bytes(serialize(state))
    import hashlib

    change_config(folder, files={MODEL: hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()})


def overwrite(file, place: int, value: int):
    data = bytearray(file.read_bytes())
    data[place] ^= value
    file.write_bytes(data)


def network(folder, **changes):
    return config_of(folder)["network"] | changes


def arguments(folder, **changes):
    config = network(folder)["config"] | changes
    return {"class": "UNet2DModel", "config": {key: value for key, value in config.items() if value is not ...}}


DAMAGE = {
    "no weights": (lambda d: (d / MODEL).unlink(), MODEL),
    "no config": (lambda d: (d / CONFIG).unlink(), CONFIG),
    "empty weights": (lambda d: (d / MODEL).write_bytes(b""), "0 bytes"),
    "pointer": (lambda d: (d / MODEL).write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs"),
    "pickle": (lambda d: torch.save({}, d / MODEL), "not a .safetensors"),
    "flipped bit": (lambda d: overwrite(d / MODEL, -9, 1), "damaged"),
    "cut": (lambda d: (d / MODEL).write_bytes((d / MODEL).read_bytes()[:-10]), "cut short"),
    "long header": (lambda d: (d / MODEL).write_bytes(struct.pack("<Q", 99_000_000) + b"{}"), "header"),
    "broken json": (lambda d: (d / CONFIG).write_text('{"format_version": 1'), "JSON"),
    "no version": (lambda d: change_config(d, format_version=...), "format_version"),
    "newer": (lambda d: change_config(d, format_version=2), "newer"),
    "version is true": (lambda d: change_config(d, format_version=True), "format_version"),
    "missing key": (lambda d: change_config(d, schedule=...), "lacks the key 'schedule'"),
    "unknown key": (lambda d: change_config(d, target="os.system"), "unknown key 'target'"),
    "wrong type": (lambda d: change_config(d, clock=3), "int as clock"),
    "shape": (lambda d: change_config(d, shape=[1, -8, 8]), "positive integers"),
    "weights": (lambda d: change_config(d, weights="best"), "'best'"),
    "schedule": (lambda d: change_config(d, schedule="linea()"), "schedule"),
    "code": (lambda d: change_config(d, clock="__import__('os').abort()"), "clock"),
    "class": (lambda d: change_config(d, network=network(d, **{"class": "os.system"})), "not among"),
    "network": (lambda d: change_config(d, network={"class": "UNet2DModel"}), "class and a config"),
    "argument": (lambda d: change_config(d, network=arguments(d, trust=1)), "'trust'"),
    "value": (lambda d: change_config(d, network=arguments(d, block_out_channels="x")), "can be built"),
    "other network": (lambda d: change_config(d, network=arguments(d, block_out_channels=[16])), "shape"),
    "NaN": (lambda d: change_weights(d, lambda s: s | {"conv_in.bias": s["conv_in.bias"] * torch.nan}), "NaN"),
    "lacking": (lambda d: change_weights(d, lambda s: {k: s[k] for k in s if k != "conv_in.bias"}), "lacks 'conv_in"),
    "extra": (lambda d: change_weights(d, lambda s: s | {"zzz": torch.ones(1)}), "has 'zzz'"),
    "dtype": (lambda d: change_weights(d, lambda s: s | {"conv_in.bias": s["conv_in.bias"].int()}), "type torch.int32"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_by_name_and_cause(tmp_path, predictor, name):
    save(tmp_path / "x", predictor)
    damage, word = DAMAGE[name]
    damage(tmp_path / "x")
    with pytest.raises(CheckpointError, match=word) as refusal:
        load(tmp_path / "x")
    assert str(tmp_path / "x") in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c.pop("config"), "lacks its config"),
        (lambda c: c.update(config="[]"), "list"),
        (lambda c: c.update(config='{"format_version": NaN}'), "NaN"),
        (lambda c: c.update(optimizer={}), "lacks its config"),
        (lambda c: c.update(model=3), "lacks its config"),
        (lambda c: c["model"].update(step=3), "something else than tensors"),
        (lambda c: c["model"].pop("conv_in.bias"), "lacks 'conv_in.bias'"),
    ],
)
def test_a_file_of_another_content_is_refused(tmp_path, predictor, change, word):
    save(tmp_path / "x.pt", predictor)
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    change(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match=word):
        load(tmp_path / "x.pt")


def test_overrides_replace_what_the_file_tells(tmp_path, predictor):
    save(tmp_path / "x", predictor)
    (tmp_path / "x" / CONFIG).write_text((tmp_path / "x" / CONFIG).read_text().replace('"eps"', '"nonsense"'))
    told = read(tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"tells a parameterization that cannot be used .*nonsense"):
        assemble(told)
    inspected = checkpoints.inspect(tmp_path / "x")
    assert inspected.unknown == ("parameterization",)
    assert "nonsense" in inspected.notes[-1]
    loaded = assemble(told, Convention.of("straight()", "eps", Unit()))
    assert (loaded.schedule, loaded.parameterization, loaded.clock) == (Straight(), eps, Unit())
    with pytest.raises(UsageError, match="curved"):
        assemble(told, Convention.of("curved()"))


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, predictor):
    gaussian = Gaussian(torch.zeros(2), torch.ones(2), Linear(), Timesteps(1000))
    own = NetworkPredictor(nn.Identity(), Linear(), eps, Timesteps(1000), (2,))
    for unsaved, word in ((gaussian, "Gaussian cannot"), (own, "around a Identity")):
        with pytest.raises(UsageError, match=word):
            save(tmp_path / "x", unsaved)
    with pytest.raises(UsageError, match="ends in"):
        save(tmp_path / "x.safetensors", predictor)
    with pytest.raises(UsageError, match="JSON"):
        save(tmp_path / "x", predictor, training={"loss": float("nan")})
    with pytest.raises(UsageError, match="alone"):
        save(tmp_path / "x", predictor, ema=averaged(predictor), weights="ema")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="in the way"):
        save(tmp_path / "file", predictor)


def test_every_network_on_the_list_exists():
    for name, network_class in NETWORKS.items():
        *package, of_class = name.split(".")
        if not package or find_spec(package[0]) is not None:  # another package's, which need not be installed
            assert issubclass(network_class(), nn.Module)
            assert network_class().__name__ == of_class


def test_loading_takes_no_random_numbers_of_the_callers(tmp_path, predictor):
    save(tmp_path / "x", predictor)
    before = torch.get_rng_state()
    load(tmp_path / "x")
    assert torch.equal(torch.get_rng_state(), before)


def test_two_sets_of_weights_are_two_files(tmp_path, predictor):
    save(tmp_path / "x", predictor, ema=averaged(predictor))
    assert {file.name for file in (tmp_path / "x").iterdir()} == {CONFIG, MODEL, EMA}
    assert read(tmp_path / "x", "ema").sha256 != read(tmp_path / "x", "raw").sha256


def test_a_network_made_for_weights_is_given_no_others_first(recipe):
    made = create_network(recipe.network, recipe.network_config, "here")
    before = torch.get_rng_state()
    create_network(recipe.network, recipe.network_config, "here", made.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
