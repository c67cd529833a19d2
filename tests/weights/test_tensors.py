"""Files of strangers: what is good is read, what is not is refused in one sentence, and no code runs."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lipdiag.errors import CheckpointError
from lipdiag.weights.tensors import fit, read_tensors, weights_dtype

GOOD = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def archive(content: object = None, **kwargs) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(GOOD if content is None else content, buffer, **kwargs)
    return buffer.getvalue()


def rewritten(change, compression=zipfile.ZIP_STORED) -> bytes:
    """The archive with its records changed: `change` maps (name without its folder, data) to a list of the same."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive())) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            top, _, rest = name.partition("/")
            for record, data in change(rest, old.read(name)):
                new.writestr(f"{top}/{record}", data)
    return buffer.getvalue()


def replaced(record: str, data: bytes):
    return rewritten(lambda name, old: [(name, data if name == record else old)])


def added(record: str, data: bytes):
    return rewritten(lambda name, old: [(name, old)] + ([(record, data)] if name == "version" else []))


def flipped() -> bytes:
    """The archive with one bit of the weights flipped, which torch itself does not notice."""
    data = bytearray(archive())
    place = data.find(struct.pack("<3f", 0, 1, 2))
    data[place + 5] ^= 64
    return bytes(data)


def nested(depth: int) -> dict:
    value: dict = {"x": 1}
    for _ in range(depth):
        value = {"x": value}
    return value


def stretched() -> bytes:
    """A tensor of shape (1000, 1000) with one number behind it."""
    return archive({"w": torch.ones(1).expand(1000, 1000)})


def sparse() -> bytes:
    return archive({"w": torch.eye(3).to_sparse()})


