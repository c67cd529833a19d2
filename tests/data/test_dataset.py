"""Data sets, compared with the arrays and pictures they were written from."""

import hashlib
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lipdiag.data.dataset import dataset
from lipdiag.errors import UsageError


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
    if name == "none of which is called":
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
        "called", "no pictures", "none of which is called", "as a picture", "more than 8 bits", "4 x 4 pixels",
        "no picture has the shape", "empty file", "cannot be read", "int64", "at least one sample", "the model needs",
        "not finite",
    ],
)  # fmt: skip
def test_refusals_say_what_is_wrong(tmp_path, name):
    path, shape = refused(tmp_path, name)
    with pytest.raises(UsageError, match=name):
        dataset(path, shape)[0]


def pictures(folder, count: int, shade: int = 0, mode: str = "RGB") -> None:
    """So many pictures of 4 x 4 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new(mode, (4, 4), shade if mode == "L" else (shade, 0, i, 7)[: len(mode)]).save(folder / f"{i}.png")


def test_links_to_folders_are_followed_once_and_no_circle_is_run_in(tmp_path):
    """As torchvision follows them; a link to a folder above, or to one met already, adds nothing."""
    pictures(tmp_path / "store" / "b", 3, 200)
    pictures(tmp_path / "data" / "a", 2, 10)
    (tmp_path / "data" / "b").symlink_to(tmp_path / "store" / "b")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "broken").symlink_to(tmp_path / "nowhere")
    data = dataset(tmp_path / "data")
    assert len(data) == 5
    assert sorted(round(float((data[i][0, 0, 0] + 1) * 127.5)) for i in range(5)) == [10, 10, 200, 200, 200]


def test_circles_upon_circles_of_links_end(tmp_path):
    """2^40 ways through 40 folders, each with two links to the next."""
    for i in range(40):
        (tmp_path / f"{i}").mkdir()
        for way in "xy":
            (tmp_path / f"{i}" / way).symlink_to(tmp_path / f"{i + 1}")
    pictures(tmp_path / "40", 2)
    assert len(dataset(tmp_path / "0")) == 2


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", ".git/a", "__MACOSX", "@eaDir"])
def test_hidden_copies_are_no_data(tmp_path, hidden):
    pictures(tmp_path / ".cache" / "data", 2)
    pictures(tmp_path / ".cache" / "data" / hidden, 3)
    pictures(tmp_path / "other", 1)
    (tmp_path / "other" / "0.png").rename(tmp_path / ".cache" / "data" / "._0.png")
    assert len(dataset(tmp_path / ".cache" / "data")) == 2  # a folder that was asked for is not hidden


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    pictures(tmp_path / "a", 1)
    pictures(tmp_path / "b", 1)
    scan = os.scandir

    def refusing(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UsageError, match=r"b cannot be read: Permission denied"):
        dataset(tmp_path)


@pytest.mark.parametrize(
    ("names", "labels", "numbered"),
    [
        (("cat", "dog"), [0, 0, 1, 1], False),
        (("10", "9"), [10, 10, 9, 9], True),
        (("a/x", "b/y"), [0, 0, 1, 1], False),
        (("only",), None, None),
        ((".",), None, None),
        (("a", "."), None, None),
    ],
)
def test_folders_of_pictures_are_classes_where_all_lie_in_one(tmp_path, names, labels, numbered):
    for name in names:
        pictures(tmp_path / name, 2)
    data = dataset(tmp_path)
    if labels is None:
        assert data.labels is None
    else:
        assert data.labels.tolist() == labels
        assert data.numbered is numbered


@pytest.mark.parametrize(
    "keys", [("images", "labels"), ("x", "y"), (None, None), ("data", "targets"), ("images", "label")]
)
def test_labels_beside_the_samples_are_read_by_their_usual_names(tmp_path, keys):
    values, labels = np.ones((3, 2, 2), np.float32), np.array([[2], [0], [1]])
    if keys[0] is None:
        np.savez(tmp_path / "x.npz", values, labels[:, 0])
    else:
        np.savez(tmp_path / "x.npz", **{keys[0]: values, keys[1]: labels})
    data = dataset(tmp_path / "x.npz")
    assert (len(data), data.labels.tolist()) == (3, [2, 0, 1])


def others(tmp_path, name: str):
    """A file that is given in the place of an array."""
    path = tmp_path / name
    if name == "x.npy":
        np.save(path, np.array([np.ones(2), None], dtype=object), allow_pickle=True)
    elif name == "x.npz":
        np.savez(path, x=np.array([{}], dtype=object))
    elif name in ("x.pt", "weights"):
        torch.save(torch.ones(2, 3), path)
    elif name == "x.safetensors":
        save_file({"x": torch.ones(2, 3)}, path)
    elif name == "x.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/0.png", b"")
    elif name == "x.png":
        Image.new("L", (4, 4)).save(path)
    else:
        path.write_text("1,2\n3,4\n")
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.npy", "Python objects"), ("x.npz", "Python objects"), ("x.pt", "holds tensors"),
        ("weights", "holds tensors"), ("x.safetensors", "holds tensors"), ("x.zip", "an archive: unpack it"),
        ("x.csv", "is a text: save"), ("x.png", "a single picture: give the folder"), ("x", "neither a .npy nor"),
    ],
)  # fmt: skip
def test_files_that_are_no_arrays_are_called_what_they_are(tmp_path, name, words):
    with pytest.raises(UsageError, match=words) as error:
        dataset(others(tmp_path, name))
    assert "arrays (" not in str(error.value)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_without_a_fourth_channel_is_no_latents(tmp_path, mode):
    pictures(tmp_path / "a", 1, mode=mode)
    for shape in ((4, 4, 4), (4, 8, 8), (16, 4, 4)):
        with pytest.raises(UsageError, match=r"these are latents.*--encode"):
            dataset(tmp_path / "a", shape)
    pictures(tmp_path / "b", 1, mode="RGBA")
    assert dataset(tmp_path / "b", (4, 4, 4))[0][:, 0, 0].tolist() == pytest.approx([-1, -1, -1, 7 / 127.5 - 1])
    pictures(tmp_path / "b" / "c", 1, mode=mode)
    with pytest.raises(UsageError, match="no fourth channel"):
        dataset(tmp_path / "b", (4, 4, 4))[1]
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match="these are latents"):
        dataset(tmp_path / "x.npy", (4, 4, 4))
