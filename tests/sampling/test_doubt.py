"""Which samples a model takes for its data: real ones and its own, scaled ones, normal ones, those of no model."""

import pytest
import torch

import lipdiag
from lipdiag.data.dataset import dataset
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import VE, Karras, Linear, Straight
from lipdiag.sampling.doubt import doubt
from lipdiag.sampling.sampler import sample
from tests.networks import predictor

DIGITS = dataset("digits")


def test_real_data_and_samples_of_a_trained_model_are_data_and_what_sampling_makes_far_out_is_not():
    model = lipdiag.load("digits-ddpm")
    real, own = torch.stack([DIGITS[i] for i in range(4)]), sample(model, 4)
    assert doubt(model, real) == doubt(model, own) == ""
    far = own.clone()
    far[:, :, 0, 0] = torch.tensor([30.0, -30.0, 25.0, 40.0])[:, None]
    for wild in (6 * own, far, torch.zeros_like(own) + 0.5 * torch.randn(own.shape)):
        said = doubt(model, wild)
        assert "noised again to a log-SNR of 4" in said
        assert f"from {wild.min():.3g} to {wild.max():.3g}" in said


@pytest.mark.parametrize("schedule", [Linear(), VE(), Karras(), Straight()], ids=repr)
@pytest.mark.parametrize("size", [2, 16, 200])
def test_normal_data_are_not_doubted_though_their_model_is_the_guess_itself(schedule, size):
    model = Gaussian(torch.zeros(size).double(), torch.full((size,), 0.3).double(), schedule)
    for seed in range(5):
        assert doubt(model, sample(model, 4, steps=50, seed=seed), seed) == ""


def test_samples_of_a_network_that_was_never_trained_are_doubted():
    model = predictor()
    assert doubt(model, torch.stack([DIGITS[i] for i in range(4)]))
