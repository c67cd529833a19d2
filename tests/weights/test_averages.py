"""Averaged weights wherever training scripts keep them: they are taken, or it is said why not, and no raw ones."""

import copy
import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lipdiag import checkpoints
from lipdiag.errors import CheckpointError
from lipdiag.weights.averages import words
from lipdiag.weights.container import open_container


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.out = nn.Linear(3, 2)


def averaged_model() -> tuple[nn.Module, AveragedModel]:
    """A network and torch's average of it and of a step from it, a tenth of the way."""
    torch.manual_seed(0)
    network = Network()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(10)
    average.update_parameters(network)
    return network, average


NETWORK, AVERAGE = averaged_model()
RAW = NETWORK.state_dict()
EMA = AVERAGE.module.state_dict()
PARAMETERS = [EMA[name] for name, _ in NETWORK.named_parameters()]
ADAM = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def ema_pytorch(around: str = "", online: bool = True) -> dict[str, Tensor]:
    """The state dict of ema_pytorch's EMA, which keeps the network beside its average."""
    own = prefixed("online_model." + around, RAW) if online else {}
    return own | prefixed("ema_model." + around, EMA) | {"initted": torch.tensor(True), "step": torch.tensor(7)}


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of latent diffusion's LitEma."""
    return {name.replace(".", ""): tensor for name, tensor in state.items()}


LIGHTNING = {"pytorch-lightning_version": "2.4", "epoch": 1, "hyper_parameters": {"lr": 1e-3}}
LAYOUTS = {
    "torch's AveragedModel": {"model": RAW, "ema": AVERAGE.state_dict()},
    "torch's AveragedModel under SWA": {"model_state_dict": RAW, "swa_model": AVERAGE.state_dict(), "optimizer": ADAM},
    "shadow": {"model": RAW, "ema": {"shadow": EMA, "decay": 0.99}},
    "shadow with a backup": {"model": RAW, "ema": {"shadow": EMA, "backup": RAW, "decay": 0.99}},
    "ema_shadow": {"model": RAW, "ema_shadow": EMA},
    "averaged": {"net": RAW, "averaged": EMA},
    "ema_params": {"params": RAW, "ema_params": EMA},
    "ema_state_dict": {"state_dict": RAW, "ema_state_dict": EMA},
    "model_state_dict_ema": {"model_state_dict": RAW, "model_state_dict_ema": EMA},
    "timm": {"state_dict": RAW, "state_dict_ema": EMA, "arch": "x", "optimizer": ADAM},
    "ModelEma": {"network": RAW, "ModelEma": {"module": prefixed("module.", EMA)}},
    "k-diffusion": {"model": prefixed("inner_model.", RAW), "model_ema": prefixed("inner_model.", EMA), "opt": ADAM},
    "in a list": {"model": RAW, "ema": {"shadow_params": PARAMETERS, "decay": 0.9, "collected_params": None}},
    "in a list beside raw ones": {
        "model": RAW, "ema": {"shadow_params": PARAMETERS, "collected_params": PARAMETERS},
    },
    "a list alone": {"model": RAW, "ema_params": PARAMETERS},
    "nested": {"state_dict": {"model": RAW, "ema": EMA}, "epoch": 3},
    "in a checkpoint": {"checkpoint": {"net": RAW, "net_ema": EMA}},
    "ema_pytorch": {"model": RAW, "ema": ema_pytorch()},
    "ema_pytorch without the network": {"model": RAW, "ema_model": ema_pytorch(online=False)},
    "rectified-flow-pytorch": {"model": prefixed("model.", RAW), "ema_model": ema_pytorch("model."), "step": 3},
    "ema_pytorch around the model": {"model": ema_pytorch()},
    "imagen-pytorch": {"model": prefixed("unets.0.", RAW), "ema": prefixed("0.", ema_pytorch())},
    "compiled": {"model": prefixed("_orig_mod.", RAW), "ema": EMA},
    "compiled average": {"model": RAW, "ema": prefixed("module._orig_mod.", EMA)},
    "Lightning": LIGHTNING | {"state_dict": prefixed("net.", RAW) | prefixed("net_ema.", EMA)},
    "Lightning around EMA": LIGHTNING | {"state_dict": prefixed("net.", RAW) | prefixed("ema.module.", EMA)},
    "Lightning with LitEma": LIGHTNING
    | {
        "state_dict": prefixed("net.", RAW) | prefixed("model_ema.", flat(EMA)) | {"model_ema.decay": torch.tensor(0.9)}
    },
    "Lightning's callback": LIGHTNING
    | {"state_dict": prefixed("net.", RAW), "callbacks": {"EMACallback{'decay': 0.9}": {"ema_state_dict": EMA}}},
    "Lightning's callback for the module": LIGHTNING
    | {"state_dict": prefixed("net.", RAW), "callbacks": {"EMA": {"weights": prefixed("net.", EMA)}}},
    "Lightning's WeightAveraging": LIGHTNING
    | {
        "current_model_state": prefixed("net.", RAW), "state_dict": prefixed("net.", EMA),
        "averaging_state": {"n_averaged": torch.tensor(2)},
    },
    "NeMo": LIGHTNING
    | {"state_dict": prefixed("net.", RAW), "optimizer_states": [{"opt": ADAM, "ema": PARAMETERS, "decay": 0.9}]},
    "a prefix": prefixed("ema.", EMA) | prefixed("model.", RAW),
    "model_ema as a prefix": RAW | prefixed("model_ema.", EMA),
    "alone: ema_pytorch": ema_pytorch(),
}  # fmt: skip
ALONE = {
    "AveragedModel": AVERAGE.state_dict(),
    "ema_pytorch": ema_pytorch(online=False),
    "a prefix": prefixed("ema.", EMA),
    "a key": {"ema": EMA, "step": 3},
    "a shadow": {"ema": {"shadow": prefixed("module.", EMA)}},
}


