"""Commands that measure: a model of the user's, and the embedded pair."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import click

from ..errors import Caution, UsageError
from ..lean import hastily
from ..printing import counted, describe_facts
from .options import (
    computing,
    everywhere,
    pictures,
    read_range,
    read_reading,
    reading,
    require_model,
    save_figure,
    stem,
    stoppable,
    use_threads,
)
from .outcome import report_run, verify_finite, verify_units, waiting_for_others
from .shard import launched_shard, read_shard
from .terminal import remark

PLANNED = (
    "timesteps", "draws", "tolerance", "max_draws", "step", "certified_width", "probes", "batch", "dtype", "products",
    "seed",
)  # fmt: skip
"""Options that are fields of a plan."""


class Batch(click.ParamType):
    """A number of pairs, or the word auto."""

    name = "integer or auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return value if value == "auto" else int(value)
        except ValueError:
            self.fail(f"got {value!r}: give a whole number of pairs, or auto", param, ctx)


@click.command()
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The run, a folder; of several checkpoints the folder of their runs.  "
    "[default: the checkpoint's stem + .zarr]",
)
@click.option(
    "--timesteps",
    default="log:64",
    show_default=True,
    help="0,10,20 or start:stop:step, in the model's own unit, or log:N: N of them, even in the logarithm of an index, "
    "else in log-SNR.",
)
@click.option("--draws", type=int, default=64, show_default=True, help="Samples at each timestep.")
@click.option(
    "--quantity",
    "quantities",
    multiple=True,
    help="What to measure; repeatable.  [default: time_derivative, time_difference, spectral_norm, loss]",
)
@click.option("--tolerance", type=float, help="Keep drawing until every mean's 95 % interval is this narrow, relative.")
@click.option("--max-draws", type=int, default=4096, show_default=True, help="Where drawing stops under --tolerance.")
@click.option("--step", type=float, help="Distance of the two times of time_difference.  [default: 1 timestep]")
@click.option(
    "--certified-width", type=float, default=0.05, show_default=True, help="Of the spectral norm's interval, relative."
)
@click.option("--probes", type=int, default=2, show_default=True, help="Random vectors for traces.")
@click.option(
    "--batch",
    type=Batch(),
    metavar="N|auto",
    default="auto",
    show_default=True,
    help="Pairs in a micro-batch; auto: of as many units, which follow from the size of x, as fill the device.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="Of the arithmetic; half precision is widened.",
)
@click.option(
    "--products",
    type=click.Choice(["ieee", "tf32", "3xtf32", "auto"]),
    default="ieee",
    show_default=True,
    help="With the Jacobian: float32, or on tensor cores, with intervals made wider by their measured error.",
)
@click.option(
    "--data",
    help="x0: a folder of images, .npy, .npz, or an embedded set.  "
    "[default: the checkpoint's own record, else its own samples]",
)
@pictures
@click.option("--encode", is_flag=True, help="Make latents of pictures by the vae in the checkpoint's folder.")
@click.option("--resume/--no-resume", default=True, help="Go on with a run that exists.  [default: resume]")
@click.option(
    "--shard",
    metavar="I/N",
    help="Measure only every N-th unit, from the I-th.  [default: 0/1, or RANK/WORLD_SIZE under torchrun]",
)
@click.option(
    "--probe/--no-probe",
    default=True,
    help="Try the common conventions on the data first, where that is not most of the run.  [default: probe]",
)
@click.option("--retry", is_flag=True, help="Try again what was given up.")
@click.option("--deterministic", is_flag=True, help="Only kernels that give the same bits every time.")
@click.option("--verify", type=click.IntRange(min=1), metavar="N", help="Measure N finished units again and compare.")
@click.option("--dry-run", is_flag=True, help="Show the plan and its cost, measure nothing.")
@computing
@reading
@everywhere
def measure(checkpoints: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Measure how fast a model's noise prediction changes in time and space.

    The run can be stopped at any moment; the same command goes on with it.
    Several checkpoints of one training are measured one after the other, each
    into a run of its own, and end in a table over their steps.

    Quantities: time_derivative, time_difference, trajectory_derivative,
    spectral_norm, singular_values, one_sided_lipschitz, squared_frobenius_norm,
    trace, asymmetry, stein, loss, fokker_planck, sensitivity, flipd,
    normal_bundle, log_density; for their figures: pairs, swap, vectors,
    embedding, modules, modules_x.
    """
    if len(checkpoints) < 2:
        measure_one(next(iter(checkpoints), None), out, **options)
        return
    places = [(out or Path()) / f"{stem(checkpoint, options['factory'])}.zarr" for checkpoint in checkpoints]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise UsageError(
            f"two of the checkpoints would be measured into {twice}: give each a command with its own --out"
        )
    for checkpoint, place in zip(checkpoints, places, strict=True):
        measure_one(checkpoint, place, alone=False, **options)
    if not (options["as_json"] or options["dry_run"] or options["verify"] or options["shard"]):
        from ..pages.steps import over_steps
        from ..store.store import open_run

        click.echo(over_steps([open_run(place) for place in places]))


