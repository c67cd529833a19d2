"""Tensors from files of strangers: no code of a file runs, and what cannot be trusted is refused before it is used.

A .pt file is a zip archive of a pickle and of raw storages. In this order: a regular file that is not empty, its
first bytes, the archive's table (nothing compressed, nothing twice, known records only), checksums, the names of the
Python objects the pickle asks for, torch's own restricted reader, and then every tensor: dense, on the CPU, of a
known type, inside its storage. torch alone accepts flipped bits, archives that unpack to more than they are, and
tensors without memory behind them.
"""

import json
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lipdiag.errors import CheckpointError, LipdiagError
from lipdiag.files import open_regular, reason, shown

LARGEST_PICKLE = 64 * 2**20  # bytes of data.pkl, which holds names and shapes only
LARGEST_HEADER = 32 * 2**20  # bytes of the table in front of a safetensors file
MOST_TENSORS = 100_000
DEEPEST = 8
STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"} | {
    f"torch {name}Storage" for name in STORAGES
}
RECORDS = re.compile(
    r"data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/[0-9]+"
)
DTYPES = {
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Objects that training scripts leave beside the weights. In their place stands a Bystander: none of their code runs.
BYSTANDERS = re.compile(r"argparse Namespace|(pytorch_lightning|lightning\.pytorch)\.callbacks\.[\w.]+ \w+")
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
CONVERT = "save the state dict alone, best as .safetensors"


class Bystander:
    """What stands in a file's dictionary where an object of a known, useless kind was."""

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.facts = state if type(state) is dict else {}


def read_tensors(path: str | Path) -> dict[str, Any]:
    """What a .pt or .safetensors file holds: nested dictionaries and lists of tensors, numbers and texts.

    Tensors are on the CPU. Which of the two formats it is follows from the content, not from the name.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds anything else.
    """
    with open_regular(path) as file:
        try:
            start = file.read(512)
            file.seek(0)
            if is_safetensors(start):
                return dict(read_safetensors(file, path)[0])
            check_magic(start, path)
            return read_archive(file, path)
        except OSError as error:
            refuse(path, reason(error, Path()), error)


def refuse(path: str | Path, cause: str, error: Exception | None = None) -> NoReturn:
    """Raise the CheckpointError that names the file and the cause."""
    raise CheckpointError(f"Cannot use {shown(path)}: it {cause}.") from error


@contextmanager
def refusing(path: str | Path, cause: str) -> Iterator[None]:
    """Whatever a stranger's names and shapes make code stumble over, refused in a sentence."""
    try:
        yield
    except LipdiagError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        refuse(path, f"{cause} ({type(error).__name__}: {shown(error)})", error)


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
    """The object in torch.save's zip archive, after all checks."""
    strange = check_archive(file, path)
    file.seek(0)
    stand_ins: list[Any] = [(type("Bystander", (Bystander,), {}), name.replace(" ", ".")) for name in sorted(strange)]
    try:
        # Both arguments are given because the environment and other packages change their defaults.
        with torch.serialization.safe_globals(stand_ins):
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # torch lets more than a dozen types of exception escape from a bad file
        # torch's own words begin with the advice to load the file with any code in it.
        words = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or repr(error)
        refuse(path, f"cannot be loaded by torch ({shown(words)})", error)
    if not isinstance(loaded, dict):
        refuse(path, f"holds a {shown(type(loaded).__name__)} where a dictionary of tensors is expected")
    return plain(loaded, path)


def check_archive(file: BufferedReader, path: str | Path) -> set[str]:
    """Refuse an archive that torch would read otherwise than it is written, or that asks for code.

    Returns:
        The objects beside the weights, for which a bystander stands.
    """
    size = file.seek(0, 2)
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            tops = {name.partition("/")[0] for name in names}
            inner = [name.partition("/")[2] for name in names]
            if len({name.lower() for name in names}) < len(names):
                refuse(path, "holds two records of one name")
            if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
                refuse(path, f"is a TorchScript program, which is code: {CONVERT}")
            strange = [name for name, rest in zip(names, inner, strict=True) if not RECORDS.fullmatch(rest)]
            if strange:
                refuse(path, f"is a zip archive with the record {shown(strange[0])!r}, which torch.save does not write")
            if len(tops) != 1 or "data.pkl" not in inner:
                refuse(path, "is a zip archive, but not one that torch.save wrote")
            if any(i.compress_type or i.file_size != i.compress_size or i.flag_bits & 1 for i in infos):
                refuse(path, "holds compressed or encrypted records, which torch.save does not write")
            if sum(info.file_size for info in infos) > size:
                refuse(path, "claims to hold more bytes than it has")
            pickle = infos[inner.index("data.pkl")]
            if pickle.file_size > LARGEST_PICKLE:
                refuse(path, f"has an object table of {pickle.file_size} bytes where {LARGEST_PICKLE} are allowed")
            if "byteorder" in inner and archive.read(infos[inner.index("byteorder")]) != b"little":
                refuse(path, "was written on a big-endian machine: save it again on a little-endian one")
            damaged = archive.testzip()
            if damaged is not None:
                refuse(path, f"is damaged: the checksum of its record {shown(damaged)!r} does not match")
            return check_pickle(archive.read(pickle), path)
    except (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, RuntimeError, ValueError) as error:
        refuse(path, f"is damaged or cut short ({shown(error)}): copy or download it again", error)


def check_pickle(data: bytes, path: str | Path) -> set[str]:
    """Refuse a pickle that asks for any Python object but the few of which tensors are made; returns the bystanders."""
    found: set[str] = set()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL" and argument not in GLOBALS and not BYSTANDERS.fullmatch(str(argument)):
                name = shown(str(argument).replace(" ", "."))
                if "torch_utils.persistence" in name:
                    refuse(
                        path,
                        "is an EDM pickle, which holds source code: convert it by `lipdiag convert --unsafe-pickle`",
                    )
                refuse(path, f"contains the Python object {name!r}, not only tensors: {CONVERT}")
            if opcode.name == "GLOBAL" and BYSTANDERS.fullmatch(str(argument)):
                found.add(str(argument))
            if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                refuse(path, f"contains Python objects by the opcode {opcode.name}, not only tensors: {CONVERT}")
    except CheckpointError:
        raise
    except Exception as error:  # pickletools raises whatever a mangled stream leads it to
        refuse(path, f"has a damaged object table ({shown(error)})", error)
    return found


def plain(value: Any, path: str | Path, depth: int = 0, made: dict[int, Any] | None = None) -> Any:
    """The value in plain dictionaries and lists, every tensor checked.

    `made` keeps what became of every container: lists of lists of one list are few bytes, and many items to walk.
    """
    made = {} if made is None else made
    if depth > DEEPEST:
        refuse(path, f"nests its values more than {DEEPEST} deep")
    if isinstance(value, Tensor):
        return checked(value, path)
    if id(value) in made and isinstance(value, (dict, list, tuple)):
        return made[id(value)]
    if isinstance(value, dict):
        # An OrderedDict from a file may carry attributes of its own choice, even one called `items`.
        items = [(key, item) for key, item in dict.items(value) if not is_bystander(key)]
        for key, _ in items:
            if type(key) not in (str, int):
                refuse(path, f"has a key of type {shown(type(key).__name__)} where texts are expected")
        made[id(value)] = {key: plain(item, path, depth + 1, made) for key, item in items}
        return made[id(value)]
    if isinstance(value, Bystander):
        return plain(getattr(value, "facts", {}), path, depth + 1, made)
    if isinstance(value, (list, tuple)):
        made[id(value)] = [plain(item, path, depth + 1, made) for item in value]
        return made[id(value)]
    if value is None or type(value) in (bool, int, float, str):
        return value
    refuse(path, f"contains a {shown(type(value).__name__)}, not only tensors")


def is_bystander(key: object) -> bool:
    """Whether a key is a stood-in class or an instance of one."""
    return isinstance(key, Bystander) or (isinstance(key, type) and issubclass(key, Bystander))


def checked(tensor: Tensor, path: str | Path) -> Tensor:
    """A tensor that is what it claims to be."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_nested:
        refuse(path, "contains a tensor that is not dense")
    if tensor.device.type != "cpu" or tensor.is_quantized or tensor.dtype not in DTYPES:
        refuse(path, f"contains a tensor of type {tensor.dtype} on {tensor.device}, which is not supported")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        refuse(path, f"contains a tensor of shape {tuple(tensor.shape)} with less memory behind it than that")
    return tensor.detach()


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
    if header.count(b'"data_offsets"') > MOST_TENSORS:
        refuse(path, f"has more than {MOST_TENSORS} tensors")
    file.seek(0)
    try:
        tensors = load(file.read())
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        refuse(path, f"is damaged or cut short ({shown(error)}): copy or download it again", error)
    metadata = json_metadata(header)
    return {name: checked(tensor, path) for name, tensor in tensors.items()}, metadata


def json_metadata(header: bytes) -> dict[str, str]:
    """The texts stored beside the tensors; safetensors has checked the header."""
    return dict(json.loads(header).get("__metadata__") or {})


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


def weights_dtype(state: Mapping[str, Tensor]) -> str:
    """The floating-point types among the weights, such as "float32"."""
    names = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    return " and ".join(sorted(names)) or "none"
