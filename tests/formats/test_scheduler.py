"""What old and strange scheduler configs tell of a training, compared with diffusers' own schedulers."""

import inspect

import diffusers
import pytest
import torch

from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps, x0
from lipdiag.formats.scheduler import SAMPLING, TRAINING, stated

OLD = {
    "_class_name": "DDPMScheduler", "_diffusers_version": "0.7.0", "beta_start": 1e-4, "beta_end": 0.02,
    "beta_schedule": "linear", "trained_betas": None, "variance_type": "fixed_small", "clip_sample": True,
}  # fmt: skip


def read(**changes):
    return stated(OLD | changes, "UNet2DModel")


@pytest.mark.parametrize(
    ("former", "prediction", "contradiction"),
    [
        ({}, eps, False),
        ({"predict_epsilon": True}, eps, False),
        ({"predict_epsilon": False}, x0, False),
        ({"predict_epsilon": False, "prediction_type": "sample"}, x0, False),
        ({"predict_epsilon": True, "prediction_type": "v_prediction"}, None, True),
        ({"predict_epsilon": False, "prediction_type": "epsilon"}, None, True),
    ],
)
def test_the_former_name_of_the_prediction(former, prediction, contradiction):
    """As diffusers 0.10 took it over: epsilon where it is true, else sample; where both are stated they must agree."""
    found = read(**former)
    assert found.convention.parameterization == prediction
    assert (("contradict" in " ".join(found.notes)), len(found.notes)) == (contradiction, int(contradiction))


@pytest.mark.parametrize("changes", [{}, {"beta_schedule": "scaled_linear"}, {"beta_schedule": "squaredcos_cap_v2"}])
def test_the_former_name_of_the_number_of_timesteps(changes):
    found = read(timesteps=500, tensor_format="pt", timestep_values=None, **changes)
    expected = diffusers.DDPMScheduler(num_train_timesteps=500, **changes).alphas_cumprod.double()
    t = torch.arange(1, 501, dtype=torch.float64) / 500
    torch.testing.assert_close(found.convention.schedule(t)[0] ** 2, expected, rtol=1e-3, atol=2e-6)
    assert (found.convention.clock, found.notes) == (Timesteps(500), ())
    both = read(timesteps=500, num_train_timesteps=1000)  # today's name is the one that diffusers reads
    assert both.convention.clock == Timesteps(1000)
    assert "timesteps" in both.notes[0]


@pytest.mark.parametrize(
    "name", ["DDPMScheduler", "FlowMatchEulerDiscreteScheduler", "ScoreSdeVeScheduler", "EDMEulerScheduler"]
)
def test_what_is_not_known_is_told_whatever_the_class(name):
    found = read(_class_name=name, novel=3, absent=None)
    assert "ignored: novel" in " ".join(found.notes)
    assert "absent" not in " ".join(found.notes)
    assert "ignored" not in " ".join(read(_class_name=name).notes)


def test_every_argument_of_diffusers_schedulers_of_diffusion_is_known():
    """Of the installed version; discrete data, and classes without a schedule that is known, are no subject."""
    others = (
        "Flax", "VQDiffusion", "Amused", "BlockRefinement", "EntropyBound", "DiscreteDDIM", "Piflow", "RFD4", "Helios",
        "DDPMWuerstchen",
    )  # fmt: skip
    seen = 0
    for name in dir(diffusers):
        if name.endswith("Scheduler") and not name.startswith(others):
            try:
                kind = getattr(diffusers, name)
                arguments = set(inspect.signature(kind.__init__).parameters) - {"self", "args", "kwargs"}
            except (ImportError, RuntimeError):
                continue
            seen += 1
            assert arguments <= TRAINING | SAMPLING, name
    assert seen > 20
