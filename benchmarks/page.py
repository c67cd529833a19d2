"""The page of a device, `python -m benchmarks --device cuda`: every number is of this run on this device.

What does not fit into the memory is said to; what does not fit into the time is left out.
"""

import datetime
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from benchmarks.cost import Batch
from benchmarks.device import GIB, Network, Row, by_products, named, peaks, rivals_of, row, wall_clock
from benchmarks.networks import LARGE_SUBJECTS, SUBJECTS, Subject
from lipdiag.breakdown import out_of_memory
from lipdiag.design.arithmetic import arithmetic
from lipdiag.linalg.products import PRODUCTS
from lipdiag.study.device import current
from lipdiag.study.memory import released

PAIRS: dict[str, tuple[int, ...]] = {"cifar10": (128, 32, 512), "dit": (16,), "sd": (4,), "digits": (256, 32)}
"""(draw, timestep) pairs at once, by network, in the order of what is worth most of the time."""


def short(number: float) -> str:
    """Two digits behind the point, none of numbers from 100 on."""
    return f"{number:.2f}" if number < 100 else f"{number:.0f}"


Jobs = Iterator[tuple[str, Callable[[], object]]]


@dataclass
class Page:
    """The page, filled as its jobs run."""

    device: torch.device
    deadline: float
    matrix: int = 8192
    peaks: dict[str, float] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)

    def jobs(self, names: Sequence[str], pairs: dict[str, tuple[int, ...]], plan: tuple[str, int], rounds: int) -> Jobs:
        """(label, work) in the order of their worth; networks in turn, so that one is in memory at a time."""
        yield "peaks", lambda: self.peaks.update(peaks(self.device, self.matrix))
        for name in names:
            subject: list[Subject] = []
            yield f"{name}: network", lambda name=name, subject=subject: self.prepare(name, subject)
            for number, many in enumerate(pairs[name]):
                yield f"{name}: {many} pairs", lambda n=name, s=subject, m=many: self.add_row(n, s[0], m, rounds)
                if not number:
                    yield f"{name}: products", lambda n=name, s=subject, m=many: self.add_products(n, s[0], m)
                    yield f"{name}: rivals", lambda n=name, s=subject, m=many: self.add_rivals(n, s[0], m)
            if name in ("cifar10", "digits"):
                yield f"{name}: lipdiag measure", lambda n=name, s=subject: self.add_wall(n, s[0], *plan)
            yield f"{name}: done", subject.clear

    def prepare(self, name: str, subject: list[Subject]) -> None:
        subject.append((SUBJECTS | LARGE_SUBJECTS)[name](self.device))
        self.networks[name] = Network(subject[0].title)

    def add_row(self, name: str, subject: Subject, pairs: int, rounds: int) -> None:
        self.attempt(name, pairs, lambda: self.networks[name].rows.append(row(Batch(subject, pairs), rounds)))

    def add_products(self, name: str, subject: Subject, pairs: int) -> None:
        # without tensor cores roundings are made by hand, which says nothing of their price: on a few pairs
        pairs = pairs if self.device.type == "cuda" else min(pairs, 4)
        rows = self.networks[name].products
        self.attempt(name, pairs, lambda: rows.extend(by_products(Batch(subject, pairs), PRODUCTS)))

    def add_rivals(self, name: str, subject: Subject, pairs: int) -> None:
        pairs = min(pairs, subject.rival_pairs) if self.device.type != "cuda" else pairs
        self.attempt(name, pairs, lambda: self.networks[name].rivals.update(rivals_of(Batch(subject, pairs))))

    def add_wall(self, name: str, subject: Subject, timesteps: str, draws: int) -> None:
        asked, network = f"lipdiag measure, {timesteps} x {draws} draws", self.networks[name]
        try:
            network.wall[asked] = wall_clock(subject, self.device, timesteps, draws)
        except RuntimeError as error:  # what else was found is kept
            network.rows.append(str(error))

    def attempt(self, name: str, pairs: int, work: Callable[[], object]) -> None:
        """Work, or that memory does not suffice for it."""
        try:
            work()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            said, rows = f"{pairs} pairs: out of memory", self.networks[name].rows
            rows += [said] if said not in rows else []
        gc.collect()
        released()

    def run(self, jobs: Sequence[tuple[str, Callable[[], object]]]) -> Iterator[str]:
        """Do the jobs that begin before the deadline; yields before each."""
        with arithmetic(), current(self.device):
            for label, work in jobs:
                yield label
                if time.monotonic() < self.deadline or label.endswith("done"):
                    work()

    def record(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        networks = {name: asdict(network) for name, network in self.networks.items()}
        return {"device": named(self.device), "peaks": self.peaks, "networks": networks}

    def text(self, command: str) -> str:
        lines = [named(self.device), f"{datetime.date.today()}, {command}", "", *self.header()]
        for network in self.networks.values():
            lines += ["", network.title, *self.rows(network), *self.others(network)]
        return "\n".join(lines)

    def header(self) -> Iterator[str]:
        yield "F: a forward pass of the same batch. all: spectral norm certified to 5 %,"
        yield "time derivative, Frobenius norm and trace. jvp, vjp and the rest are in F."
        peak = ", ".join(f"{kind} {value / 1e12:.3g}" for kind, value in self.peaks.items())
        yield f"peak of two {self.matrix} x {self.matrix} matrices' product: {peak} TFLOP/s"

    def rows(self, network: Network) -> Iterator[str]:
        yield f"{'':<39}{'jvp':>12}{'vjp':>12}{'':<5}{'GiB':>12}"
        heads = ("pairs", "F, ms", "all, s", "in F", "floor", "ratio", "first", "later", "first", "later", "rest")
        widths = (5, 8, 8, 6, 6, 6, 6, 6, 6, 6, 5)
        yield "".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True)) + f"{'peak':>6}{'told':>6}"
        for r in network.rows:
            if isinstance(r, str):
                yield r
                continue
            cells = (f"{r.pairs}", short(1e3 * r.forward), short(r.report), short(r.passes), f"{r.floor}")
            shares = (r.passes / r.floor, r.first_jvp, r.jvp, r.first_vjp, r.vjp, r.rest)
            cells += (*map(short, shares), short(r.peak / GIB), short(r.told / GIB))
            yield "".join(f"{cell:>{width}}" for cell, width in zip(cells, (*widths, 6, 6), strict=True))
        for r in network.rows:
            if isinstance(r, Row) and self.peaks:
                whole = r.floor * r.flop / r.report / self.peaks["ieee"]
                share = r.flop / r.forward / self.peaks["ieee"]
                yield f"{r.pairs} pairs: F at {share:.0%} of the peak, the report at {whole:.0%}"

    def others(self, network: Network) -> Iterator[str]:
        if network.products:
            yield f"{'products':<10}{'F, ms':>9}{'report, s':>11}{'x faster':>10}{'width':>9}{'norm differs':>14}"
        for r in network.products:
            faster = network.products[0].report / r.report
            yield (
                f"{r.products:<10}{1e3 * r.forward:>9.1f}{r.report:>11.3f}{faster:>10.2f}{r.width:>9.1%}"
                f"{r.difference:>14.1e}"
            )
        for name, passes in network.rivals.items():
            yield f"{name:<52}{passes:>8.1f} F" if passes == passes else f"{name:<52}{'-':>8}"
        for asked, spent in network.wall.items():
            yield f"{asked:<52}{spent:>8.1f} s"
