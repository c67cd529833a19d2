"""Data sets, compared with the arrays and pictures they were written from."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from lipdiag.errors import UsageError
from lipdiag.training.data import dataset


def test_the_digits_are_those_of_scikit_learn():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    digits, images = dataset("digits"), load_digits().images
    assert (len(digits), digits.shape, digits.name) == (1797, (1, 8, 8), "digits")
    mine = torch.stack([digits[i] for i in range(len(digits))])
    assert mine.dtype == torch.float32
    assert torch.equal(mine[:, 0], torch.from_numpy(images / 8 - 1).float())


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_floats_are_taken_as_they_are(tmp_path, suffix):
    values = np.random.default_rng(0).standard_normal((5, 2, 3)) * 40
    path = tmp_path / f"x.{suffix}"
    np.save(path, values) if suffix == "npy" else np.savez(path, x=values)
    data = dataset(path)
    assert (len(data), data.shape) == (5, (2, 3))
    assert torch.equal(data[4], torch.from_numpy(values[4].astype(np.float32)))


@pytest.mark.parametrize(
    ("stored", "asked", "axes"),
    [
        ((4, 5), (1, 4, 5), None),
        ((4, 5, 3), (3, 4, 5), (2, 0, 1)),
        ((6, 5, 3), None, (2, 0, 1)),
        ((3, 4, 5), None, None),
    ],
)
def test_bytes_span_minus_one_to_one_and_channels_come_first(tmp_path, stored, asked, axes):
    values = np.random.default_rng(0).integers(0, 256, (3, *stored), dtype=np.uint8)
    values.flat[:2] = 0, 255
    np.save(tmp_path / "x.npy", values)
    data = dataset(tmp_path / "x.npy", asked)
    expected = values[0].transpose(axes) if axes else values[0]
    assert torch.equal(data[0], torch.from_numpy(expected.astype(np.float32) / 127.5 - 1).reshape(data.shape))
    assert (data[0].min(), data[0].max()) == (-1, 1)


def test_a_folder_holds_its_pictures_in_the_order_of_their_names(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 4, 3), dtype=np.uint8)
    for name, picture in zip(("b.png", "a.png", "sub/c.PNG"), pixels, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    data = dataset(tmp_path)
    assert (len(data), data.shape) == (3, (3, 6, 4))
    for i, k in enumerate((1, 0, 2)):
        assert torch.equal(data[i], torch.from_numpy(pixels[k].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1))
    for name in "zyxwvutsrqpo":  # more than a folder would list in order by chance
        Image.fromarray(pixels[0]).save(tmp_path / f"{name}.png")
    names = [file.name for file in dataset(tmp_path).files]
    assert names == sorted(names[:2]) + ["o.png", "p.png", "q.png", "r.png", "s.png", "c.PNG"] + [
        f"{n}.png" for n in "tuvwxyz"
    ]
    grey = dataset(tmp_path, (1, 6, 4))[0]
    assert torch.equal(
        grey[0], torch.from_numpy(np.asarray(Image.fromarray(pixels[1]).convert("L")) / np.float32(127.5) - 1)
    )


def test_the_fingerprint_follows_the_content_not_the_name(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    for name, array in {"a": values, "b": values, "c": values + 1e-9, "d": values.astype(np.float32)}.items():
        np.save(tmp_path / f"{name}.npy", array)
    a, b, c, d = (dataset(tmp_path / f"{name}.npy").fingerprint for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3
    assert a == hashlib.sha256(b"<f8 (2, 3) 127.5" + values.tobytes()).hexdigest()


def refused(tmp_path, name: str):
    """A data set that cannot be used, by the word that its refusal has to contain."""
    path = tmp_path / "x.npy"
    if name == "called":
        return tmp_path / "missing", None
    if name == "no pictures":
        return tmp_path, None
    if name == "one is expected":
        np.savez(tmp_path / "x.npz", a=np.ones(3), b=np.ones(3))
        return tmp_path / "x.npz", None
    if name in ("as a picture", "more than 8 bits", "4 x 4 pixels", "no picture has the shape"):
        folder = tmp_path / "pictures"
        folder.mkdir()
        if name == "as a picture":
            (folder / "x.png").write_bytes(b"\x89PNG broken")
        else:
            Image.fromarray(np.zeros((4, 4), np.uint16 if name == "more than 8 bits" else np.uint8)).save(
                folder / "x.png"
            )
        return folder, (1, 4, 4, 4) if name == "no picture has the shape" else (1, 5, 5)
    if name == "empty file":
        path.write_bytes(b"")
    elif name == "cannot be read":
        np.save(path, np.array([{"code": print}]), allow_pickle=True)
    elif name == "int64":
        np.save(path, np.ones((2, 3), int))
    elif name == "at least one sample":
        np.save(path, np.ones((0, 3)))
    elif name == "the model needs":
        np.save(path, np.ones((2, 3)))
    elif name == "not finite":
        np.save(path, np.array([[1.0, np.nan]]))
    return path, (7,) if name == "the model needs" else None


@pytest.mark.parametrize(
    "name",
    [
        "called", "no pictures", "one is expected", "as a picture", "more than 8 bits", "4 x 4 pixels",
        "no picture has the shape", "empty file", "cannot be read", "int64", "at least one sample", "the model needs",
        "not finite",
    ],
)  # fmt: skip
def test_refusals_say_what_is_wrong(tmp_path, name):
    path, shape = refused(tmp_path, name)
    with pytest.raises(UsageError, match=name):
        dataset(path, shape)[0]
