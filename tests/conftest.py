"""Shared by all tests: shapes and types of every signature are checked while they run."""

import gc

from tests.signatures import check

check("lipdiag")

import pytest  # noqa: E402
import torch  # noqa: E402

pytest_plugins = ["tests.holm", "tests.runs", "tests.recipes", "pytester"]

torch.set_num_threads(1)  # two small threads that wait for each other are slower than one

DEVICES = [
    "cpu",
    pytest.param("card", marks=pytest.mark.card),
    *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else []),
]


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported by now stays to the end: collecting garbage, a third of a second each time, passes it by."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(params=DEVICES, scope="session")
def device(request) -> torch.device:
    """Every device at hand, and a pretended one: see tests/card.py."""
    if request.param == "card":
        from tests import card  # from here on torch knows it, in this process

        return card.CARD
    return torch.device(request.param)


def pytest_collection_modifyitems(items):
    """Tests that look at how tensors lie in memory are not for the pretended card, whose tensors lie nowhere."""
    items[:] = [x for x in items if not (x.get_closest_marker("card") and x.get_closest_marker("real"))]


@pytest.fixture
def generator(seed) -> torch.Generator:
    """A seeded source of random numbers, the same in every test."""
    return torch.Generator().manual_seed(seed)
