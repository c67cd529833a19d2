"""Data sets as indexable collections of float32 tensors, in the range a model was trained on.

Floating-point arrays are taken as they are: only their owner knows the model's range. 8-bit values mean pictures,
and v in 0..255 becomes v / 127.5 - 1 in [-1, 1]. The embedded digits have 17 grey values, 0..16, hence v / 8 - 1.
Nothing is cropped or resized: resampling changes the small-scale structure that derivatives at low noise measure.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError
from ..files import shown
from .arrays import PICTURES, read_arrays
from .shipped import SHIPPED

ASSETS = Path(__file__).parents[1] / "assets"
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
LARGEST_PICTURE = 2**25  # pixels
LATENTS = (
    "these are latents, so encode the pictures by the model's vae, with --encode where its folder has one, or into a "
    ".npy array of latents, times the vae's scaling factor"
)
DEEPEST = 64
"""Folders of pictures within each other."""

ALPHA = 4  # channels of a picture that has transparency
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ADDED = ("__MACOSX", "@eaDir", "lost+found")  # folders that systems make, with copies or nothing of the user's
GREY = ("1", "L", "LA", "I", "I;16", "F")


class Data(ABC):
    """Samples of one shape, read one at a time; the class of each, and what else goes with it, where that is known."""

    name: str
    shape: tuple[int, ...]
    labels: np.ndarray | None = None
    conditions: Mapping[str, np.ndarray] = MappingProxyType({})  # what a network is told with each, by its keyword
    numbered: bool = True  # whether a label is a number that its owner gave, or the place of a folder among others
    eight_bit: bool = False  # whether they are pictures of 8 bits, which all come to lie in [-1, 1]
    stored: bool = False  # whether they are read, and no network makes them, so that a thread may do it

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Float[Tensor, "*event"]: ...

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over every stored value, in hexadecimal."""

    def check(self) -> None:
        """Look for what would end a training in its middle, as far as that can be seen at little cost.

        Raises:
            UsageError: If something is found.
        """
        return


