"""Tensors from files of strangers: no code of a file runs, and what cannot be trusted is refused before it is used.

A .pt file is a zip archive of a pickle and of raw storages. In this order: a regular file that is not empty, its
first bytes, the archive's table (nothing compressed, nothing twice, known records only), the pickle, opcode by opcode,
with every tensor of a known type and inside its storage, and the checksum of every record. `torch.load` accepts
flipped bits, archives that unpack to more than they are, tensors without memory behind them, and keys whose hash takes
for ever: it is not used.
"""

import json
import struct
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files import open_regular, parse_json, reason, shown
from .archive import LARGEST_PICKLE, Archive
from .pickled import DTYPES as STORED
from .pickled import MOST_TENSORS, Bystander, Machine, unsupported
from .refusal import CONVERT, refuse

LARGEST_HEADER = 32 * 2**20  # bytes of the table in front of a safetensors file
DEEPEST = 8
MOST_CONTAINERS = 200_000
DTYPES = set(STORED.values())
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
BEFORE_ZIP = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the number that opens such a file, pickled
MAGICS = (
    (
        BEFORE_ZIP,
        "is in torch's format before version 1.6, which has no checksums: write it again with `torch.save("
        "torch.load(FILE, weights_only=True), NEW)`",
    ),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"),
    (b"\x93NUMPY", "is a .npy array, not a checkpoint"),
    (b"\x89HDF", "is an HDF5 file, not a checkpoint"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (b"<", "is an HTML or XML page, perhaps a failed download: download the file again"),
    (b"{", "is a text in JSON: give the file with the weights"),
)
SHAPES = "holds tensors of other shapes or kinds than its names tell"
EDM = "if it is one of NVIDIA's EDM, see `lipdiag convert --help`"


def read_tensors(path: str | Path) -> dict[str, Any]:
    """What a .pt or .safetensors file holds: nested dictionaries and lists of tensors, numbers and texts.

    A configuration of the model among the metadata of a .safetensors file stands beside the tensors, as in a .pt file.
    Tensors are on the CPU. Which of the two formats it is follows from the content, not from the name.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds anything else.
    """
    with open_regular(path) as file:
        try:
            start = file.read(512)
            file.seek(0)
            if is_safetensors(start):
                tensors, metadata = read_safetensors(file, path)
                config = model_config(metadata)
                return {"model": dict(tensors), "config": config} if config else dict(tensors)
            check_magic(start, path)
            return read_archive(file, path)
        except OSError as error:
            refuse(path, reason(error, Path()), error)


def model_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The configuration that k-diffusion keeps in the metadata of its slim files; {} where there is none."""
    with suppress(CheckpointError):
        config = parse_json(str(metadata.get("config", "")), "config")
        return config if isinstance(config.get("model"), dict) else {}
    return {}


def is_safetensors(start: bytes) -> bool:
    """Whether these first bytes are the header length and the brace that open a safetensors file."""
    return len(start) >= 9 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= 100_000_000


def check_magic(start: bytes, path: str | Path) -> None:
    """Name what a file is that is no zip archive."""
    if start.startswith(b"PK\x03\x04"):
        return
    for magic, cause in MAGICS:
        if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(magic):
            refuse(path, cause)
    if start[257:262] == b"ustar":
        refuse(path, f"is a tar archive, as torch wrote before version 0.4: load it with that torch and {CONVERT}")
    if start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        refuse(
            path, f"is a bare pickle, which may run code when loaded: load it where you trust it and {CONVERT}; {EDM}"
        )
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        refuse(path, "is a plain text, not a checkpoint")
    refuse(path, "is neither a .safetensors file nor a .pt file as torch.save writes")


def read_archive(file: BufferedReader, path: str | Path) -> dict[str, Any]:
    """The object in torch.save's zip archive."""
    archive = Archive(file, path)
    loaded = Machine(archive.text("data.pkl", LARGEST_PICKLE), archive.storage, path).run()
    archive.check_rest()
    if type(loaded) is not dict:
        refuse(path, f"holds a {type(loaded).__name__} where a dictionary of tensors is expected")
    return harmless(loaded, path)


def harmless(value: Any, path: str | Path, depth: int = 0, made: dict[int, Any] | None = None) -> Any:
    """The value in plain dictionaries and lists, every tensor checked.

    `made` keeps what became of every container: lists of lists of one list are few bytes, and many items to walk.
    """
    made = {} if made is None else made
    if depth > DEEPEST:
        refuse(path, f"nests its values more than {DEEPEST} deep")
    if type(value) is Tensor:
        return checked(value, path)
    if type(value) is Bystander:
        return harmless(value.facts, path, depth + 1, made)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) not in (dict, list, tuple):
        refuse(path, f"contains a {shown(type(value).__name__)}, not only tensors")
    if len(made) > MOST_CONTAINERS:
        refuse(path, f"holds more than {MOST_CONTAINERS} lists and dictionaries: {CONVERT}")
    if id(value) not in made:
        if type(value) is dict:
            made[id(value)] = {key: harmless(item, path, depth + 1, made) for key, item in value.items()}
        else:
            made[id(value)] = [harmless(item, path, depth + 1, made) for item in value]
    return made[id(value)]


