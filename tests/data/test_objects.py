"""Data that a program holds, in the forms in which programs hold them."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from lipdiag.data.objects import MOST, as_data
from lipdiag.errors import UsageError

X = torch.linspace(-1, 1, 10 * 3 * 4 * 4).reshape(10, 3, 4, 4)
Y = torch.arange(10) % 4


def pairs():
    return TensorDataset(X, Y)


@pytest.mark.parametrize(
    "data",
    [
        X,
        X.numpy(),
        pairs(),
        DataLoader(pairs(), batch_size=4),
        DataLoader(pairs(), batch_sampler=BatchSampler(SequentialSampler(pairs()), 4, drop_last=False)),
        DataLoader(pairs(), batch_size=None),
        DataLoader([{"pixel_values": x, "label": y} for x, y in zip(X, Y, strict=True)], batch_size=3),
        list(X.numpy()),
    ],
    ids=["tensor", "array", "dataset", "loader", "sampler", "unbatched", "dictionaries", "list"],
)
def test_every_form_holds_the_same_samples(data):
    found = as_data(data, (3, 4, 4))
    assert len(found) == 10
    assert all(torch.equal(found[i], X[i]) for i in range(10))
    classed = not isinstance(data, list | np.ndarray | torch.Tensor)
    assert (found.labels is None) != classed
    if classed:
        assert found.labels.tolist() == Y.tolist()


def test_a_shuffling_loader_takes_none_of_the_callers_random_numbers():
    before = torch.get_rng_state()
    as_data(DataLoader(pairs(), batch_size=4, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_of_an_endless_loader_the_first_samples_are_taken():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return (torch.full((2,), float(i)) for i in itertools.count())

    found = as_data(DataLoader(Endless(), batch_size=1000))
    assert len(found) == MOST
    assert found[MOST - 1].tolist() == [MOST - 1] * 2


def test_half_precision_and_grey_pictures():
    assert torch.equal(as_data(X.bfloat16())[3], X[3].bfloat16().float())
    grey = as_data(np.full((4, 8, 8), 255, np.uint8))
    assert grey.shape == (1, 8, 8)
    assert grey[0].unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (3, "got a int as data"),
        ([], "holds no samples"),
        ([{"text": "a"}], "the data have the entries text"),
        ([torch.zeros(2), torch.zeros(3)], "differ in shape"),
        (torch.zeros(4, 3, 5, 5), "the model needs"),
    ],
)
def test_refusals(data, sentence):
    with pytest.raises(UsageError, match=sentence):
        as_data(data, (3, 4, 4))
