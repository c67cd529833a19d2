"""What stands at the top of a page: three sentences about the runs, and what to do next."""

import shlex
from collections.abc import Callable, Sequence

from ..comparison.comparison import compare
from ..errors import RunError, UsageError
from ..health.judge import judge
from ..results.run import Run
from .verdict import between, verdicts

SENTENCES = 3
FIRST = ("K, sum", "K, largest", "loss")
"""Statements about two models that are told before the others."""


def summary(runs: Sequence[Run]) -> list[str]:
    """At most three sentences: of one run what stands out, of two how they differ, of more each one's speed."""
    told = differences(runs) if len(runs) == 2 else []
    if not told:
        place = "" if len(runs) == 1 else "{}: "
        told = [
            place.format(run.label) + verdict.words
            for run in runs
            for verdict in verdicts(run)[: SENTENCES if len(runs) == 1 else 1]
        ]
    return [words[:1].upper() + words[1:] for words in told[:SENTENCES]]


def differences(runs: Sequence[Run]) -> list[str]:
    """How two runs differ, what matters most first; nothing where they cannot be compared."""
    first, second = runs
    try:
        comparison = compare(first.dataset, second.dataset, labels=(first.label, second.label))
    except (RunError, UsageError):
        return []
    said = [verdict.words for verdict in between(comparison)]
    chief = [words for start in FIRST for words in said if words.startswith(start)][: len(FIRST)]
    return list(dict.fromkeys([*chief, *said]))


def unfinished(runs: Sequence[Run]) -> list[str]:
    """That draws are missing, and how to measure them."""
    said = []
    for run in runs:
        done = run.dataset["done"].values
        if lost := int((done != 1).sum()):
            how = "with --retry for those that were given up" if (done == 2).any() else "and measures them"
            said.append(f"Of {run.label}, {lost} of {done.size} pairs are missing: the command below goes on, {how}.")
    return said


def company(runs: Sequence[Run]) -> list[str]:
    """What runs may be put beside: a remedy beside a run of one model, further trainings beside a pair."""
    if len(runs) == 2:
        a, b = (folder(run, name) for run, name in zip(runs, "AB", strict=True))
        return [
            "What is said here is true of these two networks. Whether their trainings differ needs further seeds: "
            f"`lipdiag compare {a} {b} --pair A2 B2`; whether their samples do, `lipdiag evaluate` of both."
        ]
    run = runs[0]
    if len(runs) > 1 or run.shared or not run.has("time_difference"):
        return []
    return [
        f"`lipdiag advise {folder(run, 'RUN')}` proposes where {run.label} could share timesteps, from the K measured "
        "here.",
        f"A remedy of {run.label} that is measured by the same plan is compared draw by draw: "
        f"`lipdiag compare {folder(run, 'RUN')} REMEDY`.",
    ]


def health(runs: Sequence[Run]) -> list[str]:
    """What is wrong by the laws of true models, with the evidence and a remedy, and what could not be judged."""
    said = []
    for run in runs:
        if run.raw or run.over_logsnr:
            continue
        diagnosis = judge(run.dataset, label=run.label)
        for fault in diagnosis.faults:
            name = fault.name.replace("_", " ")
            said.append(f"{run.label} has a fault, {name}{fault.where}: {fault.evidence}. To do: {fault.remedy}.")
        said += [f"{run.label} is not judged: {reason}." for reason in diagnosis.undecided]
        said += diagnosis.missing
    return said


def folder(run: Run, name: str) -> str:
    """How a command spells a run: its path, or a name in its place where it was never opened from one."""
    return name if run.path is None else shlex.quote(run.path)


ADVISERS: tuple[Callable[[Sequence[Run]], list[str]], ...] = (unfinished, health, company)
"""Who says what to do about runs, in this order: each gives sentences, in which `code` is code."""


def to_do(runs: Sequence[Run]) -> list[str]:
    """What to do next, in sentences."""
    return [sentence for adviser in ADVISERS for sentence in adviser(runs)]