def measure_one(
    checkpoint: str | None,
    out: Path | None,
    data: str | None,
    resume: bool,
    shard: str | None,
    retry: bool,
    deterministic: bool,
    verify: int | None,
    dry_run: bool,
    probe: bool,
    alone: bool = True,
    **given: Any,
) -> None:
    """A run of a checkpoint, new or gone on with, and its table where it is the only one."""
    with hastily():
        from ..design.plan import Plan
        from ..study.measure import carry_out, prepared

    quiet, as_json = given["quiet"], given["as_json"]
    use_threads(given["threads"])
    require_model(checkpoint, given["factory"], "measure")
    quantities = {"quantities": given["quantities"]} if given["quantities"] else {}
    plan = Plan(**{name: given[name] for name in PLANNED}, **quantities)
    out = out or Path(stem(checkpoint, given["factory"]) + ".zarr")
    if verify and not out.exists():
        raise UsageError(f"there is no run {out} to verify; measure it first")
    part = read_shard(shard) if shard else launched_shard()
    how = {"shard": part, "retry": retry, "deterministic": deterministic, "encode": given["encode"], "probe": probe}
    how |= {"resize": given["resize"], "range": read_range(given["bounds"])}
    place = None if dry_run else out
    teller = Teller(quiet or bool(verify), place)

    def priced(ready: Any) -> bool:
        teller.price(ready)
        return not dry_run

    with (
        stoppable() as received,
        prepared(
            checkpoint, data, plan, place, resume, given["device"], priced=priced, reading=read_reading(given), **how
        ) as ready,
    ):
        if verify:
            verify_units(ready, out, verify, as_json)
            return
        if dry_run:
            click.echo(described(plan, ready, as_json))
            return
        teller.notes(ready)
        finished = carry_out(ready, quiet)
        teller.conclusion(ready)
    if not finished:
        remark(f"lipdiag: interrupted; the same command goes on with {out}")
        raise SystemExit(128 + received.get("signal", signal.SIGINT))
    if waiting_for_others(out, part, as_json):
        return
    if alone or as_json:
        report_run(out, as_json)
    verify_finite(out)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 200_000 else f"{seconds / 86400:.0f} days"


def size(numbers: float) -> str:
    """Bytes as a person says them."""
    return f"{numbers / 1e6:.0f} MB" if numbers < 1e9 else f"{numbers / 1e9:.1f} GB"


def described(plan: Any, ready: Any, as_json: bool) -> str:
    """A plan with the timesteps of its study; as JSON with the price too, which is told elsewhere otherwise."""
    from ..study.preparation import estimate

    accuracy = dataclasses.asdict(plan.accuracy)
    resolved = {name: value for name, value in dataclasses.asdict(plan).items() if name not in accuracy} | accuracy
    resolved["timesteps"] = ready.timesteps.tolist()
    return json.dumps({"plan": resolved, "cost": estimate(ready)}) if as_json else describe_facts(resolved)


