"""The machine that reads object tables: it makes what torch makes, in a number of steps that the file's size bounds."""

import argparse
import io
import struct
import time
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn

from lipdiag.errors import CheckpointError
from lipdiag.weights import pickled
from lipdiag.weights.pickled import Machine
from lipdiag.weights.tensors import read_tensors

REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def doubling(count: int) -> bytes:
    """A tuple of a tuple twice, and so on: its hash and its text take 2^count steps."""
    return b")q\x00" + b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(count))


def made(data: bytes, storage: bytes = struct.pack("<4f", 0, 1, 2, 3)):
    return Machine(data, lambda key: torch.frombuffer(bytearray(storage), dtype=torch.uint8), "x.pt").run()


def stored(count: int = 4, kind: bytes = b"Float") -> bytes:
    return b"(U\x07storagectorch\n" + kind + b"Storage\nU\x010U\x03cpuK" + bytes([count]) + b"tQ"


def tensor(shape: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    return b"\x80\x02" + REBUILD + b"(" + stored() + offset + shape + stride + b"\x89}tR."


@pytest.mark.parametrize(
    "data",
    [
        b"}" + doubling(60) + b"K\x01s.",
        b"}(" + doubling(60) + b"K\x01u.",
        b"(U\x07storagectorch\nFloatStorage\n" + doubling(60) + b"U\x03cpuK\x04tQ.",
        b"(" + doubling(60) + b"ctorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ.",
        doubling(60) + b"Q.",
        doubling(30) + b")R.",
        b"ccollections\nOrderedDict\n" + doubling(60) + b"R.",
        REBUILD + b"(" + stored() + b"K\x00" + doubling(60) + b"h\x3c\x89}tR.",
        doubling(60) + b"K\x00s.",
    ],
    ids=["key", "keys", "storage", "kind", "whole", "function", "arguments", "shape", "container"],
)
def test_tuples_of_tuples_cost_no_time_as_keys_or_in_errors(data):
    began = time.process_time()
    with pytest.raises(CheckpointError) as refusal:
        made(b"\x80\x02" + data)
    assert time.process_time() - began < 1
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("key", [b"\x8a\x0b" + (2**61 - 1).to_bytes(11, "little"), b"\x88", b"N", b"G" + b"\0" * 8])
def test_keys_are_texts_and_small_integers(key):
    assert made(b"\x80\x02}(U\x01aNK\x01Nu.") == {"a": None, 1: None}
    with pytest.raises(CheckpointError, match="key of type"):
        made(b"\x80\x02}" + key + b"Ns.")


def test_opcodes_and_tensors_are_counted(monkeypatch):
    monkeypatch.setattr(pickled, "MOST_OPCODES", 100)
    monkeypatch.setattr(pickled, "MOST_TENSORS", 5)
    assert made(b"\x80\x02](" + b"]" * 95 + b"e.") == [[]] * 95
    with pytest.raises(CheckpointError, match="100 entries"):
        made(b"\x80\x02](" + b"]" * 96 + b"e.")
    monkeypatch.setattr(pickled, "MOST_OPCODES", 1000)
    one = tensor(b"K\x02\x85", b"K\x01\x85").removeprefix(b"\x80\x02").removesuffix(b".")
    assert len(made(b"\x80\x02](" + one * 5 + b"e.")) == 5
    with pytest.raises(CheckpointError, match="5 tensors"):
        made(b"\x80\x02](" + one * 6 + b"e.")


def test_a_tensor_lies_inside_its_storage_or_is_refused_as_beyond():
    inside = made(tensor(b"K\x02K\x02\x86", b"K\x01K\x02\x86"))
    assert torch.equal(inside, torch.tensor([[0.0, 2.0], [1.0, 3.0]]))
    assert made(tensor(b"K\x00\x85", b"K\x01\x85")).shape == (0,)
    beyond = {
        "shape": (b"K\x05\x85", b"K\x01\x85", b"K\x00"),
        "stride": (b"K\x02\x85", b"K\x04\x85", b"K\x00"),
        "offset": (b"K\x04\x85", b"K\x01\x85", b"K\x01"),
        "far": (b"K\x02\x85", b"\x8a\x08" + b"\xff" * 7 + b"\x1f\x85", b"K\x00"),
        "negative offset": (b"K\x01\x85", b"K\x01\x85", b"J\xff\xff\xff\xff"),
        "negative stride": (b"K\x02\x85", b"J\xff\xff\xff\xff\x85", b"K\x01"),
        "a flag": (b"\x88\x85", b"K\x01\x85", b"K\x00"),
    }
    for name, (shape, stride, offset) in beyond.items():
        with pytest.raises(CheckpointError, match="less memory" if name in list(beyond)[:4] else "whole numbers"):
            pytest.fail(f"{name}: {made(tensor(shape, stride, offset))}")


@pytest.mark.parametrize("count", [3, 5])
def test_a_storage_has_the_numbers_that_its_name_tells(count):
    with pytest.raises(CheckpointError, match=f"16 bytes .* {count} numbers of torch.float32"):
        made(b"\x80\x02" + stored(count) + b".")


def test_halves_of_surrogate_pairs_are_no_text():
    assert made(b"\x80\x02X\x04\0\0\0\xf0\x9f\x98\x80.") == "\U0001f600"
    with pytest.raises(CheckpointError, match="surrogates not allowed"):
        made(b"\x80\x02X\x03\0\0\0\xed\xa0\x80.")


@pytest.mark.parametrize(
    ("dtype", "word"),
    [
        (torch.complex64, "complex64.*view_as_real"),
        (torch.complex128, "complex128"),
        (torch.float8_e4m3fn, "float8_e4m3fn.*rounded"),
        (torch.float8_e5m2, "float8_e5m2"),
        (torch.uint16, "uint16.*not supported"),
    ],
)
@pytest.mark.parametrize("safe", [False, True])
def test_weights_of_other_types_are_refused_by_their_type(tmp_path, dtype, word, safe):
    from safetensors.torch import save_file

    if safe and dtype == torch.complex128:
        pytest.skip("safetensors has no such type")
    write = save_file if safe else torch.save
    write({"w": torch.zeros(4, dtype=dtype)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=word) as refusal:
        read_tensors(tmp_path / "x.pt")
    assert "Python object" not in str(refusal.value)


def test_conjugated_weights_are_no_plain_tensors(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(4, dtype=torch.complex64).conj().imag}, buffer)  # a float32 that is negated when read
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "x.pt")


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.register_buffer("steps", torch.tensor(7))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 3")
@pytest.mark.parametrize("protocol", [2, 3])
def test_what_torch_saves_is_what_torch_loads(tmp_path, protocol):
    network = Same()
    optimizer = torch.optim.Adam(network.parameters())
    network.a(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(1.5),
        "kinds": [torch.arange(5).to(kind) for kind in (torch.bool, torch.int8, torch.uint8, torch.int16, torch.half)],
        "ordered": OrderedDict([("x", 1), ("y", (1, -(2**40), None))]),
        "text": "Gauß \U0001f600",
        "": {0: {}, 5: []},
    }
    path = tmp_path / "x.pt"
    torch.save(content, path, pickle_protocol=protocol)
    compare(read_tensors(path), torch.load(path, weights_only=True))


def compare(found, expected):
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            compare(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            compare(one, other)
    else:
        assert found == expected
        assert type(found) is type(expected)


def test_a_bystanders_facts_are_kept_and_its_keys_dropped(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"args": argparse.Namespace(lr=0.1, size=64), argparse.Namespace: 1, "w": torch.ones(1)}, path)
    assert read_tensors(path) | {"w": 0} == {"args": {"lr": 0.1, "size": 64}, "w": 0}


def test_tied_weights_share_their_memory_and_are_read_once(tmp_path):
    torch.save(Same().state_dict(), tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert len([name for name in archive.namelist() if "/data/" in name and "serial" not in name]) == 4
    found = read_tensors(tmp_path / "x.pt")
    assert found["a.weight"].data_ptr() == found["b.weight"].data_ptr()
