"""Bad files, made offline: `python -m tests.safety.corpus FOLDER` reads them all under guard, a line of JSON each.

Each is a name, the reader it is given to, what makes it, and what must come of it: `no`, a refusal of the reader's
kind; `yes`, it is read; `any`, either, since it is odd but harmless. None may run, hang, or take more memory than
`guard` allows.
"""

import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import torch

from tests.safety import guard
from tests.safety.fuzzing import verdict
from tests.safety.readers import READERS, archive


class Bad(NamedTuple):
    name: str
    reader: str
    make: Callable[[Path], Any]
    outcome: str = "no"


def written(data: bytes | Callable[[], bytes]) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(data if isinstance(data, bytes) else data())


# Places ---------------------------------------------------------------------------------------------------------------


def looped(path: Path) -> None:
    path.symlink_to(path)


def bound(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path)[:100])
    server.close()


PLACES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link loop": looped,
    "pipe": os.mkfifo,
    "socket": bound,
    "null device": lambda path: path.symlink_to("/dev/null"),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "empty": lambda path: path.touch(),
    "folder": lambda path: path.mkdir(),
}

# Other things ---------------------------------------------------------------------------------------------------------

STRANGERS: dict[str, bytes] = {
    "text": b"learning rate 0.1\n",
    "html": b"<!DOCTYPE html><html>404</html>",
    "json": b'{"a": 1}',
    "yaml": b"!!python/object/apply:os.system ['true']\n",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "one byte": b"\0",
    "zeros": b"\0" * 4096,
    "ones": b"\xff" * 4096,
    "random": np.random.default_rng(0).bytes(4096),
    "gzip": b"\x1f\x8b\x08\x00" + b"\0" * 99,
    "bzip2": b"BZh91AY&SY" + b"\0" * 99,
    "xz": b"\xfd7zXZ\x00" + b"\0" * 99,
    "zstd": b"\x28\xb5\x2f\xfd" + b"\0" * 99,
    "rar": b"Rar!\x1a\x07\x01\x00",
    "7z": b"7z\xbc\xaf\x27\x1c",
    "tar": b"\0" * 257 + b"ustar" + b"\0" * 250,
    "hdf5": b"\x89HDF\r\n\x1a\n" + b"\0" * 99,
    "elf": b"\x7fELF" + b"\0" * 99,
    "script": b"#!/bin/sh\ntouch ran\n",
    "pdf": b"%PDF-1.7\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
    "sqlite": b"SQLite format 3\0" + b"\0" * 99,
    "parquet": b"PAR1" + b"\0" * 99 + b"PAR1",
    "empty zip": b"PK\x05\x06" + b"\0" * 18,
    "png head": b"\x89PNG\r\n\x1a\n",
    "npy head": b"\x93NUMPY\x01\x00",
}

# Pickles --------------------------------------------------------------------------------------------------------------

CALLS = (
    "os system", "posix system", "nt system", "os popen", "os execv", "os _exit", "os remove", "builtins eval",
    "builtins exec", "builtins compile", "builtins getattr", "builtins setattr", "builtins __import__", "builtins open",
    "builtins bytearray", "builtins type", "__builtin__ eval", "subprocess Popen", "subprocess check_output",
    "functools partial", "functools reduce", "operator attrgetter", "operator methodcaller", "itertools starmap",
    "torch load", "torch.hub load", "torch.serialization load", "torch.jit load", "torch FloatTensor",
    "torch.nn.modules.linear Linear", "torch.utils.data.dataloader DataLoader", "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_device_tensor_from_numpy", "torch.storage _load_from_bytes", "numpy.core.multiarray scalar",
    "numpy._core.multiarray _reconstruct", "numpy load", "argparse Namespace", "pathlib PosixPath",
    "collections defaultdict", "collections Counter", "datetime datetime", "codecs encode", "_codecs encode",
    "pickle loads", "_pickle loads", "marshal loads", "shelve open", "runpy run_path", "runpy run_module",
    "importlib import_module", "types FunctionType", "types CodeType", "inspect getattr_static", "io open",
    "shutil rmtree", "socket socket", "webbrowser open", "ctypes CDLL", "sys exit", "pdb run", "timeit timeit",
    "code interact", "pydoc pipepager", "asyncio run", "multiprocessing.util spawnv_passfds",
    "ssl get_server_certificate",
    "urllib.request urlopen", "http.client HTTPConnection", "torch_utils.persistence _reconstruct_persistent_obj",
    "omegaconf.dictconfig DictConfig", "pytorch_lightning.callbacks ModelCheckpoint", "transformers AutoModel",
    "lipdiag.study.measure measure",
)  # fmt: skip


def called(name: str) -> bytes:
    """A pickle that calls a function with the name of a file."""
    module, function = name.split()
    return f"\x80\x02c{module}\n{function}\n".encode() + b"U\x03ran\x85R."


def stacked(name: str) -> bytes:
    texts = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in name.split())
    return b"\x80\x04" + texts + b"\x93\x8c\x03ran\x85R."


def repacked(change: Callable[[str, bytes], list[tuple[str, bytes]]], how: int = zipfile.ZIP_STORED) -> bytes:
    """torch.save's archive with its records changed: (name without its folder, data) -> the same."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive())) as old, zipfile.ZipFile(buffer, "w", how) as new:
        for name in old.namelist():
            top, _, rest = name.partition("/")
            for record, data in change(rest, old.read(name)):
                new.writestr(record[1:] if record.startswith("^") else f"{top}/{record}", data)
    return buffer.getvalue()


def replaced(record: str, data: bytes) -> Callable[[], bytes]:
    return lambda: repacked(lambda name, old: [(name, data if name == record else old)])


def added(record: str, data: bytes = b"") -> Callable[[], bytes]:
    return lambda: repacked(lambda name, old: [(name, old)] + ([(record, data)] if name == "version" else []))


def dropped(record: str) -> Callable[[], bytes]:
    return lambda: repacked(lambda name, old: [] if name == record else [(name, old)])


def tensor(storage="FloatStorage", numel=4, offset=0, size=(2, 2), stride=(2, 1), place="cpu", key="0") -> bytes:
    """A pickle of one tensor over the archive's first storage, with whatever it claims."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", getattr(torch, storage), key, place, numel) if value is Writer else None

        def reducer_override(self, value):
            if value is Writer.claim:
                return torch._utils._rebuild_tensor_v2, (Writer, offset, size, stride, False, OrderedDict())
            return NotImplemented

    class Claim:
        pass

    Writer.claim = Claim()
    buffer = io.BytesIO()
    Writer(buffer, 2).dump({"w": Writer.claim})
    return buffer.getvalue()


