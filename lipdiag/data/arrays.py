"""Arrays that a .npy or .npz file holds, and what other files are that are given in the place of one."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files import shown

LARGEST_UNPACKED = 2**30  # bytes that a compressed array may grow by
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
LABELS = ("labels", "y", "label", "targets", "classes", "arr_1")  # of an array beside the samples
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


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The samples of a .npy or .npz file, and labels if there are any; a .npy file stays on disk until indexed."""
    if not path.is_file():  # a pipe would be waited for
        raise UsageError(f"{shown(path)} is not a regular file: give a .npy or .npz file, or a folder of pictures")
    try:
        refuse_others(path)
        # A pickled object in an array file is code that its author chose.
        loaded: Any = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            packed, unpacked = path.stat().st_size, max(info.file_size for info in loaded.zip.infolist())
            if unpacked > packed + LARGEST_UNPACKED:
                raise UsageError(f"{path} unpacks from {packed} bytes to {unpacked}: save the samples as a .npy file")
            label = next((name for name in LABELS if name in loaded.files), None) if len(loaded.files) == 2 else None
            samples = [name for name in loaded.files if name != label]
            if len(samples) != 1:
                raise UsageError(
                    f"{shown(path)} holds {len(loaded.files)} arrays ({shown(', '.join(loaded.files) or 'none')}) "
                    "where one is expected: save the samples alone, or with their labels as `labels`"
                )
            values = np.asarray(loaded[samples[0]])
            labels = None if label is None else np.asarray(loaded[label])
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
    if labels is not None and labels.shape == (len(values), 1):
        labels = labels[:, 0]
    if labels is not None and (labels.shape != values.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0):
        raise UsageError(
            f"{path} has labels of shape {labels.shape} and type {labels.dtype} for {len(values)} samples: give each "
            "sample one integer from 0 on"
        )
    return values, labels


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