def header(text: str, extra: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + extra


BAD = {
    "missing": (None, "no file"),
    "empty": (lambda: b"", "0 bytes"),
    "text": (lambda: b"learning rate 0.1\n", "plain text"),
    "html": (lambda: b"\n<!DOCTYPE html><html>404</html>", "HTML"),
    "json": (lambda: b'{"a": 1}', "JSON"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "npy": (lambda: b"\x93NUMPY\x01\x00", "npy"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n", "HDF5"),
    "gzip": (lambda: b"\x1f\x8b\x08\x00", "gzip"),
    "tar": (lambda: b"\0" * 257 + b"ustar" + b"\0" * 200, "tar"),
    "random": (lambda: bytes(range(128, 256)) * 9, "neither"),
    "bare pickle": (lambda: pickle.dumps({"a": 1}, protocol=2), "bare pickle"),
    "legacy torch": (lambda: archive(_use_new_zipfile_serialization=False), "before version 1.6"),
    "truncated": (lambda: archive()[:-200], "cut short"),
    "half": (lambda: archive()[: len(archive()) // 2], "cut short"),
    "npz": (lambda: npz(), "'a.npy'"),
    "flipped bit": (flipped, "checksum"),
    "compressed": (lambda: rewritten(lambda n, d: [(n, d)], zipfile.ZIP_DEFLATED), "compressed"),
    "twice": (lambda: added("DATA.PKL", b"\x80\x02}."), "two records"),
    "two folders": (lambda: doubled(), "not one that torch.save"),
    "escaping name": (lambda: added("../../x", b""), "does not write"),
    "torchscript": (lambda: added("constants.pkl", b""), "TorchScript"),
    "big endian": (lambda: replaced("byteorder", b"big"), "big-endian"),
    "no storage": (lambda: rewritten(lambda n, d: [] if n == "data/0" else [(n, d)]), "torch"),
    "short storage": (lambda: replaced("data/0", b"\0" * 4), "torch"),
    "mangled pickle": (lambda: replaced("data.pkl", b"\x80\x02}q\x00(X"), "object table"),
    "stack global": (lambda: replaced("data.pkl", pickle.dumps(OrderedDict, protocol=4)), "STACK_GLOBAL"),
    "edm": (
        lambda: replaced("data.pkl", b"\x80\x02ctorch_utils.persistence\n_reconstruct_persistent_obj\n."),
        "EDM",
    ),
    "namespace": (lambda: archive({"args": __import__("fractions").Fraction(1, 2)}), "fractions.Fraction"),
    "whole module": (lambda: archive(nn.Linear(2, 2)), "torch.nn.modules.linear.Linear"),
    "numpy scalar": (lambda: archive({"loss": np.float64(1)}), "numpy"),
    "list": (lambda: archive([torch.ones(1)]), "list"),
    "tensor": (lambda: archive(torch.ones(1)), "Tensor"),
    "float key": (lambda: archive({1.5: torch.ones(1)}), "key of type float"),
    "nested": (lambda: archive(nested(20)), "deep"),
    "stretched": (stretched, "less memory"),
    "sparse": (sparse, "not only tensors"),
    "complex": (lambda: archive({"w": torch.ones(1, dtype=torch.complex64)}), "not only tensors|complex"),
    "safetensors cut": (lambda: safe()[:-4], "cut short"),
    "safetensors header": (lambda: header("{")[:9] + b"", "header|cut short"),
    "safetensors overlap": (
        lambda: header(
            json.dumps({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}), b"\0" * 4
        ),
        "damaged",
    ),
    "safetensors complex": (
        lambda: header(json.dumps({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}), b"\0" * 8),
        "complex64|damaged",
    ),
}


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(2))
    return buffer.getvalue()


def doubled() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for top in "ab":
            new.writestr(f"{top}/data.pkl", b"\x80\x02}.")
    return buffer.getvalue()


def safe() -> bytes:
    from safetensors.torch import save

    return save(GOOD)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_a_sentence_with_its_name_and_the_cause(tmp_path, name):
    make, word = BAD[name]
    path = tmp_path / "model.pt"
    if make is not None:
        path.write_bytes(make())
    with pytest.raises(CheckpointError, match=word) as refusal:
        read_tensors(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "weights_only=False" not in str(refusal.value)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_file_runs(tmp_path, protocol, zipped):
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    payload = pickle.dumps({"w": Trap(marker)}, protocol=protocol)
    pickle.loads(payload)
    assert marker.exists(), "the trap does not work, so this test shows nothing"
    marker.unlink()
    path.write_bytes(replaced("data.pkl", payload) if zipped else payload)
    with pytest.raises(CheckpointError):
        read_tensors(path)
    assert not marker.exists()


def test_a_damaged_archive_never_escapes_as_another_error(tmp_path):
    """300 files with some bytes overwritten: each is either refused, or read as tensors."""
    source, path = archive(), tmp_path / "model.pt"
    chance = np.random.default_rng(0)
    refusals = 0
    for _ in range(300):
        data = bytearray(source)
        for place in chance.integers(0, len(data), chance.integers(1, 4)):
            data[place] = chance.integers(0, 256)
        path.write_bytes(data)
        try:
            read_tensors(path)
        except CheckpointError:
            refusals += 1
    assert refusals > 50


def test_good_files_are_read_as_they_were_written(tmp_path):
    content = {
        "epoch": 3, "lr": 0.1, "name": "x", "none": None, "flag": True, "list": [1, (2, 3)],
        "optimizer": {0: {"step": torch.tensor(3)}}, "model": OrderedDict(GOOD),
        "parameter": nn.Parameter(torch.ones(2)), "view": torch.arange(10)[2:5], "bfloat": torch.ones(2).bfloat16(),
    }  # fmt: skip
    torch.save(content, tmp_path / "model.pt")
    read = read_tensors(tmp_path / "model.pt")
    assert {key: read[key] for key in ("epoch", "lr", "name", "none", "flag", "list")} == {
        "epoch": 3, "lr": 0.1, "name": "x", "none": None, "flag": True, "list": [1, [2, 3]]
    }  # fmt: skip
    for key in GOOD:
        assert torch.equal(read["model"][key], GOOD[key])
    assert torch.equal(read["view"], torch.tensor([2, 3, 4]))
    assert type(read["parameter"]) is torch.Tensor
    save_file(GOOD, tmp_path / "x.bin")
    assert {key: value.dtype for key, value in read_tensors(tmp_path / "x.bin").items()} == {
        key: value.dtype for key, value in GOOD.items()
    }


def test_weights_fit_with_a_wrappers_prefix_and_in_half_precision():
    for prefix in ("", "module.", "_orig_mod."):
        network = nn.Linear(3, 2)
        state = {f"{prefix}weight": torch.arange(6).reshape(2, 3).bfloat16(), f"{prefix}bias": torch.ones(2).half()}
        assert fit(network, state, "x.pt") == prefix
        assert torch.equal(network.weight, torch.arange(6.0).reshape(2, 3))
        assert weights_dtype(state) == "bfloat16 and float16"


def test_double_weights_stay_double():
    network = nn.Linear(3, 2)
    state = {name: tensor.double() + 1e-12 for name, tensor in network.state_dict().items()}
    fit(network, state, "x.pt")
    assert torch.equal(network.weight, state["weight"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"bias": None}, "lacks 'bias'"),
        ({"extra": torch.ones(1)}, "has 'extra'"),
        ({"bias": torch.ones(1)}, r"shape \(1,\) where the network needs \(2,\)"),
        ({"bias": torch.ones(2, dtype=torch.int32)}, "type torch.int32"),
        ({"bias": torch.tensor([1.0, torch.nan])}, "NaN"),
        ({"bias": torch.tensor([1.0, torch.inf])}, "infinity"),
    ],
)
def test_weights_that_do_not_fit_leave_the_network_alone(change, word):
    network = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(2)} | change
    with pytest.raises(CheckpointError, match=word):
        fit(network, {name: tensor for name, tensor in state.items() if tensor is not None}, "x.pt")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
