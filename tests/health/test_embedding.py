"""The embedding of time by itself: what is wrong with one is found, against arithmetic of its own."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.diffusion.clock import Shared, Timesteps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.health.checks import CHECKS
from lipdiag.health.embedding import Embedded, chain, embedded, embedding_tests
from lipdiag.health.examine import PLAN, looked_at
from lipdiag.study.measure import prepared
from tests.health.planted import SMALL, data, perceptron

LIMITS = {name: check.threshold for name, check in CHECKS.items()}
K = np.arange(1000.0)


def found(said: np.ndarray, told: np.ndarray = K, given: np.ndarray | None = None):
    given = told[:, None] if given is None else given
    return {test.check: test for test in embedding_tests(Embedded(told, given, said), LIMITS)}


def waves(k: np.ndarray, slowest: float = 1e-4) -> np.ndarray:
    angles = k[:, None] * np.geomspace(1, slowest, 32)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1)


def test_a_sinusoidal_embedding_is_sound():
    assert {test.p for test in found(waves(K)).values()} == {1.0}
    assert set(found(waves(K))) == {"plateau", "grain", "alias", "pace"}


def test_timesteps_that_are_rounded_before_they_are_embedded():
    rounded = torch.from_numpy(K).bfloat16().double().numpy()
    test = found(waves(rounded), given=rounded[:, None])["plateau"]
    assert test.estimate.value == pytest.approx((np.diff(rounded) == 0).mean())
    assert (test.p, test.said) == (0.0, " and in what it is given, first at timestep 256")
    assert "not in what it is given" in found(waves(rounded))["plateau"].said


def test_an_embedding_that_is_rounded_itself():
    """Its error, against the embedding that was not rounded."""
    exact = waves(K / 50, 0.1)
    rounded = torch.from_numpy(exact).bfloat16().double().numpy()
    test = found(rounded)["grain"]
    error, change = (np.linalg.norm(z, axis=1) for z in (rounded - exact, np.diff(rounded, axis=0)))
    assert test.estimate.value == pytest.approx(np.median(error[:-1] / change), rel=0.15)
    assert test.p == 0.0
    assert found(exact.astype(np.float32).astype(float))["grain"].estimate.value == 0


def test_an_embedding_that_comes_round():
    angles = 2 * np.pi * K[:, None] / 100 * np.arange(1, 5)
    test = found(np.concatenate([np.sin(angles), np.cos(angles)], 1))["alias"]
    assert (test.estimate.value, test.p) == (1.0, 0.0)
    assert test.said in {f", such as 0 like {k}" for k in range(100, 1000, 100)}


def test_an_embedding_whose_neighbours_are_strangers():
    noise = np.random.default_rng(0).standard_normal((1000, 64))
    test = found(noise)["pace"]
    assert (test.estimate.value, test.p) == (pytest.approx(1.0, abs=0.05), 0.0)


def test_passes_end_where_the_embedding_is_known():
    model = perceptron()
    calls = []
    handle = model.network.first.register_forward_hook(lambda *_: calls.append(1))
    with handle:
        known = embedded(model)
    assert not calls
    assert known.told.tolist() == K.tolist()
    with torch.no_grad():
        angles = torch.tensor([[17.0]]) * model.network.frequencies
        truth = model.network.time_embed(torch.cat([angles.sin(), angles.cos()], 1))
    np.testing.assert_allclose(known.said[17], truth[0].double().numpy(), rtol=1e-5, atol=1e-5)


def test_a_shared_clock_is_asked_for_what_it_tells():
    model = perceptron()
    shared = Shared(Timesteps(), 100, 5)
    told = embedded(NetworkPredictor(model.network, model.schedule, model.parameterization, shared, (SMALL,))).told
    assert told[:7].tolist() == [0, 20, 40, 60, 80, 100, 101]


def test_networks_without_an_embedding_of_a_known_name_have_none():
    assert embedded(lipdiag.NetworkPredictor(lambda x, t: x, "linear", "eps", "timesteps(1000)", (SMALL,))) is None


def test_the_links_are_those_of_the_networks_own_parts():
    model = perceptron()
    with prepared(model, data(SMALL), PLAN.replace(timesteps="3,500", draws=8), None, True, "cpu") as ready:
        point = looked_at(ready)
        links = chain(point)
    assert [link.timestep for link in links] == [3, 500]
    net = model.network
    for link in links:
        here = point.timestep == link.timestep
        x = point.x[here]
        with torch.no_grad():
            outputs, codes = [], []
            for k in (link.timestep, link.timestep + 1):
                angles = k * net.frequencies
                codes.append((features := torch.cat([angles.sin(), angles.cos()]), net.time_embed(features)))
                outputs.append(net(x, torch.full((len(x),), float(k))))
            given, said = ((b - a).norm().item() for a, b in zip(*codes, strict=True))
            output = (outputs[1] - outputs[0]).norm(dim=1).mean().item()
        assert link.given == pytest.approx(given, rel=1e-3)
        assert link.embedding == pytest.approx(said / given, rel=1e-3)
        assert link.network == pytest.approx(output / said, rel=1e-3)
        assert link.output == pytest.approx(output, rel=1e-3)