def laughs() -> bytes:
    """Lists of lists of the same list: few bytes, 30^7 items when they are walked."""
    return (
        b"\x80\x02}U\x01a]q\x00"
        + b"".join(b"](" + b"h" + bytes([i]) * 1 + (b"h" + bytes([i])) * 29 + b"eq" + bytes([i + 1]) for i in range(7))
        + b"s."
    )


PICKLES: dict[str, bytes] = {
    "no end": b"\x80\x02}",
    "unknown opcode": b"\x80\x02\xff.",
    "newer protocol": b"\x80\x63}.",
    "INST": b"(U\x03ranios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nU\x03rano.",
    "EXT1": b"\x80\x02\x82\x01.",
    "reduce of a text": b"\x80\x02U\x01aU\x01b\x85R.",
    "set item on a list": b"\x80\x02]U\x01aK\x01s.",
    "append to a dict": b"\x80\x02}K\x01a.",
    "pop of nothing": b"\x80\x020.",
    "get of nothing": b"\x80\x02h\x63.",
    "huge text": b"\x80\x02X\xff\xff\xff\x7fa.",
    "huge bytes": b"\x80\x04\x8e" + b"\xff" * 8 + b"a.",
    "huge integer": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "huge frame": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
    "big integer": b"\x80\x02}U\x01a\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000 + b"s.",
    "deep tuples": b"\x80\x02}U\x01aN" + b"\x85" * 200_000 + b"s.",
    "deep lists": b"\x80\x02}U\x01a" + b"]" * 50_000 + b"a" * 49_999 + b"s.",
    "itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "billion laughs": laughs(),
    "a million marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
    "a text": pickle.dumps("text", 2),
    "a number": pickle.dumps(5, 2),
    "none": pickle.dumps(None, 2),
    "a list": pickle.dumps([1], 2),
    "a set": pickle.dumps({"a": {1}}, 4),
    "bytes": pickle.dumps({"a": b"x"}, 4),
    "text of protocol 0": b"\x80\x02}V\\u0394\nK\x01s.",
    "a complex number": pickle.dumps({"a": 1j}, 2),
    "number keys": pickle.dumps({1.5: 1}, 2),
    "tuple keys": pickle.dumps({(1, 2): 1}, 2),
    "none keys": pickle.dumps({None: 1}, 2),
    "true keys": pickle.dumps({True: 1}, 2),
    "non-UTF-8 text": b"\x80\x02}X\x02\0\0\0\xff\xfeK\x01s.",
    "surrogate key": pickle.dumps({"\ud800": 1}, 2),
    "state on a dict": b"\x80\x02ccollections\nOrderedDict\n)R}U\x05itemsU\x01xsb.",
    "unknown storage": tensor(key="77"),
    "storage with a path": tensor(key="../../x"),
    "storage larger than it is": tensor(numel=10**6),
    "storage of 2^62": tensor(numel=2**62),
    "storage of -1": tensor(numel=-1),
    "shape beyond storage": tensor(size=(100, 100), stride=(100, 1)),
    "shape that overflows": tensor(size=(2**40, 2**40), stride=(1, 1)),
    "negative shape": tensor(size=(-1, 2)),
    "negative stride": tensor(stride=(-1, 1)),
    "negative offset": tensor(offset=-8),
    "offset beyond": tensor(offset=10**9),
    "stride 0": tensor(size=(10**6, 10**6), stride=(0, 0)),
    "stride 0, small": tensor(size=(100, 100), stride=(0, 0)),
    "a thousand dimensions": tensor(size=(1,) * 1000, stride=(1,) * 1000),
    "texts as shape": tensor(size=("a", "b")),
    "other type": tensor(storage="DoubleStorage"),
    "complex type": tensor(storage="ComplexFloatStorage"),
    "quantized type": tensor(storage="QInt8Storage"),
    "unknown place": tensor(place="moon:3"),
    "no place": tensor(place=""),
}


def doubling(count: int) -> bytes:
    """A tuple of a tuple twice, and so on: its hash, and its text, take 2^count steps."""
    return b")q\x00" + b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(count))