def describe_cost(ready: Any, out: Path | None) -> str:
    """The study and its price, in a few lines."""
    from ..study.preparation import estimate

    cost, draws = estimate(ready), ready.plan.draws
    whole = len(ready.timesteps) * draws
    line = f"{counted(len(ready.timesteps), 'timestep')} x {counted(draws, 'draw')} = {counted(whole, 'pair')}"
    if ready.shard != (0, 1):
        line += f", {cost['pairs']:.0f} of them in shard {ready.shard[0]}/{ready.shard[1]}"
    line += f"; x0: {ready.source.name}"
    if ready.store.draws > draws:
        line += f"; the run has {ready.store.draws} draws already, and its table tells of all"
    into = [f"into {out}"] if out else []
    if not cost["left"]:
        return "\n".join([line, "nothing of that is left to be measured", *into])
    if cost["left"] < cost["pairs"]:
        line += f"; {cost['left']:.0f} left to be measured"
    lines = [
        line,
        f"about {cost['passes']:.0f} forward pass{'es' if cost['passes'] > 1 else ''} each, "
        + (f"{cost['sample_passes']} for the x0 of each draw, " if cost["sample_passes"] else "")
        + duration(cost["seconds"])
        + ("" if ready.plan.tolerance is None else f" for the first look, up to {ready.plan.max_draws} draws"),
        f"about {size(cost['memory'])} for weights and activations of {counted(ready.batch, 'pair')} at a time",
    ]
    return "\n".join([*lines, *into])


class Teller:
    """Says on standard error a study's price, its notes, each once, and what a pair took; warnings alone if quiet."""

    def __init__(self, quiet: bool, out: Path | None, title: str = ""):
        self.quiet, self.out, self.title, self.said = quiet, out, title, 0

    def price(self, ready: Any) -> None:
        self.say(ready, self.title + describe_cost(ready, self.out))

    def notes(self, ready: Any) -> None:
        self.say(ready)

    def conclusion(self, ready: Any) -> None:
        done = f"a pair took {1000 * ready.seconds / max(ready.pairs, 1):.3g} ms"
        if ready.passes >= ready.floor:
            done += f", as long as {ready.passes:.1f} forward passes; it needs {ready.floor} at least"
        elif ready.passes < ready.floor:
            done += f", no longer than the {ready.floor} forward passes that it needs"
        self.say(ready, *([done] if ready.pairs else []))

    def say(self, ready: Any, *lines: str) -> None:
        for line in (*lines, *ready.notes[self.said :]):
            if isinstance(line, Caution):
                remark(f"warning: {line}")
            elif not self.quiet:
                remark(line)
        self.said = len(ready.notes)


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default="demo", show_default=True, help="A folder for runs and figure."
)
@click.option("--draws", type=int, default=32, show_default=True, help="Samples at each timestep.")
@everywhere
def demo(out: Path, draws: int, quiet: bool, as_json: bool) -> None:
    """Measure the embedded DDPM and its E-TSDM twin: a table and a figure."""
    from .. import figures
    from ..design.plan import Plan
    from ..store.store import open_run
    from ..study.measure import carry_out, prepared

    timesteps: Any = "log:40"
    runs: list[Path] = []
    for model in ("digits-etsdm", "digits-ddpm"):
        run = out / f"{model}.zarr"
        teller = Teller(quiet, run, f"\n{model}: ")
        with stoppable() as received, prepared(model, None, Plan(timesteps=timesteps, draws=draws), run) as ready:
            teller.price(ready)
            finished = carry_out(ready, quiet)
            teller.conclusion(ready)
            timesteps = tuple(ready.timesteps.tolist())  # both models at the same times, block edges included
        if not finished:
            raise SystemExit(128 + received.get("signal", signal.SIGINT))
        runs.insert(0, run)
    datasets = [open_run(run) for run in runs]
    files = save_figure(figures.plot(datasets, figure="singularity"), str(out / "singularity"))
    from ..pages.tables import table

    click.echo(json.dumps({"runs": [str(r) for r in runs], "files": files}) if as_json else table(datasets))
    if not as_json:
        click.echo("\nThe figure: " + ", ".join(files))
