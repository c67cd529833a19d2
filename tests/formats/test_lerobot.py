"""LeRobot's diffusion policies against LeRobot itself, where that is installed, and what their folders tell."""

import importlib.util
import json
import sys
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from lipdiag import checkpoints
from lipdiag.errors import CheckpointError
from lipdiag.formats import lerobot
from tests.formats.agreement import derivatives_agree
from tests.formats.originals import package

ABSENT = (
    "torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.transforms.v2",
    "datasets", "datasets.table", "datasets.features", "datasets.features.features", "pyarrow", "pyarrow.compute",
    "pyarrow.dataset", "pyarrow.parquet", "datasets.utils", "datasets.utils.logging", "gymnasium",
    "gymnasium.utils", "av", "cv2", "serial", "transformers", "deepdiff", "jsonlines", "pynput", "rerun", "imageio",
    "gymnasium.spaces", "gymnasium.vector",
)  # fmt: skip
TOLD = {
    "down_dims": [16, 32], "kernel_size": 3, "n_groups": 4, "diffusion_step_embed_dim": 16,
    "use_film_scale_modulation": True, "noise_scheduler_type": "DDPM", "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2", "beta_start": 0.0001, "beta_end": 0.02, "prediction_type": "epsilon",
    "clip_sample": True, "clip_sample_range": 1.0, "horizon": 8,
}  # fmt: skip
T = torch.tensor([0.25, 0.75], dtype=torch.float64)


@contextmanager
def installed():
    """The package, without the file that imports all policies, and with them half the world."""
    with package("lerobot", *ABSENT):
        policies = ModuleType("lerobot.policies")
        policies.__path__ = [f"{importlib.util.find_spec('lerobot').submodule_search_locations[0]}/policies"]
        sys.modules[policies.__name__] = policies
        yield


def policy():
    """A policy of the package that is told a state and its surroundings, random."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    torch.manual_seed(0)
    features = {
        "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
        "observation.environment_state": PolicyFeature(FeatureType.ENV, (2,)),
    }
    action = {"action": PolicyFeature(FeatureType.ACTION, (2,))}
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in TOLD.items()}
    return DiffusionPolicy(DiffusionConfig(input_features=features, output_features=action, device="cpu", **told))


def test_a_policy_that_lerobot_saved(tmp_path):
    """Its U-Net at each timestep, told an observation; its scheduler's noise levels."""
    with installed():
        saved = policy()
        saved.save_pretrained(tmp_path)
        theirs = saved.diffusion.unet.eval()
        seen = torch.randn(1, 10)
        predictor = checkpoints.load(tmp_path, conditioning={"global_cond": seen})
        blank = checkpoints.load(tmp_path)
    assert predictor.shape == (8, 2)
    x, k = torch.randn(2, 8, 2), torch.tensor([24.0, 74.0])
    with torch.no_grad():
        for made, given in ((predictor, seen), (blank, torch.zeros(1, 10))):
            torch.testing.assert_close(made.output(x, k), theirs(x, k, given.expand(2, -1)), rtol=1e-5, atol=1e-5)
    alpha = predictor.schedule(predictor.clock.time(k.double()))[0]
    levels = saved.diffusion.noise_scheduler.alphas_cumprod[k.long()].double()
    torch.testing.assert_close(alpha**2, levels, rtol=1e-4, atol=1e-6)
    derivatives_agree(predictor, T)


def folder(path, told, **more):
    """A policy's folder, with the two tensors by which sizes are told and an encoder's."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"type": "diffusion", **told}))
    state = {"down_modules.0.0.cond_encoder.1.weight": (32, 16 + 10), "final_conv.1.weight": (2, 16, 1)}
    tensors = {f"diffusion.unet.{name}": torch.zeros(shape) for name, shape in state.items()}
    save_file(tensors | {"diffusion.rgb_encoder.pool.weight": torch.zeros(1)}, path / "model.safetensors")
    return path


def test_what_a_folder_tells(tmp_path):
    told = lerobot.read(folder(tmp_path / "a", TOLD))
    assert (told.shape, told.network_config["global_cond_dim"], told.limit) == ((8, 2), 10, "clip(1)")
    assert checkpoints.inspect(tmp_path / "a").clock == "timesteps(100)"
    assert "1 tensors of encoders and statistics were left out" in told.notes
    sample = lerobot.read(folder(tmp_path / "b", TOLD | {"prediction_type": "sample", "clip_sample": False}))
    assert (sample.convention.spelled["parameterization"], sample.limit) == ("x0", None)
    for name, told, words in (
        ("c", {"type": "diffusion"}, "lacks down_dims, which LeRobot writes"),
        ("d", TOLD | {"horizon": 8.5}, "has 8.5 as horizon where a number"),
        ("e", TOLD | {"diffusion_step_embed_dim": [1]}, "does not hold the U-Net that LeRobot's"),
        ("f", TOLD | {"diffusion_step_embed_dim": 30}, "does not hold the U-Net that LeRobot's"),
    ):
        with pytest.raises(CheckpointError, match=words):
            lerobot.read(folder(tmp_path / name, told))