@dataclass(frozen=True, eq=False)
class Array(Data):
    """An array of samples; bytes are scaled to `value / half - 1`.

    Args:
        name: What the user called it.
        values: The samples, the first axis counting them; it may be memory-mapped.
        shape: The shape of one sample, with as many elements as an item of `values`.
        order: Axes of an item of `values` in the order of `shape`, or () where they agree.
        half: Half of the largest 8-bit value.
        labels: The class of each sample.
        conditions: What a network is told with each, by its keyword.
    """

    name: str
    values: np.ndarray
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()
    half: float = 127.5
    labels: np.ndarray | None = None
    conditions: Mapping[str, np.ndarray] = field(default_factory=dict)
    stored = True

    def __len__(self) -> int:
        return len(self.values)

    @property
    def eight_bit(self) -> bool:  # type: ignore[override]
        return self.values.dtype == np.uint8

    def __getitem__(self, index: int) -> Float[Tensor, "*event"]:
        item = self.values[index]
        item = np.ascontiguousarray(item.transpose(self.order) if self.order else item).reshape(self.shape)
        if item.dtype == np.uint8:
            return torch.from_numpy(item.astype(np.float32) / np.float32(self.half) - np.float32(1))
        sample = torch.from_numpy(item.astype(np.float32))
        if not sample.isfinite().all():
            raise UsageError(f"sample {index} of {self.name} is not finite: remove it, or repair the array")
        return sample

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.values.dtype.str} {self.values.shape} {self.half}".encode())
        for start in range(0, len(self), 1024):  # a memory-mapped array need not fit into memory
            digest.update(np.ascontiguousarray(self.values[start : start + 1024]).tobytes())
        for name, array in sorted(self.conditions.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Folder(Data):
    """Pictures of one size below a folder, in the order of their names.

    Args:
        name: What the user called it.
        files: Of the pictures.
        shape: The shape of one sample.
        labels: The class of each, where folders are classes.
        numbered: Whether these are the names of the folders, rather than their places in order.
        fitted: Whether each is made as large as a sample and cut to its centre, else all have that size.
    """

    name: str
    files: tuple[Path, ...]
    shape: tuple[int, ...]
    labels: np.ndarray | None = None
    numbered: bool = True
    fitted: bool = False
    eight_bit = stored = True

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Float[Tensor, "*event"]:
        pixels = picture(self.files[index], self.shape[0], self.shape[1:] if self.fitted else None)
        if pixels.shape[:2] != self.shape[1:]:
            raise UsageError(
                f"{self.files[index]} is {pixels.shape[0]} x {pixels.shape[1]} pixels where "
                f"{self.shape[1]} x {self.shape[2]} are expected: resize the pictures, by --resize or beforehand"
            )
        values = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
        return torch.from_numpy(values / np.float32(127.5) - np.float32(1))

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        if self.fitted:
            digest.update(f"fitted to {self.shape}".encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Read the head of every file, some 50 microseconds each: size, and grey among colours."""
        wrong: dict[str, list[Path]] = {"of another size": [], "grey": []}
        for file in self.files:
            with opened(file) as image:
                if image.size != (self.shape[2], self.shape[1]) and not self.fitted:
                    wrong["of another size"].append(file)
                elif image.mode in GREY and self.shape[0] > 1:
                    wrong["grey"].append(file)
        for what, files in wrong.items():
            if files:
                channels, height, width = self.shape
                raise UsageError(
                    f"of the {len(self.files)} pictures below {self.name}, {len(files)} are {what}, such as "
                    f"{files[0]}, where the model needs {height} x {width} pixels of {channels} channels: convert or "
                    "remove them, or give --resize where it is the size"
                )


def dataset(name: str | Path, shape: tuple[int, ...] | None = None, resize: bool = False) -> Data:
    """The data set called `name`: "digits", one that a package ships, a folder of pictures, a .npy or a .npz file.

    Args:
        name: A name or a path; a path that exists wins over a name. A .npz file holds one array, and may hold the
            class of each sample beside it, called labels, y or targets (arr_1 where names were not given). What else it
            holds for each sample, called samples, is what the network is told with it. Of a folder of folders each is
            a class.
        shape: The model's event shape. Without it, the data's own: pictures are RGB unless the first one is grey.
        resize: Whether the pictures of a folder are made as large as `shape` and cut to their centre.

    Raises:
        UsageError: If there is no such data, it cannot be read, or its samples do not have `shape`.
    """
    path = Path(name)
    if path.is_dir():
        return replace(folder(path, shape), fitted=resize)
    if resize:
        raise UsageError(f"resizing is for folders of pictures, and {shown(name)} is none: leave --resize out")
    if path.exists():
        values, labels, conditions = read_arrays(path)
        return replace(array(str(name), values, shape), labels=labels, conditions=conditions)
    if str(name) == "digits":
        with np.load(ASSETS / "digits.npz", allow_pickle=False) as file:
            return array("digits", file["images"], shape, half=8.0)
    if str(name) in SHIPPED:
        values, labels = SHIPPED[str(name)].load()
        return replace(array(str(name), values, shape), labels=labels)
    raise UsageError(
        f"there is no data called {str(name)!r}: give a folder of pictures, a .npy file, a .npz file with one array, "
        f"or a name among digits, {', '.join(SHIPPED)}"
    )


def folder(path: Path, shape: tuple[int, ...] | None) -> Folder:
    """The pictures below `path`, recursively, with the classes that its folders are."""
    files = tuple(sorted(file for file in walk(path) if file.suffix.lower() in PICTURES and file.is_file()))
    if not files:
        raise UsageError(f"the folder {path} holds no pictures: it needs files ending in {', '.join(PICTURES)}")
    if shape is None:
        first = picture(files[0])
        shape = (first.shape[2], *first.shape[:2])
    if len(shape) != 3 or shape[0] not in MODES:
        raise UsageError(
            f"the folder {path} holds pictures, and no picture has the shape {shape} of the model: {LATENTS}"
        )
    if shape[0] == ALPHA:
        picture(files[0], ALPHA)  # before its size is held against that of latents
    return Folder(str(path), files, shape, *classes(path, files))


def walk(path: Path) -> Iterator[Path]:
    """Every file below a folder, through links to folders; a folder that is met again is left out, as are hidden ones.

    Hidden are names that begin with a dot, as a notebook's copies do, and what systems add to a folder.
    """

    def unreadable(error: OSError) -> NoReturn:
        raise UsageError(f"the folder {shown(error.filename)} cannot be read: {error.strerror}") from error

    met = {os.path.realpath(path)}
    for place, folders, files in os.walk(path, followlinks=True, onerror=unreadable):
        seen = {name: os.path.realpath(os.path.join(place, name)) for name in sorted(folders) if not hidden(name)}
        folders[:] = []
        if len(Path(place).parts) > len(path.parts) + DEEPEST:
            raise UsageError(f"the folders below {shown(path)} lie more than {DEEPEST} deep: give one further down")
        for name, real in seen.items():
            if real not in met:
                met.add(real)
                folders.append(name)
        yield from (Path(place, name) for name in files if not hidden(name))


def hidden(name: str) -> bool:
    return name.startswith(".") or name in ADDED


def classes(path: Path, files: Sequence[Path]) -> tuple[np.ndarray | None, bool]:
    """The class of each picture where every one lies in a folder of its class, and whether the folders are numbers.

    A number is the class itself; other names are counted in their order, as torchvision does.
    """
    parts = [file.relative_to(path).parts for file in files]
    names = sorted({first for first, *rest in parts if rest})
    if len(names) < 2 or any(len(part) == 1 for part in parts):
        return None, False
    numbered = all(name.isdecimal() and len(name) < 10 for name in names)
    numbers = {name: int(name) if numbered else k for k, name in enumerate(names)}
    return np.array([numbers[first] for first, *_ in parts]), numbered


def picture(file: Path, channels: int | None = None, size: tuple[int, ...] | None = None) -> np.ndarray:
    """The pixels of a picture, (height, width, channels) in 0..255, of so many channels, and of a (height, width).

    A picture of another size is resized by Lanczos' filter until it covers that, and cut to its centre.
    """
    with opened(file) as image:
        if channels == ALPHA and not ("A" in image.getbands() or "transparency" in image.info):
            raise UsageError(f"{shown(file)} has no fourth channel, and the model's samples have 4: {LATENTS}")
        converted = image.convert(MODES[channels] if channels else "L" if image.mode in GREY else "RGB")
        if size is not None:
            from PIL import Image, ImageOps

            converted = ImageOps.fit(converted, (size[1], size[0]), Image.Resampling.LANCZOS)
        pixels = np.asarray(converted)
    return pixels if pixels.ndim == 3 else pixels[..., None]


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A picture, its head read and its pixels not yet."""
    from PIL import Image

    try:
        # Pillow knows formats that are programs, and would start an interpreter for one under a picture's name.
        with Image.open(file, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                # Pillow clips 16-bit values at 255 without a word.
                raise UsageError(f"{file} has more than 8 bits a channel: save the pictures as a .npy array of floats")
            if image.width * image.height > LARGEST_PICTURE:
                raise UsageError(f"{file} has {image.width} x {image.height} pixels, too many for any model here")
            yield image
    except UsageError:
        raise
    except Exception as error:  # a broken picture can fail in any way
        raise UsageError(f"{shown(file)} cannot be read as a picture ({shown(error)}): remove or repair it") from error


def array(name: str, values: np.ndarray, shape: tuple[int, ...] | None, half: float = 127.5) -> Array:
    """An array as samples of `shape`, a channel axis added or moved to the front where that is unambiguous."""
    if values.dtype != np.uint8 and values.dtype.kind != "f":
        raise UsageError(
            f"{name} holds {values.dtype} values: give floating-point ones in the model's own range, or 8-bit pictures"
        )
    if values.ndim < 2 or values.size == 0:
        raise UsageError(f"{name} has the shape {values.shape}: give (samples, *shape of one), at least one sample")
    item = values.shape[1:]
    grey, last = len(item) == 2, len(item) == 3 and item[-1] in MODES and item[0] not in MODES
    if shape is None:
        pictures = values.dtype == np.uint8
        shape = (1, *item) if pictures and grey else (item[2], *item[:2]) if pictures and last else item
    if item == shape or (grey and (1, *item) == shape):
        return Array(name, values, shape, half=half)
    if len(item) == 3 and (item[2], *item[:2]) == shape:
        return Array(name, values, shape, (2, 0, 1), half)
    pictures = len(item) == 2 or (len(item) == 3 and (item[0] in (1, 3) or item[-1] in (1, 3)))
    hint = f": {LATENTS}" if pictures and shape[0] not in (1, 3) else ""
    raise UsageError(f"{name} holds samples of shape {item} where the model needs {shape}{hint}")
