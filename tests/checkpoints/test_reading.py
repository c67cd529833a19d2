"""What a user tells about a checkpoint: one record of words or objects, and what cannot be told is refused."""

import pytest
import torch

from lipdiag.checkpoints.reading import SILENT, WORDS, Reading
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.convention import Convention
from lipdiag.diffusion.schedule import Straight
from lipdiag.errors import UsageError


def test_words_and_objects_tell_the_same():
    words = Reading.of(weights="raw", schedule="straight()", clock=Timesteps(40), parameterization=None, shape=[3, 8])
    assert words.convention == Convention(Straight(), None, Timesteps(40))
    assert (words.weights, words.shape, words.factory) == ("raw", (3, 8), None)
    assert words.words == ("schedule", "clock", "weights", "shape")


def test_nothing_is_told_where_every_word_is_none():
    assert Reading.of(**dict.fromkeys(WORDS)).words == SILENT.words == ()
    assert Reading.of(function="raw").words == ()  # which is what is measured, and says nothing of a checkpoint
    assert Reading.of(conditioning={"y": torch.zeros(1)}).words == ("conditioning",)


def test_the_label_0_is_told():
    assert Reading.of(label=0).words == ("label",)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"wieghts": "raw"}, "no word 'wieghts' .* known are weights, schedule, parameterization, clock, factory"),
        ({"weights": "best"}, "weights 'best' do not exist: ask for ema or raw"),
        ({"function": "x0"}, "function is 'x0': measure eps"),
        ({"schedule": "curved()"}, "got 'curved'"),
        ({"schedule": 3}, "got a int as the schedule"),
        ({"clock": Straight()}, "got a Straight as the clock"),
        ({"parameterization": 0.5}, "got a float as the parameterization"),
    ],
)
def test_what_cannot_be_told_is_refused(words, sentence):
    with pytest.raises(UsageError, match=sentence):
        Reading.of(**words)
