"""The class that a network is told with each x0: its own, where the data have classes and the user chose none."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lipdiag
from lipdiag import NetworkPredictor, Plan
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import RawOutput
from lipdiag.diffusion.schedule import Linear
from lipdiag.errors import RunError, UsageError
from lipdiag.quantities.draw import data_index
from lipdiag.study.resolve import of_class

PLAN = Plan(timesteps="5,500", draws=6, quantities=("loss", "time_difference", "spectral_norm", "pairs", "sensitivity"))
LABELS = np.array([2, 0, 1, 2, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of 3 classes whose answer depends much on the class."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4, num_class_embeds=3,
        )  # fmt: skip
        nn.init.normal_(network.class_embedding.weight, std=10)
    path = tmp_path_factory.mktemp("model")
    network.save_pretrained(path / "unet")
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)


def measure(folder, data, plan=PLAN, out=None, **reading):
    return lipdiag.measure(folder, data, plan, out, progress=False, probe=False, **reading)


def notes(run) -> str:
    return " ".join(run.attrs["launches"][0]["notes"])


def test_each_draw_is_told_the_class_of_its_own_x0(folder, values, tmp_path):
    """Against runs that are told one class throughout, at the draws of that class; resumed and on its own as well."""
    np.save(tmp_path / "plain.npy", values)
    np.savez(tmp_path / "classes.npz", images=values, labels=LABELS)
    run = measure(folder, tmp_path / "classes.npz", PLAN.replace(draws=3), tmp_path / "run.zarr")
    run = measure(folder, tmp_path / "classes.npz", PLAN, tmp_path / "run.zarr")
    told = np.array([LABELS[data_index(PLAN.seed, i, 5)] for i in range(PLAN.draws)])
    assert len(set(told)) > 1
    for label in set(told):
        fixed = measure(folder, tmp_path / "plain.npy", label=int(label))
        for name in ("loss", "time_difference", "spectral_norm", "pair_difference", "sensitivity"):
            here, there = run[name].values, fixed[name].values
            np.testing.assert_allclose(here[:, told == label], there[:, told == label], rtol=1e-4, atol=1e-6)
            if name == "loss":
                assert (np.abs(here / there - 1)[:, told != label] > 1e-3).all()
    assert "is told its own class, as class_labels" in notes(run)
    assert "class_labels = 0" not in notes(run)
    other = tmp_path / "other.npz"
    np.savez(other, images=values, labels=LABELS[::-1])
    with pytest.raises(RunError, match="labels_sha256"):
        measure(folder, other, PLAN, tmp_path / "run.zarr")


def test_a_class_that_was_chosen_is_told_throughout(folder, values, tmp_path):
    np.savez(tmp_path / "classes.npz", images=values, labels=LABELS)
    plan = PLAN.replace(quantities=("loss",))
    found = measure(folder, tmp_path / "classes.npz", plan, label=1)
    np.testing.assert_array_equal(found["loss"], measure(folder, values, plan, label=1)["loss"])
    assert "are not told" in notes(found)
    assert "class_labels = 1 throughout" in notes(found)


def test_classes_that_the_model_does_not_know_are_refused(folder, values, tmp_path):
    np.savez(tmp_path / "classes.npz", images=values, labels=LABELS + 1)
    with pytest.raises(UsageError, match=r"has the class 3, and the model knows 0 to 2"):
        measure(folder, tmp_path / "classes.npz")


@pytest.mark.parametrize(
    ("names", "told"), [(("ape", "bee", "cat"), True), (("2", "0"), True), (("ape", "bee"), False)], ids=str
)
def test_folders_are_classes_where_their_names_or_their_number_tell_which(folder, tmp_path, names, told):
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), 99).save(tmp_path / name / "x.png")
    plan = PLAN.replace(quantities=("loss",), draws=8, timesteps="500")
    loss = measure(folder, tmp_path, plan)
    alone = [measure(folder, tmp_path, plan, label=k)["loss"].values for k in range(3)]
    order = [int(name) if name.isdecimal() else k for k, name in enumerate(sorted(names))]
    labels = [order[data_index(0, i, len(names))] if told else 0 for i in range(8)]
    np.testing.assert_allclose(loss["loss"][0], [alone[k][0, i] for i, k in enumerate(labels)], rtol=1e-4)
    assert ("is told its own class" in notes(loss)) is told
    assert ("2 folders and the model 3 of classes" in notes(loss)) is not told


class OneHot(nn.Module):
    """Answers with the number of the class it is told by a row of one number a class."""

    def forward(self, x, t, class_labels=None):
        return x * 0 + (class_labels * torch.arange(4.0)).sum(1)[:, None]


@pytest.mark.parametrize("raw", [False, True])
def test_rows_of_one_number_a_class_are_told_too(raw):
    predictor = NetworkPredictor(OneHot(), Linear(), eps, Timesteps(), (2,), {"class_labels": torch.zeros(1, 4)})
    predictor = RawOutput(predictor) if raw else predictor
    assert predictor.class_input == "class_labels"
    x, t = torch.zeros(3, 2), torch.full((3,), 0.5, dtype=torch.float64)
    told = {"class_labels": torch.stack([of_class(k, torch.zeros(1, 4)) for k in (3, 0, 1)])}
    assert predictor.told(told)(x, t)[:, 0].tolist() == [3, 0, 1]
    assert predictor(x, t)[:, 0].tolist() == [0, 0, 0]


def test_a_network_in_memory_keeps_the_class_it_was_given(values, tmp_path):
    class Net(nn.Module):
        def forward(self, x, t, y):
            return x * y[:, None, None, None]

    np.savez(tmp_path / "classes.npz", images=values, labels=LABELS)
    network = NetworkPredictor(Net(), Linear(), eps, Timesteps(), (1, 8, 8), {"y": torch.tensor([2])})
    plan = PLAN.replace(quantities=("time_difference", "spectral_norm"))
    found = measure(network, tmp_path / "classes.npz", plan)
    np.testing.assert_allclose(found["spectral_norm"], 2, rtol=1e-5)
    assert "are not told: the model has its own y" in notes(found)
