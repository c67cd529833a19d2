"""What stands at the top of a page: three sentences about the runs, and what to do next."""

from collections.abc import Callable, Sequence

from ..comparison.comparison import compare
from ..errors import RunError, UsageError
from ..results.run import Run
from .verdict import between, verdicts

SENTENCES = 3
FIRST = ("K, sum", "K, largest", "loss")
"""Statements about two models that are told before the others."""


def summary(runs: Sequence[Run]) -> list[str]:
    """At most three sentences: of one run what stands out, of two how they differ, of more each one's speed."""
    if len(runs) == 1:
        return [verdict.words for verdict in verdicts(runs[0])][:SENTENCES]
    if len(runs) == 2:
        try:
            said = [verdict.words for verdict in between(compare(*(run.dataset for run in runs), labels=names(runs)))]
        except (RunError, UsageError):
            said = []
        if said:
            chosen = [next((words for words in said if words.startswith(start)), None) for start in FIRST]
            return list(dict.fromkeys([words for words in chosen if words] + said))[:SENTENCES]
    return [f"{run.label}: {verdict.words}" for run in runs for verdict in verdicts(run)[:1]][:SENTENCES]


def names(runs: Sequence[Run]) -> list[str]:
    return [run.label for run in runs]


def unfinished(run: Run) -> list[str]:
    """That draws are missing, and how to measure them."""
    done = run.dataset["done"].values
    if (done == 1).all():
        return []
    given_up, missing = int((done == 2).sum()), int((done == 0).sum())
    said = (
        f"Of {run.label}, {missing + given_up} of {done.size} pairs are not measured: the command below goes on with "
    )
    return [said + "them" + (", with --retry for those that were given up." if given_up else ".")]


def company(run: Run) -> list[str]:
    """With what a run may be put side by side."""
    if run.shared or not run.has("time_difference"):
        return []
    return [
        f"`lipdiag advise RUN` proposes where {run.label} could share timesteps, from the K measured here.",
        f"A remedy of {run.label} that is measured by the same plan is compared draw by draw: `lipdiag compare A B`.",
    ]


ADVISERS: tuple[Callable[[Run], list[str]], ...] = (unfinished, company)
"""Who says what to do about a run, in this order: each gives sentences."""


def to_do(runs: Sequence[Run]) -> list[str]:
    """What to do next, in sentences; what needs another run only where there is one run."""
    advisers = ADVISERS if len(runs) == 1 else [adviser for adviser in ADVISERS if adviser is not company]
    return [sentence for run in runs for adviser in advisers for sentence in adviser(run)]
