"""Which format a path is, and what the embedded models tell."""

import hashlib
import json

import pytest
import torch

from lipdiag import checkpoints
from lipdiag.checkpoints.reading import Reading
from lipdiag.checkpoints.save import save
from lipdiag.data.dataset import ASSETS, dataset
from lipdiag.diffusion.clock import Shared, Timesteps
from lipdiag.diffusion.spelling import spell
from lipdiag.errors import CheckpointError
from lipdiag.training.recipe import RECIPES, Recipe
from lipdiag.watching.difference import difference, drawn


@pytest.fixture(scope="module")
def pair():
    """The embedded DDPM and its twin."""
    return [checkpoints.load(name) for name in checkpoints.EMBEDDED]


def test_the_embedded_models_differ_in_the_clock_alone():
    ddpm, etsdm = (checkpoints.inspect(name) for name in checkpoints.EMBEDDED)
    assert ddpm.clock == "timesteps(1000)"
    assert etsdm.clock == "shared(timesteps(1000), 100, 5)"
    for field in ("kind", "network", "parameters", "shape", "schedule", "parameterization", "weights", "dtype", "data"):
        assert getattr(ddpm, field) == getattr(etsdm, field)
    assert ddpm.training["recipe"] | {"clock": etsdm.clock} == etsdm.training["recipe"]
    recorded = ddpm.training["recipe"]
    made = Recipe(
        **recorded | {"shape": tuple(recorded["shape"])}
    )  # fields that came later have the values that change nothing
    assert made == RECIPES["digits"], "the embedded model is not what the recipe makes"


@pytest.mark.parametrize("name", checkpoints.EMBEDDED)
def test_an_embedded_model_tells_all_of_itself(name):
    found = checkpoints.inspect(name)
    folder = ASSETS / name
    assert (found.weights, found.dtype, found.data, found.unknown, found.notes) == ("ema", "float32", "digits", (), ())
    assert found.parameters == sum(weight.numel() for weight in checkpoints.load(name).parameters())
    lines = [
        f"{hashlib.sha256((folder / f).read_bytes()).hexdigest()}  {f}\n" for f in ("config.json", "model.safetensors")
    ]
    assert found.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    card = (folder / "README.md").read_text()
    assert dataset("digits").fingerprint in card
    assert "CC BY 4.0" in card
    assert (folder / "model.safetensors").stat().st_size <= 1_500_000


def test_an_inspection_shows_what_is_told_in_the_place_of_the_files_as_it_is_measured():
    told = Reading.of(parameterization="v", schedule="linear", shape=(1, 16, 16))
    found, made = checkpoints.inspection("digits-ddpm", told), checkpoints.predictor("digits-ddpm", told)
    assert (found.schedule, found.parameterization, found.clock) == (
        spell(made.schedule),
        spell(made.parameterization),
        spell(made.clock),
    )
    assert (found.parameterization, found.shape) == ("v", (1, 16, 16))
    assert found.notes == ("the files tell the parameterization eps",), "what agrees needs no note"


def test_the_embedded_pair_shows_the_singularity_and_its_cure(pair):
    """The rise of K towards the data in the DDPM; in its twin none inside the blocks, jumps at their edges."""
    ddpm, etsdm = pair
    data = dataset("digits")
    assert (ddpm.clock, etsdm.clock) == (Timesteps(1000), Shared(Timesteps(1000), 100, 5))
    draws = drawn(data, 32)
    near, far = (difference(ddpm, *draws, k).time_difference for k in (1, 100))
    assert near > 10 * far
    assert difference(etsdm, *draws, 1).time_difference == 0
    assert difference(etsdm, *draws, 19).time_difference > near


def test_the_embedded_pair_predicts_noise(pair):
    """At k = 100 it explains more than half of the noise, of which the guess 0 explains nothing."""
    data, generator = dataset("digits"), torch.Generator().manual_seed(0)
    x0 = torch.stack([data[i] for i in range(0, 1797, 30)])
    noise = torch.randn(x0.shape, generator=generator)
    t = torch.full((len(x0),), 0.101, dtype=torch.float64)
    alpha, sigma = (c[0].item() for c in pair[0].schedule(t))
    for predictor in pair:
        with torch.no_grad():
            error = (predictor(alpha * x0 + sigma * noise, t) - noise).square().mean()
        assert error < 0.5


def test_a_path_that_exists_wins_over_an_embedded_name(tmp_path, monkeypatch, pair):
    monkeypatch.chdir(tmp_path)
    save("digits-ddpm", pair[1], weights="ema", data="mine")
    assert checkpoints.inspect("digits-ddpm").data == "mine"


def test_what_is_given_replaces_what_the_file_tells(pair):
    clock = "shared(timesteps(1000), 100, edges=(0, 5, 15, 40, 100))"
    assert checkpoints.load("digits-ddpm", clock=clock).clock == Shared(Timesteps(1000), 100, edges=(0, 5, 15, 40, 100))
    assert checkpoints.load("digits-ddpm", clock=pair[1].clock).clock == pair[1].clock


def test_nothing_and_something_else_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*missing.*digits-ddpm, digits-etsdm"):
        checkpoints.load(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="without a model"):
        checkpoints.load(tmp_path)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "zarr.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds measurements and no model; plot or report them"):
        checkpoints.load(tmp_path / "r")
    (tmp_path / "x.pt").write_text("<html>")
    with pytest.raises(CheckpointError, match="HTML"):
        checkpoints.load(tmp_path / "x.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="no file"):
        checkpoints.load(tmp_path / "link.pt")
    # A distributed checkpoint's .metadata is a pickle that torch itself would run.
    (tmp_path / ".metadata").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(CheckpointError, match="without a model"):
        checkpoints.load(tmp_path)
