"""Micro-batches put together again."""

import numpy as np
import pytest

from lipdiag.study.microbatch import in_batches


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 100])
def test_every_pair_is_measured_once_and_lies_in_its_place(batch):
    """A variable that names its own timestep and draw."""
    seen = []

    def measure(timesteps, draws):
        assert len(timesteps) * len(draws) <= batch
        seen.extend((k, i) for k in timesteps for i in draws)
        return {"k": np.array([[100 * k + i for i in draws] for k in timesteps])}

    found, size = in_batches(measure, [3.0, 1.0, 2.0], range(4, 9), batch)
    assert size == batch
    np.testing.assert_array_equal(found["k"], 100 * np.array([[3.0], [1.0], [2.0]]) + np.arange(4, 9))
    assert len(seen) == len(set(seen)) == 15
