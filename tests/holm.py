"""Statistical tests hand in p-values, and Holm's step-down procedure judges them together when the session ends.

A session of right code fails by chance with probability LEVEL at most, however many p-values there are and however they
depend on each other. A test is statistical by asking for the fixture `p_value`, and draws by the fixture `seed`: 0, or
LIPDIAG_SEED. Under pytest-xdist p-values travel in the reports, so that the controller sees those of all workers.

References:
    Holm, A simple sequentially rejective multiple test procedure, 1979.
"""

import os
from collections.abc import Callable, Mapping

import pytest
from scipy.stats import binom

LEVEL = 1e-4


def holm(p_values: Mapping[str, float], level: float = LEVEL) -> list[str]:
    """Names of the hypotheses that are rejected, the least likely first."""
    ordered = sorted(p_values, key=p_values.__getitem__)
    for place, name in enumerate(ordered):
        if p_values[name] > level / (len(ordered) - place):
            return ordered[:place]
    return ordered


def coverage(hits: int, trials: int, least: float, most: float = 1.0) -> float:
    """P-value of so many hits where the chance of each lies from `least` to `most`; one-sided where `most` is 1."""
    below, above = binom.cdf(hits, trials, least), binom.sf(hits - 1, trials, most)
    return float(below if most == 1 else min(1.0, 2 * min(below, above)))


@pytest.fixture
def seed(request) -> int:
    """0; in statistical tests what LIPDIAG_SEED says."""
    return int(os.environ.get("LIPDIAG_SEED", 0)) if request.node.get_closest_marker("statistical") else 0


@pytest.fixture
def p_value(record_property) -> Callable[[float], None]:
    """Takes a p-value; smaller or equal to a with probability a at most if the code is right."""

    def take(p: float) -> None:
        assert 0 <= p <= 1, f"{p} is no probability"
        record_property("p_value", float(p))

    return take


class Family:
    """All p-values of a session, by test."""

    def __init__(self):
        self.p_values: dict[str, float] = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            found = [value for name, value in report.user_properties if name == "p_value"]
            self.p_values |= {f"{report.nodeid} ({n} of {len(found)})": p for n, p in enumerate(found, 1)}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        if holm(self.p_values) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if not self.p_values:
            return
        rejected = holm(self.p_values)
        said = f"statistics at seed {os.environ.get('LIPDIAG_SEED', 0)}: {len(self.p_values)} p-values, smallest "
        said += f"{min(self.p_values.values()):.2g}, Holm at {LEVEL:g}: {len(rejected) or 'none'} rejected"
        terminalreporter.write_line(said, red=bool(rejected))
        for name in rejected:
            terminalreporter.write_line(f"REJECTED {name} - p = {self.p_values[name]:.2g}", red=True)


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Family())


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    for item in items:
        if "p_value" in getattr(item, "fixturenames", ()):
            item.add_marker("statistical")