def checked(tensor: Tensor, path: str | Path) -> Tensor:
    """A tensor of a type that is measured, with memory of its own behind every number."""
    if tensor.dtype not in DTYPES:
        refuse(path, unsupported(str(tensor.dtype).removeprefix("torch.")))
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        refuse(path, f"contains a tensor of shape {tuple(tensor.shape)} with less memory behind it than that")
    return tensor


def read_safetensors(file: BufferedReader, path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of an open safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    size = file.seek(0, 2)
    file.seek(0)
    length = struct.unpack("<Q", file.read(8))[0]
    if length > min(LARGEST_HEADER, size - 8):
        refuse(path, f"has a header of {length} bytes, which is more than it has or than is allowed: copy it again")
    header = file.read(length)
    if header.count(b"{") > MOST_TENSORS:
        refuse(path, f"has more than {MOST_TENSORS} tensors")
    file.seek(0)
    try:
        tensors = load(file.read())
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        refuse(path, f"is damaged or cut short ({shown(error)}): copy or download it again", error)
    metadata = dict(json.loads(header).get("__metadata__") or {})  # safetensors has checked the header
    return {name: checked(tensor, path) for name, tensor in tensors.items()}, metadata


def fit(network: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> str:
    """Load a state dict into a network, all or nothing, and return the prefix of its names that was dropped.

    Half-precision weights are widened to the network's own type, which is exact; float64 ones turn it into float64.

    Raises:
        CheckpointError: If a name, a shape or a type does not agree, or a weight is not finite.
    """
    wanted = network.state_dict()
    prefix, state = matched(state, set(wanted))
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or extra:
        words = [f"lacks {shown(missing[0])!r} and {len(missing) - 1} more"] if missing else []
        words += [f"has {shown(extra[0])!r} and {len(extra) - 1} more that the network does not know"] if extra else []
        refuse(path, f"does not fit the network {type(network).__name__}: it {' and '.join(words)}")
    for name, tensor in state.items():
        target = wanted[name]
        if tensor.shape != target.shape:
            got, needed = tuple(tensor.shape), tuple(target.shape)
            refuse(path, f"has {shown(name)!r} of shape {got} where the network needs {needed}")
        if target.is_floating_point() != (tensor.dtype in FLOATING):
            refuse(path, f"has {shown(name)!r} of type {tensor.dtype} where the network needs {target.dtype}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            refuse(
                path, f"has NaN or infinity in the weight {shown(name)!r}: the training diverged, take an earlier one"
            )
    if any(tensor.dtype == torch.float64 for tensor in state.values()):
        network.double()
    network.load_state_dict(dict(state), strict=True)
    return prefix


def matched(state: Mapping[str, Tensor], wanted: set[str]) -> tuple[str, Mapping[str, Tensor]]:
    """The state with a wrapper's prefix dropped, if that and only that makes the names agree."""
    for prefix in ("module.", "_orig_mod.", "ema.", "module._orig_mod.", "_orig_mod.module."):
        if all(name.startswith(prefix) for name in state):
            renamed = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
            if set(renamed) == wanted:
                return prefix, renamed
    return "", state


def require_named(content: Mapping[str, Any], path: str | Path) -> None:
    """Refuse what is anything else than tensors under names.

    Raises:
        CheckpointError: In that case.
    """
    if not all(type(name) is str and isinstance(value, Tensor) for name, value in content.items()):
        refuse(path, "holds something else than named tensors")


def weights_dtype(state: Mapping[str, Tensor]) -> str:
    """The floating-point types among the weights, such as "float32"."""
    names = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    return " and ".join(sorted(names)) or "none"
