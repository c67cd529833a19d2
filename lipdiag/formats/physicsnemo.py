"""PhysicsNeMo's checkpoints: a network of EDM's kind, bare or in a preconditioner, of which the network is measured.

NAME.mdlus      a zip archive, of former versions a tar archive, nothing of which is compressed:
args.json       classes and their arguments, those of a network in a preconditioner beside them
model.pt        the weights
metadata.json   versions

The archive is read in memory, and its names lead to four classes alone. In the network's own coordinates c_in x each
preconditioner is a plain convention, as in `edm`.
"""

import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.convention import UNTOLD
from ..errors import Caution, UsageError
from ..files import LARGEST_JSON, open_regular, parse_json, shown
from ..weights.archive import FAULTS
from ..weights.averages import choose
from ..weights.refusal import refuse
from ..weights.tensors import read_archive, require_named
from . import edm
from .checkpoint import Checkpoint, file_digest

NETWORKS = ("SongUNet", "DhariwalUNet")
PRECONDITIONERS = {  # today's names and former ones: EDM's, and the network inside unless its arguments tell another
    "VPPrecond": ("VPPrecond", "SongUNet"), "VEPrecond": ("VEPrecond", "SongUNet"),
    "iDDPMPrecond": ("iDDPMPrecond", "DhariwalUNet"), "EDMPrecond": ("EDMPrecond", "DhariwalUNet"),
    "VPPreconditioner": ("VPPrecond", ""), "VEPreconditioner": ("VEPrecond", ""),
    "IDDPMPreconditioner": ("iDDPMPrecond", ""), "EDMPreconditioner": ("EDMPrecond", ""),
}  # fmt: skip
NUMBERS = ("beta_d", "beta_min", "M", "C_1", "C_2", "sigma_min", "sigma_max", "sigma_data")
OWN = {*NUMBERS, "img_resolution", "img_channels", "img_in_channels", "img_out_channels", "label_dim", "use_fp16",
       "model_type", "epsilon_t"}  # fmt: skip
RECORDS = {"args.json", "metadata.json", "model.pt"}
HINT = "those of the preconditioner it was trained in, as lipdiag help conventions lists them for EDM"


def recognizes(path: Path) -> bool:
    """Whether this is such a file, by its name."""
    return path.suffix == ".mdlus" and path.is_file()


def read(path: Path, weights: str = "ema") -> Checkpoint:
    """What such a file tells.

    Raises:
        CheckpointError: If it is damaged, or of a class that is not one of these.
    """
    told, content = records(path)
    kind, arguments = described(told, path)
    preconditioner, inner = PRECONDITIONERS.get(kind, ("", kind))
    prefix = "model." if preconditioner else ""
    if preconditioner and inner:  # the former ones make their network by arguments among their own
        channels = arguments.get("img_channels")
        variance = preconditioner == "iDDPMPrecond"  # which predicts one as well
        doubled = 2 * channels if variance and isinstance(channels, int) else channels
        made = {key: value for key, value in arguments.items() if key not in OWN}
        made |= {key: arguments.get(key, 0) for key in ("img_resolution", "label_dim")}
        made["in_channels"] = arguments.get("img_in_channels") or channels
        made["out_channels"] = arguments.get("img_out_channels") or doubled
        inner, network = str(arguments.get("model_type", inner)), made
    elif preconditioner:
        inner, network = described(told.get(str(arguments.get("model")), {}), path)
    else:
        network = arguments
    if inner not in NETWORKS:
        refuse(path, f"holds the network {shown(inner)!r}, which is not among {', '.join(NETWORKS)}: use --factory")
    size, inputs, outputs = (network.get(key) for key in ("img_resolution", "in_channels", "out_channels"))
    if type(inputs) is not int or outputs not in (inputs, 2 * inputs):
        refuse(
            path,
            f"holds a network with {shown(inputs)} channels in and {shown(outputs)} out, which sees a condition beside "
            "x: give --factory, with a function of x alone",
        )
    numbers = {key: arguments[key] for key in NUMBERS if type(arguments.get(key)) in (int, float)}
    try:
        convention = edm.convention(preconditioner, numbers) if preconditioner else UNTOLD
    except (UsageError, ValueError, ArithmeticError) as error:
        refuse(path, f"has numbers in its preconditioner that cannot be used ({shown(error)})", error)
    sides = size if isinstance(size, list) else [size, size]
    classes = network.get("label_dim") or 0
    state = {name.removeprefix(prefix): z for name, z in content.items() if name.startswith(prefix)}
    notes: list[str] = [f"x is what the network sees, c_in x of its {kind}"] if preconditioner else []
    if type(classes) is int and classes:
        notes.append(Caution(f"conditioned on class_labels = 0 (1 x {classes}), no class, throughout"))
    return Checkpoint(
        path=str(path),
        kind=f"PhysicsNeMo {kind}",
        network=f"physicsnemo.{inner}",
        network_config=network,
        state={name: tensor for name, tensor in state.items() if not name.endswith("device_buffer")},
        weights=choose(("as stored",), weights, path),
        available=("as stored",),
        sha256=file_digest(path),
        convention=convention,
        shape=(inputs, *sides) if all(type(side) is int and side > 0 for side in sides) else None,
        conditioning={"class_labels": torch.zeros(1, classes)} if type(classes) is int and 0 < classes < 10**6 else {},
        notes=tuple(notes),
        hint="" if preconditioner else HINT,
    )


def described(told: Any, path: Path) -> tuple[str, dict[str, Any]]:
    """A class and its arguments, as args.json tells them."""
    name, arguments = (told.get(key) if isinstance(told, dict) else None for key in ("__name__", "__args__"))
    if type(name) is not str or not isinstance(arguments, dict):
        refuse(path, "does not name its network by a class and arguments, as PhysicsNeMo does")
    return name, arguments


def records(path: Path) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """The classes with their arguments, and the weights, read in memory."""
    with open_regular(path) as file:
        size, zipped = file.seek(0, 2), file.seek(0) == 0 and file.read(2) == b"PK"
        file.seek(0)
        try:
            members = list((in_zip if zipped else in_tar)(file, size))
        except (*FAULTS, tarfile.TarError, OSError) as error:
            refuse(path, f"is damaged or cut short ({shown(error)}): copy or download it again", error)
    files = dict(members)
    if set(files) != RECORDS or len(members) != len(RECORDS) or None in files.values():
        names = ", ".join(sorted(RECORDS))
        refuse(path, f"is no archive of {names}, none of them compressed: save it again by PhysicsNeMo")
    if len(files["args.json"] or b"") > LARGEST_JSON:
        refuse(path, "has a description too long to be one")
    told = parse_json((files["args.json"] or b"").replace(b": Infinity", b": null"), str(path))
    content = read_archive(io.BufferedReader(io.BytesIO(files["model.pt"] or b"")), path)
    require_named(content, path)
    return told, content


def in_zip(file: io.BufferedReader, size: int) -> Iterator[tuple[str, bytes | None]]:
    """The records of a zip archive, None for those that unpack to more than they are."""
    archive = zipfile.ZipFile(file)
    for info in archive.infolist():
        packed = info.compress_type or info.file_size != info.compress_size or info.file_size > size
        yield info.filename, None if packed or info.filename not in RECORDS else archive.read(info)


def in_tar(file: io.BufferedReader, size: int) -> Iterator[tuple[str, bytes | None]]:
    """The records of a tar archive, as versions before 2 wrote it."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            opened = archive.extractfile(member) if member.isreg() and member.size <= size else None
            yield member.name.removeprefix("./"), None if opened is None else opened.read()
