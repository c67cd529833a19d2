"""Pictures fitted to a model's size and in a model's range, as Pillow and arithmetic make them."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from lipdiag.cli import main
from lipdiag.data.dataset import dataset
from lipdiag.data.ranged import ranged
from lipdiag.errors import UsageError

RNG = np.random.default_rng(0)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Pictures of two sizes, neither square; returns the folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, size in (("a", (20, 31)), ("b", (64, 16))):
        Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def test_a_picture_is_resized_until_it_covers_the_sample_and_cut_to_its_centre(photos):
    fitted = dataset(photos, (3, 8, 8), resize=True)
    fitted.check()
    with Image.open(photos / "a.png") as image:  # 31 x 20: of its width 20 remain, from 5.5 to 25.5
        made = np.asarray(image.resize((8, 8), Image.Resampling.LANCZOS, box=(5.5, 0, 25.5, 20)))
    expected = torch.from_numpy(made.transpose(2, 0, 1).astype(np.float32)) / 127.5 - 1
    assert torch.equal(fitted[0], expected)
    assert fitted.fingerprint != dataset(photos, (3, 8, 8)).fingerprint
    assert fitted.fingerprint != dataset(photos, (3, 4, 4), resize=True).fingerprint
    with pytest.raises(UsageError, match=r"2 are of another size, .* or give --resize"):
        dataset(photos, (3, 8, 8)).check()


def test_black_and_white_lie_where_they_are_told_to(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[[0, 255], [51, 102]]] * 2, dtype=np.uint8))
    pictures = dataset(tmp_path / "x.npy")
    found = ranged(pictures, (0.0, 1.0))
    torch.testing.assert_close(found[0], torch.tensor([[[0.0, 1.0], [0.2, 0.4]]]))
    assert ranged(pictures, (-1.0, 1.0)) is pictures
    assert found.fingerprint != pictures.fingerprint
    assert found.name.endswith("x.npy in [0, 1]")
    np.save(tmp_path / "float.npy", np.zeros((2, 1, 2, 2), np.float32))
    for data, bounds, words in (
        (pictures, (1.0, 0.0), "the range 1,0 is none"),
        (pictures, (0.0, float("inf")), "the range 0,inf is none"),
        (dataset(tmp_path / "float.npy"), (0.0, 1.0), "holds floats, which are taken as they are"),
    ):
        with pytest.raises(UsageError, match=words):
            ranged(data, bounds)


def test_the_options_reach_the_data(photos):
    grey = photos.parent / "grey"
    grey.mkdir()
    Image.fromarray(RNG.integers(0, 256, (30, 20), dtype=np.uint8)).save(grey / "a.png")
    command = ["measure", "digits-ddpm", "--timesteps", "0,500", "--draws", "2", "--quantity", "loss", "--no-probe"]
    done = CliRunner().invoke(main, [*command, "--data", "grey", "--resize", "--range", "0,1"])
    assert done.exit_code == 0, done.stderr
    assert "x0: grey in [0, 1]" in done.stderr
    for options, words in (
        (["--data", "digits", "--resize"], "resizing is for folders of pictures, and digits is none"),
        (["--data", "grey", "--range", "0"], "--range '0' is not two numbers"),
        (["--data", "grey"], "resize the pictures, by --resize or beforehand"),
    ):
        refused = CliRunner().invoke(main, [*command, *options, "--out", "b.zarr"])
        assert refused.exit_code == 2, refused.output
        assert words in refused.stderr
