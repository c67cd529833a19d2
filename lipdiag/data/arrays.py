"""Arrays that a .npy or .npz file holds, and what other files are that are given in the place of one."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError
from ..files import shown

LARGEST_UNPACKED = 2**30  # bytes that a compressed array may grow by
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
SAMPLES = ("samples", "x0", "x", "images", "image", "latents", "data", "arr_0")  # of the one among several
LABELS = ("labels", "y", "label", "targets", "classes", "class_labels", "arr_1")  # of an array beside the samples
TENSORS = "holds tensors: save the samples by np.save(NEW, TENSOR.float().cpu().numpy())"
PICTURE = "is a single picture: give the folder that it lies in"
TEXT = "is a text: save the samples by np.save(NEW, np.loadtxt(FILE, delimiter=',').reshape(-1, *SHAPE))"
ARCHIVE = "is an archive: unpack it, and give the folder of pictures or the array in it"
OTHERS = (
    dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".safetensors"), TENSORS)
    | dict.fromkeys((".csv", ".tsv", ".txt", ".json"), TEXT)
    | dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".7z", ".xz", ".bz2", ".zst", ".rar"), ARCHIVE)
    | dict.fromkeys(PICTURES, PICTURE)
)


class Arrays(NamedTuple):
    """Samples, and what goes with each: its class, and what else the network is told, by its keyword."""

    samples: np.ndarray
    labels: np.ndarray | None
    conditions: dict[str, np.ndarray]


def read_arrays(path: Path) -> Arrays:
    """What a .npy or .npz file holds; a .npy file stays on disk until indexed."""
    if not path.is_file():  # a pipe would be waited for
        raise UsageError(f"{shown(path)} is not a regular file: give a .npy or .npz file, or a folder of pictures")
    try:
        refuse_others(path)
        # A pickled object in an array file is code that its author chose.
        loaded: Any = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(loaded, np.ndarray):
            return Arrays(loaded, None, {})
        with loaded:
            packed, unpacked = path.stat().st_size, sum(info.file_size for info in loaded.zip.infolist())
            if unpacked > packed + LARGEST_UNPACKED:
                raise UsageError(f"{path} unpacks from {packed} bytes to {unpacked}: save the samples as a .npy file")
            return paired({name: np.asarray(loaded[name]) for name in loaded.files}, shown(path))
    except UsageError:
        raise
    except Exception as error:  # as with pictures
        reason = "an empty file" if path.stat().st_size == 0 else shown(str(error).partition("\n")[0])
        if "Python objects" in reason or "Object arrays" in reason:
            raise UsageError(
                f"{shown(path)} cannot be read: it holds Python objects, which are code, and no array of numbers; save "
                "samples of one shape as np.save(NEW, np.stack(LIST).astype('float32'))"
            ) from error
        raise UsageError(f"{shown(path)} cannot be read as a .npy or .npz array ({reason})") from error


def paired(arrays: Mapping[str, np.ndarray], place: str) -> Arrays:
    """The samples among several arrays, by their name, and what goes with each of them.

    Raises:
        UsageError: If no name tells the samples, or something is not one for each of them.
    """
    label = next((name for name in LABELS if name in arrays), None) if len(arrays) > 1 else None
    others = [name for name in arrays if name != label]
    chosen = others[0] if len(others) == 1 else next((name for name in SAMPLES if name in others), None)
    if chosen is None:
        raise UsageError(
            f"{place} holds {len(arrays)} arrays ({shown(', '.join(arrays) or 'none')}), none of which is called "
            "samples: call them that, their classes labels, and what else the network is told as it calls it"
        )
    values, labels = arrays[chosen], None if label is None else arrays[label]
    if labels is not None and labels.shape == (len(values), 1):
        labels = labels[:, 0]
    if labels is not None and (labels.shape != values.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0):
        raise UsageError(
            f"{place} has labels of shape {labels.shape} and type {labels.dtype} for {len(values)} samples: give each "
            "sample one integer from 0 on"
        )
    conditions = {name: arrays[name] for name in others if name != chosen}
    for name, array in conditions.items():
        if array.shape[:1] != values.shape[:1] or array.dtype.kind not in "fiub":
            raise UsageError(
                f"{place} has {shown(name)} of shape {array.shape} and type {array.dtype} beside {len(values)} samples "
                f"({shown(chosen)}): give one of numbers for each sample, along the first axis"
            )
    return Arrays(values, labels, conditions)


def refuse_others(path: Path) -> None:
    """Refuse files that hold something else than arrays, by what they begin with and by their suffix.

    Raises:
        UsageError: With what the file is, and how to make an array of it.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"\x93NUMPY") or not start:
        return
    suffix = path.suffix.lower()
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith(".npy") for name in names):
            return
        suffix = ".pt" if any(name.rpartition("/")[2] == "data.pkl" for name in names) else ".zip"
    what = OTHERS.get(suffix, "is neither a .npy nor a .npz file: save the samples by np.save(NEW, SAMPLES)")
    raise UsageError(f"{shown(path)} cannot be used as data: it {what}")
