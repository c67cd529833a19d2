"""The benchmark's results as text of 80 columns, and as JSON."""

import dataclasses
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.cost import CASES, Cost
from benchmarks.goals import Goal
from benchmarks.rivals import Rival

EXPLANATION = """\
F: one forward pass of the same batch without gradients, timed before and after.
k: Krylov steps taken. floor: F needed at least, one for the linearization and
one for each product. took: F by the clock, median of rounds. *: not run, but
priced by the products of the full report. -: left out for lack of time. Full
report: spectral norm certified to 5 %, time derivative, Frobenius norm and
trace with intervals."""


@dataclass
class Result:
    """All that was found about one network.

    Attributes:
        title: Its name and size.
        forward: Pairs -> seconds of a forward pass.
        costs: Of its quantities.
        rivals: lipdiag first.
        rival_pairs: Pairs that rivals were compared on.
        reference: How well the largest singular value is known that errors are told by.
        goals: Promises that concern it.
    """

    title: str
    forward: dict[int, float] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    rivals: list[Rival] = field(default_factory=list)
    rival_pairs: int = 0
    reference: str = ""
    goals: list[Goal] = field(default_factory=list)


def hardware() -> str:
    """Processor, threads and versions."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return (
        f"{model}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def text(results: list[Result]) -> str:
    """Every table."""
    lines = [hardware(), "", EXPLANATION]
    for result in results:
        lines += ["", "", *costs(result), "", *rivals(result)]
    return "\n".join([*lines, "", "", *goals(results)])


def costs(result: Result) -> Iterator[str]:
    yield result.title
    every = list(dict.fromkeys(cost.pairs for cost in result.costs))
    for i in range(0, len(every), 2):
        yield from columns(result, every[i : i + 2])


def columns(result: Result, pairs: list[int]) -> Iterator[str]:
    """Costs at one or two batch sizes."""
    forward = (f"{p} pairs, F = {1e3 * result.forward[p]:.0f} ms" for p in pairs)
    yield f"{'':<25}" + "".join(f"{part:>27}" for part in forward)
    yield f"{'':<25}" + f"{'k':>7}{'floor':>6}{'took':>8}{'ratio':>6}" * len(pairs)
    costs = {(cost.case, cost.pairs): cost for cost in result.costs}
    for case in CASES if costs else ():
        yield f"{case:<25}" + "".join(cell(costs.get((case, p))) for p in pairs)


def cell(cost: Cost | None) -> str:
    if cost is None:
        return f"{'-':>7}{'-':>6}{'-':>8}{'-':>6}"
    k = cost.krylov_steps or "-"
    return f"{k:>7}{cost.floor:>6}{cost.passes:>7.1f}{' ' if cost.rounds else '*'}{cost.ratio:>6.2f}"


def rivals(result: Result) -> Iterator[str]:
    if not result.rivals:
        yield "Rivals were left out for lack of time."
        return
    yield f"Largest singular value at a median error of 5e-4, {result.rival_pairs} pairs"
    yield f"({result.reference})"
    yield f"{'':<46}{'products':>9}{'error':>8}{'F':>9}{'ratio':>8}"
    for rival in result.rivals:
        ratio = rival.passes / result.rivals[0].passes
        how = "run" if rival.run else "counted"
        yield f"{rival.method:<46}{rival.products:>9.0f}{rival.error:>8.0e}{rival.passes:>9.0f}{ratio:>8.1f}"
        yield f"    {rival.setting}, {how}"


def goals(results: list[Result]) -> Iterator[str]:
    yield f"{'Goals':<59}{'goal':>7}{'found':>7}"
    for result in results:
        for goal in result.goals:
            sign = "<=" if goal.most else ">="
            limit = f"{sign}{goal.limit:g}"
            yield f"{goal.promise[:59]:<59}{limit:>7}{goal.found:>7.2f} {'' if goal.reached else 'MISSED'}".rstrip()


def record(results: list[Result]) -> dict[str, Any]:
    """Everything, for `--json`."""
    networks = []
    for result in results:
        entry = dataclasses.asdict(result)
        entry["costs"] = [{**dataclasses.asdict(cost), "ratio": cost.ratio} for cost in result.costs]
        entry["rivals"] = [
            {**dataclasses.asdict(rival), "ratio": rival.passes / result.rivals[0].passes} for rival in result.rivals
        ]
        entry["goals"] = [{**dataclasses.asdict(goal), "reached": goal.reached} for goal in result.goals]
        networks.append(entry)
    return {"hardware": hardware(), "networks": networks}
