"""Units: every pair once, in whole chunks."""

import numpy as np
import pytest

from lipdiag.errors import UsageError
from lipdiag.store.layout import Layout, units


@pytest.mark.parametrize(
    ("times", "draws", "numbers"), [(64, 64, 64), (5, 3, 3072), (64, 10, 3 * 256 * 256), (1, 1, 4)]
)
def test_units_cover_every_pair_once_in_whole_chunks(times, draws, numbers):
    layout = Layout.of(None, times, numbers)
    seen = np.zeros((times, draws), int)
    for unit in units(layout, times, range(draws)):
        seen[unit.times, unit.draws] += 1
        assert unit.times.start % layout.times == 0
        assert unit.draws.start % layout.draws == 0
    assert (seen == 1).all()


@pytest.mark.parametrize(("batch", "numbers", "pairs"), [(None, 3072, 32), (12, 3072, 8), (3, 64, 3), (None, 1, 256)])
def test_a_unit_holds_what_was_asked_for_else_what_fills_a_processor(batch, numbers, pairs):
    assert Layout.of(batch, 64, numbers).pairs == pairs


def test_a_run_has_no_more_units_than_are_read_back():
    assert Layout(1, 1).room(1000, 1048) == 1048
    with pytest.raises(UsageError, match=r"1000 timesteps x 1049 draws, 1 pairs at a time, .* at most 1048 draws"):
        Layout(1, 1).room(1000, 1049)
    assert Layout(32, 8).room(64, 64) == 8 * 2**19