PICKLES |= {
    "doubling key": b"\x80\x02}" + doubling(60) + b"K\x01s.",
    "doubling keys": b"\x80\x02}(" + doubling(60) + b"K\x01u.",
    "doubling key of a storage": (
        b"\x80\x02}U\x01a(U\x07storagectorch\nFloatStorage\n" + doubling(60) + b"U\x03cpuK\x04tQs."
    ),
    "doubling storage": b"\x80\x02}U\x01a" + doubling(60) + b"Qs.",
    "doubling call": b"\x80\x02}U\x01a" + doubling(30) + b")Rs.",
    "doubling arguments": b"\x80\x02}U\x01accollections\nOrderedDict\n" + doubling(60) + b"Rs.",
    "doubling shape": b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor_v2\n(NK\x00" + doubling(60) + b"h\x01NNtRs.",
    "doubling value": b"\x80\x02}U\x01a" + doubling(60) + b"s.",
    "doubling state": b"\x80\x02}" + doubling(60) + b"b.",
    "doubling file": b"\x80\x02" + doubling(60) + b".",
    "8 million lists": b"\x80\x02}U\x01a](" + b"]" * 8_000_000 + b"es.",
    "a million lists": b"\x80\x02}U\x01a](" + b"]" * 990_000 + b"es.",
    "8 million Nones": b"\x80\x02}U\x01a](" + b"N" * 8_000_000 + b"es.",
    "dictionaries": b"\x80\x02}U\x01a](ccollections\nOrderedDict\nq\x00" + b"h\x00)R" * 4_000_000 + b"es.",
    "colliding keys": b"\x80\x02}(" + b"".join(
        b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(1, 300_000)
    ) + b"u.",
    "a surrogate": b"\x80\x02}X\x03\0\0\0\xed\xa0\x80K\x01s.",
}  # fmt: skip
HARMLESS = {
    "number keys": "no", "storage on cuda": "any", "offset 0": "yes", "unknown place": "any", "no place": "any",
    "other type": "any", "state on a dict": "any", "a text": "no", "true keys": "no", "surrogate key": "any",
    "big integer": "any", "newer protocol": "any", "billion laughs": "any", "itself": "any", "stride 0, small": "no",
    "doubling state": "any",
}  # fmt: skip


def saved(content: Any) -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path.write_bytes(archive(content()))

    return make


CONTENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse COO": (lambda: {"w": torch.eye(3).to_sparse()}, "no"),
    "sparse CSR": (lambda: {"w": torch.eye(3).to_sparse_csr()}, "no"),
    "quantized": (lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "no"),
    "meta": (lambda: {"w": torch.empty(2, device="meta")}, "no"),
    "complex": (lambda: {"w": torch.ones(1, dtype=torch.complex64)}, "no"),
    "conjugated": (lambda: {"w": torch.ones(1, dtype=torch.complex64).conj()}, "no"),
    "float8": (lambda: {"w": torch.ones(1).to(torch.float8_e4m3fn)}, "no"),
    "nested tensor": (lambda: {"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, "no"),
    "expanded": (lambda: {"w": torch.ones(1).expand(1000, 1000)}, "no"),
    "bare tensor": (lambda: torch.ones(2), "no"),
    "list of tensors": (lambda: [torch.ones(2)], "no"),
    "whole module": (lambda: torch.nn.Linear(2, 2), "no"),
    "optimizer": (lambda: torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict(), "yes"),
    "numpy number": (lambda: {"w": np.float64(1)}, "no"),
    "numpy array": (lambda: {"w": np.ones(2)}, "no"),
    "numpy random state": (lambda: {"w": np.random.default_rng(0)}, "no"),
    "path": (lambda: {"w": Path("x")}, "no"),
    "NaN": (lambda: {"w": torch.tensor([torch.nan])}, "yes"),
    "half": (lambda: {"w": torch.ones(2).half()}, "yes"),
    "bool": (lambda: {"w": torch.ones(2).bool()}, "yes"),
    "parameter": (lambda: {"w": torch.nn.Parameter(torch.ones(2))}, "yes"),
    "view": (lambda: {"w": torch.arange(10)[2:5]}, "yes"),
    "transposed": (lambda: {"w": torch.ones(2, 3).T}, "yes"),
    "shared": (lambda: dict.fromkeys("ab", torch.ones(2)), "yes"),
    "empty dictionary": (dict, "any"),
    "20 deep": (lambda: __import__("functools").reduce(lambda value, _: {"x": value}, range(20), {}), "no"),
    "control characters": (lambda: {"\x1b[31m\n": object}, "no"),
}


# Archives -------------------------------------------------------------------------------------------------------------


def flipped(place: Callable[[bytes], int]) -> Callable[[], bytes]:
    def make() -> bytes:
        data = bytearray(archive())
        data[place(bytes(data))] ^= 64
        return bytes(data)

    return make


def zipped(records: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", how) as new:
        warnings.simplefilter("ignore")
        for name, data in records.items():
            new.writestr(name, data)
    return buffer.getvalue()


def named(key: bytes) -> dict[str, bytes]:
    """The records of a checkpoint with a number by that name."""
    return {"a/data.pkl": b"\x80\x02}U" + bytes([len(key)]) + key + b"K\x01s.", "a/version": b"3"}


def crowded(count: int) -> bytes:
    """A table of contents of so many records without a name."""
    first, table = b"PK\x03\x04" + b"\0" * 26, (b"PK\x01\x02" + b"\0" * 42) * count
    return first + table + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2**16 - 1, 2**16 - 1, len(table), len(first), 0)


def bomb(path: Path) -> None:
    """256 MiB of zeros in 300 kB, which say that they are 2 GiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        new.writestr("a/data.pkl", tensor(numel=2**29, size=(2**29,), stride=(1,)))
        new.writestr("a/version", b"3")
        with new.open("a/data/0", "w", force_zip64=True) as record:
            for _ in range(16):
                record.write(b"\0" * 2**24)


def lying(offset: int, value: int) -> Callable[[], bytes]:
    """A size in the archive's table of contents changed."""

    def make() -> bytes:
        data = bytearray(archive())
        entry = data.find(b"PK\x01\x02")
        data[entry + offset : entry + offset + 4] = struct.pack("<I", value)
        return bytes(data)

    return make


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    **{f"cut at {p}/100": (lambda p=p: archive()[: len(archive()) * p // 100], "no") for p in (1, 30, 60, 90, 99)},
    "junk before": (lambda: b"#!/bin/sh\n" + archive(), "no"),
    "junk after": (lambda: archive() + b"junk", "any"),
    "flipped weight": (flipped(lambda data: data.find(struct.pack("<3f", 0, 1, 2)) + 5), "no"),
    "flipped pickle": (flipped(lambda data: data.find(b"FloatStorage") + 2), "no"),
    "flipped table": (flipped(lambda data: data.find(b"PK\x01\x02") + 20), "no"),
    "deflated": (lambda: repacked(lambda name, data: [(name, data)], zipfile.ZIP_DEFLATED), "no"),
    "bzipped": (lambda: repacked(lambda name, data: [(name, data)], zipfile.ZIP_BZIP2), "no"),
    "lzma": (lambda: repacked(lambda name, data: [(name, data)], zipfile.ZIP_LZMA), "no"),
    "other case twice": (added("DATA.PKL", b"\x80\x02}."), "no"),
    "escaping name": (added("../../x"), "no"),
    "absolute name": (added("^/etc/x"), "no"),
    "name with a zero": (added("x\0y"), "no"),
    "long name": (added("x" * 60_000), "no"),
    "second folder": (added("^b/data.pkl", b"\x80\x02}."), "no"),
    "TorchScript": (added("constants.pkl"), "no"),
    "code": (added("code/x.py", b"import os"), "no"),
    "big endian": (replaced("byteorder", b"big"), "no"),
    "no pickle": (dropped("data.pkl"), "no"),
    "no version": (dropped("version"), "no"),
    "no storage": (dropped("data/0"), "no"),
    "version 99": (replaced("version", b"99"), "no"),
    "version text": (replaced("version", b"x"), "no"),
    "short storage": (replaced("data/0", b"\0" * 4), "no"),
    "long storage": (replaced("data/0", b"\0" * 4000), "no"),
    "a docx": (lambda: zipped({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"}), "no"),
    "a jar": (lambda: zipped({"META-INF/MANIFEST.MF": b"x", "Main.class": b"\xca\xfe\xba\xbe"}), "no"),
    "an archive in an archive": (lambda: zipped({"a/data.pkl": archive(), "a/version": b"3"}), "no"),
    "many records": (
        lambda: zipped({"a/data.pkl": b"\x80\x02}."} | {f"a/data/{i}": b"" for i in range(40_000)}),
        "any",
    ),
    "a large pickle": (lambda: zipped({"a/data.pkl": b"\0" * (65 * 2**20), "a/version": b"3"}), "no"),
    "a lie about size": (lying(24, 2**31), "no"),
    "a lie about packed size": (lying(20, 2**31), "no"),
    "a lie about place": (lying(42, 2**31), "no"),
    "encrypted": (lying(8, 1), "no"),
    "two tables": (lambda: zipped(named(b"x"))[:-22] + zipped(named(b"y")), "no"),
    "two tables of torch's": (lambda: archive({"w": torch.zeros(4)}) + archive({"w": torch.ones(4)}), "no"),
    "400 000 entries": (lambda: crowded(400_000), "no"),
    "200 000 records": (lambda: zipped(named(b"x") | {f"a/data/{i}": b"" for i in range(200_000)}), "no"),
}  # fmt: skip


# safetensors ----------------------------------------------------------------------------------------------------------


def safe(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


SAFETENSORS: dict[str, tuple[Callable[[], bytes], str]] = {
    "length only": (lambda: struct.pack("<Q", 5), "no"),
    "header of 2^63": (lambda: safe({"a": entry()}, b"\0" * 4, 2**63), "no"),
    "header of 90 MB": (lambda: safe({"a": entry()}, b"\0" * 4, 90_000_000), "no"),
    "header of 0": (lambda: safe(b"{", b"", 0), "no"),
    "no JSON": (lambda: safe(b"{xxxxxxx", b"\0" * 4), "no"),
    "not UTF-8": (lambda: safe(b'{"\xff\xfe": 1}', b"\0" * 4), "no"),
    "a list": (lambda: safe(b"[1,2]", b"\0" * 4), "no"),
    "deep": (lambda: safe(b'{"a":' * 20_000, b""), "no"),
    "a key twice": (lambda: safe(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 4), "any"),
    "overlap": (lambda: safe({"a": entry(), "b": entry()}, b"\0" * 4), "no"),
    "hole": (lambda: safe({"a": entry(), "b": entry(offsets=(8, 12))}, b"\0" * 12), "no"),
    "beyond the end": (lambda: safe({"a": entry(shape=(100,), offsets=(0, 400))}, b"\0" * 4), "no"),
    "backwards": (lambda: safe({"a": entry(offsets=(4, 0))}, b"\0" * 4), "no"),
    "negative offset": (lambda: safe({"a": entry(offsets=(-4, 0))}, b"\0" * 4), "no"),
    "negative shape": (lambda: safe({"a": entry(shape=(-1,))}, b"\0" * 4), "no"),
    "shape of another size": (lambda: safe({"a": entry(shape=(3,))}, b"\0" * 4), "no"),
    "shape that overflows": (lambda: safe({"a": entry(shape=(2**62, 2**62))}, b"\0" * 4), "no"),
    "fractions as offsets": (lambda: safe({"a": entry(offsets=(0.0, 4.0))}, b"\0" * 4), "no"),
    "texts as shape": (lambda: safe({"a": entry(shape=("1",))}, b"\0" * 4), "no"),
    "unknown type": (lambda: safe({"a": entry("F33")}, b"\0" * 4), "no"),
    "escaped names": (
        lambda: safe(
            b"{%s}"
            % b",".join(rb'"%d":{"dtype":"F32","shape":[0],"data\u005foffsets":[0,0]}' % i for i in range(300_000))
        ),
        "no",
    ),
    "complex": (lambda: safe({"a": entry("C64", offsets=(0, 8))}, b"\0" * 8), "no"),
    "float8": (lambda: safe({"a": entry("F8_E4M3", offsets=(0, 1))}, b"\0"), "no"),
    "4 bits": (lambda: safe({"a": entry("F4", shape=(2,), offsets=(0, 1))}, b"\0"), "no"),
    "bytes after": (lambda: safe({"a": entry()}, b"\0" * 9), "no"),
    "no bytes": (lambda: safe({"a": entry()}), "no"),
    "no fields": (lambda: safe({"a": {}}), "no"),
    "more fields": (lambda: safe({"a": entry() | {"run": "x"}}, b"\0" * 4), "any"),
    "200 000 tensors": (lambda: safe({f"a{i}": entry(shape=(0,), offsets=(0, 0)) for i in range(200_000)}), "no"),
    "metadata list": (lambda: safe({"__metadata__": [1], "a": entry()}, b"\0" * 4), "no"),
    "metadata number": (lambda: safe({"__metadata__": {"a": 1}, "a": entry()}, b"\0" * 4), "no"),
    "metadata alone": (lambda: safe({"__metadata__": {"a": "b"}}), "any"),
    "nothing": (lambda: safe({}), "any"),
    "empty name": (lambda: safe({"": entry()}, b"\0" * 4), "any"),
    "escape in a name": (lambda: safe({"\x1b[2J\n": entry("C64", offsets=(0, 8))}, b"\0" * 8), "no"),
    "thousand dimensions": (lambda: safe({"a": entry(shape=(1,) * 1000)}, b"\0" * 4), "any"),
    "bool of 7": (lambda: safe({"a": entry("BOOL", offsets=(0, 1))}, b"\7"), "any"),
}

# JSON -----------------------------------------------------------------------------------------------------------------

TEXTS: dict[str, bytes] = {
    "NaN": b'{"a": NaN}', "infinity": b'{"a": -Infinity}', "too large": b'{"a": 1e999}', "a list": b"[1]",
    "a text": b'"x"', "a number": b"7", "a key twice": b'{"a": 1, "b": {"c": 1, "c": 2}}', "cut": b'{"a": ',
    "UTF-16": '{"a": 1}'.encode("utf-16"), "not UTF-8": b'{"\xff": 1}', "deep": b'{"a":' * 100_000,
    "comment": b"{} // x",
    "deep lists": b'{"a": ' + b"[" * 100_000, "long number": b'{"a": ' + b"9" * 5000 + b"}", "large": b" " * 1_000_001,
    "two": b"{}{}", "python": b"{'a': True}", "zero byte": b'{"a": "\0"}', "yaml": b"a: !!python/name:os.system",
}  # fmt: skip


def own(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A folder of lipdiag's with its config changed."""

    def make(path: Path) -> None:
        READERS["own"].make(path)
        config = json.loads((path / "config.json").read_text())
        changed = change(config)
        (path / "config.json").write_text(json.dumps(config if changed is None else changed))

    return make


def setting(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = to

    return change


CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "empty": lambda config: {},
    "newer": setting("format_version", to=99),
    "version true": setting("format_version", to=True),
    "another class": setting("network", "class", to="os.system"),
    "dotted class": setting("network", "class", to="diffusers.UNet2DModel"),
    "class of a list": setting("network", "class", to=["UNet2DModel"]),
    "unknown argument": setting("network", "config", "__class__", to="x"),
    "argument of another type": setting("network", "config", "in_channels", to="many"),
    "a billion layers": setting("network", "config", "layers_per_block", to=10**9),
    "wide layers": setting("network", "config", "block_out_channels", to=[10_000]),
    "a billion channels": setting("network", "config", "block_out_channels", to=[2_000_000]),
    "negative channels": setting("network", "config", "in_channels", to=-1),
    "network is a text": setting("network", to="UNet2DModel"),
    "schedule runs": setting("schedule", to="__import__('os').system('touch ran')"),
    "schedule of attributes": setting("schedule", to="linear.__globals__"),
    "schedule unknown": setting("schedule", to="bent(3)"),
    "schedule deep": setting("schedule", to="(" * 5000),
    "schedule of many": setting("schedule", to="linear(0.0001, 0.02, 1000000000000)"),
    "schedule of none": setting("schedule", to="linear(0.0001, 0.02, 0)"),
    "schedule of NaN": setting("schedule", to="linear(1e999, 0.02, 1000)"),
    "schedule a number": setting("schedule", to=3),
    "clock lambda": setting("clock", to="lambda: 0"),
    "clock negative": setting("clock", to="timesteps(-5)"),
    "clock power": setting("clock", to="timesteps(9**9**9)"),
    "parameterization runs": setting("parameterization", to="eval('1')"),
    "shape negative": setting("shape", to=[1, -4, 4]),
    "shape empty": setting("shape", to=[]),
    "shape text": setting("shape", to="1,4,4"),
    "shape true": setting("shape", to=[True, 4, 4]),
    "files elsewhere": setting("files", to={"../../etc/passwd": "0"}),
    "files wrong": setting("files", "model.safetensors", to="0" * 64),
    "unknown key": setting("__reduce__", to="x"),
    "data a list": setting("data", to=["x"]),
    "weights unknown": setting("weights", to="both"),
}

# Runs -----------------------------------------------------------------------------------------------------------------


def changed(reader: str, change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A good folder, changed."""

    def make(path: Path) -> None:
        READERS[reader].make(path)
        change(path)

    return make


def zarr_json(name: str, change: Callable[[dict[str, Any]], Any], consolidated: bool = True) -> Callable[[Path], None]:
    """The metadata of an array changed, in its own file or in the copy that is read first."""

    def make(path: Path) -> None:
        file = path / "zarr.json" if consolidated else path / name / "zarr.json"
        root = json.loads(file.read_text())
        change(root["consolidated_metadata"]["metadata"][name] if consolidated else root)
        file.write_text(json.dumps(root))

    return make


def root_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        root = json.loads((path / "zarr.json").read_text())
        change(root)
        (path / "zarr.json").write_text(json.dumps(root))

    return make


def version_2(array: dict[str, Any]) -> None:
    """zarr's older layout, whose filters unpickle."""
    array.clear()
    array |= {
        "zarr_format": 2, "shape": [2, 4], "chunks": [2, 4], "dtype": "|O", "compressor": None, "fill_value": None,
        "order": "C", "filters": [{"id": "pickle"}], "attributes": {}, "dimension_separator": ".",
    }  # fmt: skip


def swapped(file: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A file of a run replaced by something else."""

    def change(path: Path) -> None:
        (path / file).unlink()
        make(path / file)

    return change


CODEC = {"name": "bytes", "configuration": {"endian": "little"}}
ARRAYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "pickle filter": version_2,
    "gzip codec": setting("codecs", to=[CODEC, {"name": "gzip", "configuration": {"level": 1}}]),
    "no checksum": setting("codecs", to=[CODEC]),
    "unknown codec": setting("codecs", to=[CODEC, {"name": "os.system", "configuration": {}}]),
    "pickle codec": setting("codecs", to=[{"name": "numcodecs.pickle", "configuration": {}}]),
    "no codecs": setting("codecs", to=[]),
    "objects": setting("data_type", to="object"),
    "texts": setting("data_type", to="string"),
    "huge shape": setting("shape", to=[10**6, 10**6]),
    "shape that overflows": setting("shape", to=[2**62, 2**62]),
    "negative shape": setting("shape", to=[-2, 4]),
    "shape of fractions": setting("shape", to=[2.0, 4.0]),
    "no shape": lambda array: array.pop("shape"),
    "another rank": setting("shape", to=[2, 4, 4]),
    "another length": setting("shape", to=[2, 9]),
    "chunks of 0": setting("chunk_grid", "configuration", "chunk_shape", to=[0, 0]),
    "huge chunks": setting("chunk_grid", "configuration", "chunk_shape", to=[10**6, 10**6]),
    "other grid": setting("chunk_grid", "name", to="rectangular"),
    "dots in keys": setting("chunk_key_encoding", "name", to="v2"),
    "transformers": setting("storage_transformers", to=[{"name": "x"}]),
    "a group": setting("node_type", to="group"),
    "other dimensions": setting("dimension_names", to=["time", "time"]),
    "a list": lambda array: array.update(codecs="x"),
}
LENIENT = {"another length": "any"}
RUNS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "newer": (root_json(setting("attributes", "format_version", to=99)), "no"),
    "version true": (root_json(setting("attributes", "format_version", to=True)), "no"),
    "another program's": (root_json(setting("attributes", "format", to="x")), "no"),
    "no attributes": (root_json(lambda root: root.pop("attributes")), "no"),
    "attributes a list": (root_json(setting("attributes", to=[])), "no"),
    "layout of 0": (root_json(setting("attributes", "layout", to={"times": 0, "draws": 8})), "no"),
    "layout of texts": (root_json(setting("attributes", "layout", to={"times": "a", "draws": 8})), "no"),
    "layout unknown": (root_json(setting("attributes", "layout", to={"times": 1, "draws": 8, "x": 1})), "no"),
    "consolidated list": (root_json(setting("consolidated_metadata", to=[])), "no"),
    "consolidated empty": (root_json(setting("consolidated_metadata", "metadata", to={})), "no"),
    "not consolidated": (root_json(lambda root: root.pop("consolidated_metadata")), "yes"),
    "no JSON": (swapped("zarr.json", written(b"{")), "no"),
    "deep JSON": (swapped("zarr.json", written(b'{"a":' * 100_000)), "no"),
    "pipe as metadata": (swapped("zarr.json", os.mkfifo), "no"),
    "device as metadata": (swapped("zarr.json", lambda path: path.symlink_to("/dev/zero")), "no"),
    "pipe as array": (swapped("loss/zarr.json", os.mkfifo), "no"),
    "pipe as chunk": (swapped("loss/c/0/0", os.mkfifo), "no"),
    "device as chunk": (swapped("loss/c/0/0", lambda path: path.symlink_to("/dev/zero")), "no"),
    "link as chunk": (swapped("loss/c/0/0", lambda path: path.symlink_to("/etc/passwd")), "no"),
    "short chunk": (swapped("loss/c/0/0", written(b"\0" * 9)), "no"),
    "empty chunk": (swapped("loss/c/0/0", written(b"")), "no"),
    "long chunk": (swapped("loss/c/0/0", written(b"\0" * 10**6)), "no"),
    "lost chunk": (swapped("loss/c/0/0", lambda path: None), "yes"),
    "lost array": (lambda path: shutil.rmtree(path / "done"), "no"),
    "linked folder": (lambda path: (path / "x").symlink_to("/"), "no"),
    "old group beside": (lambda path: (path / ".zgroup").write_text('{"zarr_format": 2}'), "any"),
}  # fmt: skip


NASTY = "\ud800\x1b[31m\u202e\n<script>$x_"
DEEP = b'{"a":' + b"[" * 1500 + b"]" * 1500 + b"}"


def claimed(shape: list[int], chunks: list[int]) -> Callable[[Path], None]:
    """All columns of a store of that shape, without a chunk."""

    def make(path: Path) -> None:
        root = json.loads((path / "zarr.json").read_text())
        if "layout" in root["attributes"]:
            root["attributes"]["layout"] = dict(zip(("times", "draws"), chunks, strict=True))
        for name, array in root["consolidated_metadata"]["metadata"].items():
            rest = [[*shape, 1][["time", "draw", "sampler", "seed"].index(d) % 2] for d in array["dimension_names"]]
            parts = chunks if len(rest) == 2 else [min(rest[0], 2**16)]
            array["shape"], array["chunk_grid"]["configuration"]["chunk_shape"] = rest, parts
            shutil.rmtree(path / name / "c", ignore_errors=True)
            (path / name / "zarr.json").write_text(json.dumps(array))
        (path / "zarr.json").write_text(json.dumps(root))

    return make


def again(file: str, values: np.ndarray) -> Callable[[Path], None]:
    """A chunk of other numbers, with their checksum."""

    def make(path: Path) -> None:
        data = values.tobytes()
        (path / file).write_bytes(data + google_crc32c.value(data).to_bytes(4, "little"))

    return make


def hollow(path: Path) -> None:
    """A file of 30 GB that takes nothing on the disk."""
    with path.open("wb") as file:
        file.truncate(30 * 10**9)


def buried(path: Path) -> None:
    """A folder 1,500 deep."""
    here = os.open(path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)


def stores(column: str, chunk: str) -> dict[str, tuple[Callable[[Path], Any], str]]:
    """What was tried on runs and evaluations alike."""
    return {
        **{f"array: {n}": (zarr_json(column, change), LENIENT.get(n, "no")) for n, change in ARRAYS.items()},
        **{f"file: {n}": (zarr_json(column, change, False), LENIENT.get(n, "no")) for n, change in ARRAYS.items()},
        "48 GB of nothing": (claimed([6000, 1_000_000], [1000, 1000]), "no"),
        "8 million units of one pair": (claimed([1000, 8000], [1, 1]), "no"),
        "30 000 x 30 000 units": (claimed([30_000, 30_000], [1, 1]), "no"),
        "a chunk of holes": (swapped(chunk, hollow), "no"),
        "metadata of holes": (swapped("zarr.json", hollow), "no"),
        "holes beside": (lambda path: hollow(path / "x"), "any"),
        "deep JSON of 1500": (swapped("zarr.json", written(DEEP)), "no"),
        "deep attribute": (root_json(setting("attributes", "x", to=json.loads(b"[" * 900 + b"]" * 900))), "no"),
        "a huge integer": (root_json(setting("attributes", "x", to=10**30)), "no"),
        "nasty attribute": (root_json(setting("attributes", "x", to=NASTY)), "yes"),
        "nasty checkpoint": (root_json(setting("attributes", "checkpoint", to=NASTY)), "yes"),
        "nasty key": (root_json(setting("attributes", NASTY, to={NASTY: [NASTY]})), "yes"),
        "nasty long name": (zarr_json(column, setting("attributes", "long_name", to=NASTY)), "yes"),
        "nasty array": (lambda path: shutil.copytree(path / column, path / "\x1b[31m"), "no"),
        "checkpoint a list": (root_json(setting("attributes", "checkpoint", to=[1])), "no"),
        "a text without end": (root_json(setting("attributes", "checkpoint", to="x" * 10**6)), "no"),
        "folders 1500 deep": (buried, "no"),
        "an array within an array": (lambda path: shutil.copytree(path / column, path / column / "x"), "any"),
        "format 2 beside": (lambda path: (path / column / ".zarray").write_text("{}"), "any"),
    }


RUNS |= stores("loss", "loss/c/0/0")
EVALUATIONS = stores("fid", "fid/c/0/0") | {
    "newer": (root_json(setting("attributes", "format_version", to="lipdiag-quality/9")), "no"),
    "version a list": (root_json(setting("attributes", "format_version", to=["lipdiag-quality/1"])), "no"),
    "not consolidated": (root_json(lambda root: root.pop("consolidated_metadata")), "yes"),
    "consolidated list": (root_json(setting("consolidated_metadata", to=[])), "no"),
    "lost array": (lambda path: shutil.rmtree(path / "sampler"), "no"),
    "pipe as chunk": (swapped("fid/c/0/0", os.mkfifo), "no"),
    "device as chunk": (swapped("fid/c/0/0", lambda path: path.symlink_to("/dev/zero")), "no"),
    "samplers of bytes": (swapped("sampler/c/0", written(b"\xff" * 40)), "no"),
    "a seed twice": (again("seed/c/0", np.zeros(3, np.int64)), "no"),
    "floor a text": (root_json(setting("attributes", "floor_fid", to="low")), "no"),
    "n a text": (root_json(setting("attributes", "n", to="many")), "no"),
    "no n": (root_json(lambda root: root["attributes"].pop("n")), "yes"),
    "a run": (lambda path: (shutil.rmtree(path), READERS["run"].make(path)), "no"),
}

# Trainings, configurations, samples -----------------------------------------------------------------------------------


def inside(reader: str, file: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A good folder with one file replaced."""

    def change(path: Path) -> None:
        READERS[reader].make(path)
        swapped(file, make)(path)

    return change


HEAD = b"step,loss,learning_rate,gradient_norm\n"
TABLES: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{name: (make, "no") for name, make in PLACES.items()},
    "holes": (hollow, "no"),
    "zeros": (written(b"\0" * 4096), "no"),
    "head alone": (written(HEAD), "no"),
    "halves of characters": (written(HEAD + b"1,\xed\xa0\x80,0,0\n"), "no"),
    "not UTF-8": (written(HEAD + b"\xff\xfe,1,0,0\n"), "no"),
    "a field without end": (written(HEAD + b"1," + b"9" * 10**6 + b",0,0\n"), "no"),
    "nasty": (written(HEAD + b"1,\x1b[31m,0,0\n"), "no"),
    "not finite": (written(HEAD + b"nan,inf,-inf,nan\n1e999,0,0,0\n"), "any"),
    "negative": (written(HEAD + b"-5,-1,-1,-1\n1,1,1,1\n"), "any"),
    "many columns": (written(b"step,loss,learning_rate,gradient_norm," + b"x," * 10**6 + b"\n1,1,1,1\n"), "any"),
}  # fmt: skip
RECIPES: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{name: (written(text), "no") for name, text in TEXTS.items()},
    "nested 1500 deep": (written(DEEP), "no"),
    "nasty": (written(json.dumps({"name": NASTY, NASTY: NASTY}).encode()), "no"),
    **{name: (make, "no") for name, make in PLACES.items() if "link" not in name},
}
SNAPSHOTS: dict[str, Callable[[], bytes]] = {
    **{name: lambda data=data: data for name, data in STRANGERS.items()},
    "no tensors": lambda: safe({}),
    "no step": lambda: safe({"model.a": entry()}, b"\0" * 4),
    "a step of fractions": lambda: safe({"step": entry(shape=())}, b"\0" * 4),
    "a step beyond the end": lambda: safe({"step": entry("I64", (), (0, 8))}, b"\x7f" * 8),
    "a step before the start": lambda: safe({"step": entry("I64", (), (0, 8))}, b"\xff" * 8),
    "other parts": lambda: safe({"step": entry("I64", (), (0, 8)), "x": entry(offsets=(8, 12))}, b"\0" * 12),
}
CONFIGURATIONS: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{name: (make, "no") for name, make in PLACES.items() if name not in ("empty", "null device")},
    **{
        name: (written(text), "no")
        for name, text in {
            "nested 1500 deep": b"draws = " + b"[" * 1500 + b"]" * 1500,
            "tables 1500 deep": b"[" + b"a." * 1500 + b"b]\nc = 1\n",
            "no TOML": b"draws: 4\n",
            "not UTF-8": b'data = "\xff"\n',
            "half a character": b'data = "\\ud800"\n',
            "unknown": b"drawings = 4\n",
            "nasty": b'"\x1b[31m" = 4\n',
            "a nasty key": b'"\\u001b[31m\\u202e" = 4\n',
            "draws a text": b'draws = "many"\n',
            "quiet a number": b"quiet = 1.5\n",
            "draws a list": b"draws = [4]\n",
            "draws a table": b"[draws]\na = 1\n",
            "draws a date": b"draws = 1979-05-27\n",
            "timesteps a list": b"timesteps = [0, 500]\n",
            "quantities in lists": b'quantity = [["loss"]]\n',
            "a huge integer": b"draws = 1" + b"0" * 5000 + b"\n",
            "large": b"# " + b"x" * 1_000_001 + b"\n",
        }.items()
    },
    "runs": (written(b'factory = "os:system"\ncheckpoint = "touch ran"\n'), "any"),
    "itself": (written(b'config = "lipdiag.toml"\n'), "any"),
}

# Arrays and pictures --------------------------------------------------------------------------------------------------


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def npy(header: str, data: bytes = b"\0" * 64) -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def described(shape: Any = (2, 2), kind: Any = "<f4") -> bytes:
    return npy(repr({"descr": kind, "fortran_order": False, "shape": shape}))


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


NPY: dict[str, Callable[[], bytes]] = {
    "objects": objects,
    "runs": lambda: npy("__import__('os').system('touch ran')"),
    "no dictionary": lambda: npy("[1, 2]"),
    "deep": lambda: b"\x93NUMPY\x02\x00" + struct.pack("<I", 200_000) + b"(" * 200_000,
    "header of 4 GB": lambda: b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\xff" + b"{}",
    "version 9": lambda: b"\x93NUMPY\x09\x00" + b"\0" * 99,
    "huge": lambda: described((10**6, 10**6)),
    "overflow": lambda: described((2**62, 2**62)),
    "negative": lambda: described((-1, 4)),
    "texts as shape": lambda: described(("a",)),
    "short": lambda: described((100, 100)),
    "no samples": lambda: described((0, 4)),
    "a number": lambda: described(()),
    "integers": lambda: described((2, 2), "<i8"),
    "texts": lambda: described((2, 2), "<U4"),
    "records": lambda: described((2,), [("a", "<f4"), ("b", "|O")]),
    "dates": lambda: described((2, 2), "<M8[s]"),
    "complex": lambda: described((2, 2), "<c8"),
    "unknown type": lambda: described((2, 2), "<f3"),
}


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def array_bomb() -> bytes:
    """An array that unpacks to 2 GiB, by what its archive says."""
    data = bytearray(npz(a=np.zeros((99, 99))))
    entry = data.find(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    return bytes(data)


NPZ: dict[str, Callable[[], bytes]] = {
    "objects": lambda: npz(a=np.array([Trap()], dtype=object)),
    "two arrays": lambda: npz(a=np.ones((2, 2)), b=np.ones((2, 2))),
    "no arrays": lambda: npz(),
    "no array": lambda: zipped({"a.txt": b"x"}),
    "cut": lambda: npz(a=np.ones((99, 99)))[:-30],
    "bomb": array_bomb,
}


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A picture of that size, by its head."""
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", data or zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


def pixels(kind: str, **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def deep_pixels() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def gallery(name: str, data: Callable[[], bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        (path / name).write_bytes(data())

    return make


PICTURES: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{f"{name} as png": (gallery("a.png", lambda data=data: data), "no") for name, data in STRANGERS.items()},
    **{f"cut {k}": (gallery("a.png", lambda k=k: pixels(k)[:-400]), "no") for k in ("PNG", "JPEG", "GIF", "BMP")},
    **{f"{k} as png": (gallery("a.png", lambda k=k: pixels(k)), "yes") for k in ("JPEG", "GIF", "TIFF", "WEBP")},
    **{f"{k} as png": (gallery("a.png", lambda k=k: pixels(k)), "no") for k in ("EPS", "PDF", "ICO", "PPM", "TGA")},
    "200 000 x 200 000": (gallery("a.png", lambda: png(200_000, 200_000)), "no"),
    "9000 x 9000": (gallery("a.png", lambda: png(9000, 9000)), "no"),
    "2^31 wide": (gallery("a.png", lambda: png(2**31 - 1, 1)), "no"),
    "0 wide": (gallery("a.png", lambda: png(0, 5)), "no"),
    "bomb": (gallery("a.png", lambda: png(9, 9, __import__("zlib").compress(b"\0" * 2**28))), "any"),
    "no pixels": (gallery("a.png", lambda: png(9, 9, b"x")), "no"),
    "16 bits": (gallery("a.png", deep_pixels), "no"),
    "no pictures": (gallery("a.txt", lambda: b"x"), "no"),
    "a folder called png": (lambda path: (path / "a.png").mkdir(parents=True), "no"),
}  # fmt: skip


def corpus() -> Iterator[Bad]:
    """All of them."""
    for name, make in PLACES.items():
        for reader in ("pt", "safetensors", "json", "npy", "run", "evaluation"):
            yield Bad(f"place: {name}", reader, make)
    for name, data in STRANGERS.items():
        for reader in ("pt", "npy"):
            yield Bad(f"stranger: {name}", reader, written(data))
    for name in CALLS:
        yield Bad(f"call: {name}", "pt", written(replaced("data.pkl", called(name))))
        yield Bad(f"stacked: {name}", "pt", written(replaced("data.pkl", stacked(name))))
        yield Bad(f"bare: {name}", "pt", written(called(name)))
    for name, data in PICKLES.items():
        yield Bad(f"pickle: {name}", "pt", written(replaced("data.pkl", data)), HARMLESS.get(name, "no"))
    for name, (content, outcome) in CONTENTS.items():
        yield Bad(f"content: {name}", "pt", saved(content), outcome)
    for name, (archived, outcome) in ARCHIVES.items():
        yield Bad(f"archive: {name}", "pt", written(archived), outcome)
    yield Bad("archive: bomb", "pt", bomb)
    for name, (archived, outcome) in SAFETENSORS.items():
        yield Bad(f"safetensors: {name}", "safetensors", written(archived), outcome)
    for name, text in TEXTS.items():
        yield Bad(f"json: {name}", "json", written(text))
    for name, change in CONFIGS.items():
        yield Bad(f"config: {name}", "own", own(change))
    for name, (made, outcome) in RUNS.items():
        yield Bad(f"run: {name}", "run", changed("run", made), outcome)
    for name, (made, outcome) in EVALUATIONS.items():
        yield Bad(f"evaluation: {name}", "evaluation", changed("evaluation", made), outcome)
    for name, (made, outcome) in TABLES.items():
        yield Bad(f"log: {name}", "log", inside("log", "log.csv", made), outcome)
    for name, (made, outcome) in RECIPES.items():
        yield Bad(f"recipe: {name}", "training", inside("training", "recipe.json", made), outcome)
    for name, data in SNAPSHOTS.items():
        yield Bad(f"snapshot: {name}", "training", inside("training", "snapshot.safetensors", written(data)))
    for name, (made, outcome) in CONFIGURATIONS.items():
        yield Bad(f"configuration: {name}", "configuration", made, outcome)
    for name, array in NPZ.items():
        yield Bad(f"samples: {name}", "samples", written(array))
    for name, make in PLACES.items():
        yield Bad(f"samples: {name}", "samples", make)
    yield Bad("pictures: 1500 deep", "pictures", changed("pictures", buried))
    for name, array in NPY.items():
        yield Bad(f"npy: {name}", "npy", written(array))
    for name, array in NPZ.items():
        yield Bad(f"npz: {name}", "npz", written(array))
    for name, (made, outcome) in PICTURES.items():
        yield Bad(f"picture: {name}", "pictures", made, outcome)


def main(folder: Path) -> int:
    """Read each, say how it went; the number that went otherwise than they must."""
    os.chdir(folder)
    guard.install()
    for reader in READERS.values():
        reader.make(folder / reader.suffix)
        reader.read(folder / reader.suffix)
    wrong = 0
    for number, bad in enumerate(corpus()):
        reader = READERS[bad.reader]
        place = folder / f"{number}"
        place.mkdir()
        path = place / reader.suffix
        bad.make(path)
        found = guard.guarded(reader.read, path)
        said = verdict(reader, found)
        expected = {"no": ["refused"], "yes": ["read"], "any": ["refused", "read"]}[bad.outcome]
        fine = said in expected and not (folder / "ran").exists() and not (place / "ran").exists()
        wrong += not fine
        line = {"name": bad.name, "reader": bad.reader, "fine": fine, "said": said, "error": str(found["error"])[:300]}
        print(json.dumps({**line, "seconds": round(found["seconds"], 3), "bytes": found["bytes"]}), flush=True)
        subprocess.run(["rm", "-rf", place], check=True)  # shutil's own way is recursive
    return wrong


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.exit(bool(main(Path(sys.argv[1]))))
