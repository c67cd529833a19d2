"""Networks that are used as they were trained, for long or hardly at all: how often does the probe contradict that?"""

import itertools
from collections.abc import Iterable

import pytest
import torch
from scipy.stats import beta

from lipdiag.checkpoints.probe import DRAWS, probe
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear
from tests.checkpoints.families import CONVENTIONS, STEPS, Blend, Family, families

SIZES, SKILLS = (1, 2, 8, 32, 64, 512), (0.0, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0)
BLENDS = list(itertools.product(SIZES, CONVENTIONS, SKILLS))


def of_training(some: Iterable[Family], steps: tuple[int, ...]):
    """Every network after so many steps, with data it was not trained on."""
    for family in some:
        for after, predictor in family.trained(steps):
            yield (family, after), predictor, family.examples(DRAWS, 5)


def of_skill(some: Iterable[tuple]):
    """Exact denoisers mixed with random networks."""
    for seed, (size, convention, skill) in enumerate(some):
        blend = Blend(size, convention, skill, seed)
        yield (size, convention, skill), blend.predictor(), blend.examples(DRAWS)


def alarms(trials) -> tuple[list, int]:
    """What the probe would have told another convention, of how many."""
    found = [(name, probe(predictor, data, seed)) for seed, (name, predictor, data) in enumerate(trials)]
    return [(name, result.notes) for name, result in found if not result.right], len(found)


def at_most(count: int, of: int) -> float:
    """Clopper and Pearson's upper bound of a rate, of confidence 95 %."""
    return float(beta.ppf(0.95, count + 1, of - count))


def test_a_sample_of_them_gives_none():
    for trials in (of_training(families(range(1))[2:60:14], (20, 100)), of_skill(BLENDS[17::41])):
        found, count = alarms(trials)
        assert not found
        assert count >= 9


@pytest.mark.slow
def test_at_most_one_in_a_hundred():
    """Kinds of data and network times conventions times lengths of training; sizes times conventions times skills."""
    found, count = alarms(itertools.chain(of_training(families(range(1)), STEPS), of_skill(BLENDS)))
    assert count == 7 * len(CONVENTIONS) * len(STEPS) + len(BLENDS)
    assert at_most(len(found), count) <= 0.01, found


@pytest.mark.parametrize("seed", [0, 3])
def test_a_network_whose_answers_are_too_small_is_not_told_another_convention(seed):
    """A fifth of what they should be: read as v they are less wrong, and still no better than a guess."""
    blend = Blend(32, CONVENTIONS[3], 0.2, seed)
    assert probe(blend.predictor(), blend.examples(DRAWS), seed).right


def test_a_network_of_few_numbers_is_shown_as_many_as_its_size_needs():
    """Points of a plane: so many noises a draw that there are 32 numbers at every level."""
    blend, seen = Blend(2, CONVENTIONS[0], 1.0, 0), []
    blend.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    probe(blend.predictor(), blend.examples(DRAWS))
    assert max(seen) >= 8 * 6 * 32


def test_a_few_samples_are_no_evidence_whatever_the_draws():
    """The same wrong label, which many samples give away."""
    blend = Blend(64, CONVENTIONS[0], 1.0, 0)
    wrong = NetworkPredictor(blend, CONVENTIONS[2][0], CONVENTIONS[2][1], CONVENTIONS[2][2], (64,))
    many = blend.examples(DRAWS)
    found, few, repeated = (probe(wrong, data) for data in (many, many[:1], many[:2].repeat(DRAWS // 2, 1)))
    assert (found.right, few.right, repeated.right) == (False, True, True)
    assert (found.samples, few.samples, repeated.samples) == (DRAWS, 1, 2)
    assert all("too few" in some.notes[0] or "beyond doubt" in some.notes[0] for some in (few, repeated))


def test_the_best_model_of_normal_data_is_not_called_untrained():
    """Nothing finds more of the noise in them than a guess from mean and variance; a network of zeros finds less."""
    generator = torch.Generator().manual_seed(0)
    data, clock = torch.randn(DRAWS, 16, generator=generator), Timesteps(1000)
    best = Gaussian(torch.zeros(16), torch.ones(16), Linear(), clock)
    for network, words in (
        (lambda x, k: best(x.double(), clock.time(k.double())).to(x.dtype), "so plain that there may be no more"),
        (lambda x, k: torch.zeros_like(x), "it is untrained"),
    ):
        found = probe(NetworkPredictor(network, Linear(), eps, clock, (16,)), data)
        assert found.right
        assert words in found.notes[0]