def taken(content, weights: str = "ema"):
    before = copy.deepcopy(content)
    found = open_container(content, weights, "x.pt")
    assert str(before) == str(content), "a reader changes nothing"
    return found


def same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("name", LAYOUTS)
def test_averages_are_taken_if_asked_for_and_raw_weights_if_those_are(name):
    found = taken(LAYOUTS[name])
    assert (found.weights, found.available) == ("ema", ("ema", "raw"))
    same(
        found.state,
        EMA | {n: RAW[n] for n in RAW if "list" in name or name == "NeMo" if n not in dict(NETWORK.named_parameters())},
    )
    found = taken(LAYOUTS[name], "raw")
    assert found.weights == "raw"
    same(found.state, RAW)


@pytest.mark.parametrize("name", ALONE)
def test_averages_without_raw_weights_are_called_averages(name):
    found = taken(ALONE[name])
    assert (found.weights, found.available) == ("ema", ("ema",))
    same(found.state, EMA)
    with pytest.raises(CheckpointError, match="averaged weights only"):
        taken(ALONE[name], "raw")


UNUSABLE = {
    "half": ({"ema": {"shadow": {"out.weight": EMA["out.weight"]}}}, "1 of 9 names, half a network"),
    "half a list": ({"ema": {"shadow_params": PARAMETERS[:3]}}, "3 averaged weights for 9 names, half a network"),
    "other names": ({"ema": {"a.b": torch.ones(2)}}, "none of the network's, such as 'a.b'"),
    "other shapes": ({"ema": {name: torch.ones(9) for name in EMA}}, "names or shapes are none"),
    "two": ({"ema_0.999": EMA, "ema_0.9999": EMA}, r"2 averages, under ema_0\.999 and ema_0\.9999"),
    "never begun": ({"ema": AveragedModel(NETWORK).state_dict()}, "never begun"),
    "never begun either": ({"ema": ema_pytorch() | {"initted": torch.tensor(False)}}, "never begun"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_averages_that_cannot_be_used_are_said_never_silently_left(tmp_path, name):
    averages, sentence = UNUSABLE[name]
    torch.save({"model": RAW, **averages}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        checkpoints.load(tmp_path / "x.pt")
    assert "--weights raw" in str(refusal.value)
    same(taken({"model": RAW, **averages}, "raw").state, RAW)


def test_weights_of_the_network_under_a_name_that_does_not_tell_are_named():
    """A target network of consistency training, a teacher: averages mostly, and never silently left."""
    content = {"model": RAW, "target_model": EMA, "optimizer": ADAM, "head": {"out.weight": RAW["out.weight"]}}
    found = taken(content)
    assert found.weights == "raw"
    assert found.notes == (
        "other weights of the network under target_model were not read: rename what is averaged to ema",
    )
    assert not taken(content, "raw").notes, "raw weights are what was asked for"
    assert not taken({**content, "ema": EMA}).notes, "averages are what was asked for"


def test_a_part_that_is_called_like_an_average_is_a_part():
    state = {"ema_gate.weight": torch.ones(2), "shadow.bias": torch.zeros(2), **RAW}
    found = taken(state)
    assert found.available == ("as stored",)
    same(found.state, state)
    assert taken({"model": RAW, "ema_scheduler": {"decay": 0.9}, "schema": RAW}).available == ("raw",)


def test_words_of_names():
    assert words("EMACallback{'decay'}") == {"ema", "callback", "decay"}
    assert words("model_ema.ModelEma") == {"model", "ema"}
    assert words("schema.emamodel") == {"schema", "emamodel"}


WRAPPED = {
    "part compiled": {name.replace("body.", "body._orig_mod."): tensor for name, tensor in RAW.items()},
    "FSDP": {name.replace("body.", "_fsdp_wrapped_module.body._fsdp_wrapped_module."): t for name, t in RAW.items()},
    "checkpointed": {name.replace("body.0", "body.0._checkpoint_wrapped_module"): t for name, t in RAW.items()},
    "DDP and compiled": prefixed("module._orig_mod.", RAW),
    "compiled and DDP": prefixed("_orig_mod.module.", RAW),
    "Fabric": prefixed("_forward_module.module.", RAW),
    "Lightning": LIGHTNING | {"state_dict": prefixed("denoising_net.", RAW)},
    "Lightning, compiled": LIGHTNING | {"state_dict": prefixed("net._orig_mod.", RAW)},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_wrappers_put_into_names_goes(name):
    same(taken(WRAPPED[name]).state, RAW)


def test_flat_parameters_of_shards_are_named():
    with pytest.raises(CheckpointError, match=r"flat parameters of FSDP.*full state dict"):
        taken({"model": {"_fsdp_wrapped_module._flat_param": torch.ones(9)}})


def accelerated(folder, weights: str = "model.safetensors", custom: object = None):
    """A folder as accelerator.save_state writes it."""
    folder.mkdir()
    (save_file if weights.endswith("safetensors") else torch.save)(RAW, folder / weights)
    torch.save(ADAM, folder / "optimizer.bin")
    (folder / "random_states_0.pkl").write_bytes(b"\x80\x04}.")
    if custom is not None:
        torch.save(custom, folder / "custom_checkpoint_0.pkl")
    return folder


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_accelerate_s_is_its_weights(tmp_path, monkeypatch, weights):
    folder = accelerated(tmp_path / "a", weights)
    with pytest.raises(CheckpointError, match=r"of no family.*--factory"):
        checkpoints.inspect(folder)
    given = {}
    monkeypatch.setitem(
        sys.modules, "owner", types.SimpleNamespace(build=lambda state: given.update(state) or Network())
    )
    told = {"schedule": "linear()", "parameterization": "eps", "clock": "timesteps()", "shape": (2,)}
    checkpoints.factory("owner:build", folder, **told)
    same(given, RAW)
    custom = {"shadow_params": PARAMETERS, "decay": 0.9}
    if weights.endswith("safetensors"):  # which sorts its names
        with pytest.raises(CheckpointError, match=r"in the order of the parameters, which model.safetensors does not"):
            checkpoints.inspect(accelerated(tmp_path / "c", weights, custom))
        custom = AVERAGE.state_dict()
    folder = accelerated(tmp_path / "b", weights, custom)
    given.clear()
    assert "ema weights, of ema and raw" in checkpoints.factory("owner:build", folder, **told).notes
    same(given, EMA)
    checkpoints.factory("owner:build", folder, weights="raw", **told)
    same(given, RAW)


def test_what_a_folder_of_accelerate_s_lacks_is_said(tmp_path):
    folder = accelerated(tmp_path / "a", custom={"state": nn.Linear(2, 2)})
    with pytest.raises(CheckpointError, match=r"custom_checkpoint_0\.pkl, which may hold averages .* --weights raw"):
        checkpoints.inspect(folder)
    save_file(RAW, folder / "model_1.safetensors")
    with pytest.raises(CheckpointError, match=r"folder of 2 models: give the file of one"):
        checkpoints.inspect(folder)
    (folder / "model_1.safetensors").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"accelerate's without model\.safetensors .*save_model"):
        checkpoints.inspect(folder)
