"""Commands that measure: a model of the user's, and the embedded pair."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import IncompleteError, NonFiniteError, UsageError
from .options import (
    INTERRUPTED,
    TERMINATED,
    computing,
    describe_facts,
    everywhere,
    reading,
    reading_options,
    stoppable,
    use_threads,
)


def default_out(checkpoint: str) -> Path:
    return Path(Path(checkpoint).name.removesuffix(".pt").removesuffix(".safetensors") + ".zarr")


@click.command()
@click.argument("checkpoint", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The run, a folder.  [default: the checkpoint's stem + .zarr]"
)
@click.option(
    "--timesteps",
    default="log:64",
    show_default=True,
    help="0,10,20 or start:stop:step or log:N, in the model's own unit.",
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
@click.option("--batch", type=int, help="Pairs in a micro-batch.  [default: from the size of x]")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option(
    "--data",
    help="x0: a folder of images, .npy, .npz, or an embedded set.  "
    "[default: the checkpoint's own record, else its own samples]",
)
@click.option("--resume/--no-resume", default=True, help="Go on with a run that exists.  [default: resume]")
@click.option(
    "--shard", default="0/1", show_default=True, metavar="I/N", help="Measure only every N-th unit, from the I-th."
)
@click.option("--dry-run", is_flag=True, help="Show the plan and its cost, measure nothing.")
@computing
@reading
@everywhere
def measure(
    checkpoint: str | None, out: Path | None, data: str | None, resume: bool, shard: str, dry_run: bool, **given: Any
) -> None:
    """Measure how fast a model's noise prediction changes in time and space.

    The run can be stopped at any moment; the same command goes on with it.

    Quantities: time_derivative, time_difference, trajectory_derivative,
    spectral_norm, singular_values, one_sided_lipschitz, squared_frobenius_norm,
    trace, asymmetry, stein, loss, sensitivity; for their figures: pairs, swap,
    vectors, embedding.
    """
    from ..run import prepared
    from ..study.plan import Plan

    quiet, as_json = given["quiet"], given["as_json"]
    use_threads(given["threads"])
    if checkpoint is None and given["factory"] is None:
        raise UsageError("measure needs a checkpoint (a path, digits-ddpm or digits-etsdm), or a --factory")
    names = (
        "timesteps",
        "draws",
        "tolerance",
        "max_draws",
        "step",
        "certified_width",
        "probes",
        "batch",
        "dtype",
        "seed",
    )
    quantities = {"quantities": given["quantities"]} if given["quantities"] else {}
    plan = Plan(**{name: given[name] for name in names}, **quantities)
    out = out or default_out(checkpoint or given["factory"].partition(":")[2])
    with (
        stoppable() as received,
        prepared(
            checkpoint,
            data,
            plan,
            None if dry_run else out,
            resume,
            given["device"],
            read_shard(shard),
            **reading_options(given),
        ) as ready,
    ):
        if not quiet:
            click.echo(describe_cost(ready, None if dry_run else out), err=True)
        if dry_run:
            from dataclasses import asdict

            from ..run import estimate

            resolved = asdict(plan) | {"timesteps": ready.timesteps.tolist()}
            click.echo(json.dumps({"plan": resolved, "cost": estimate(ready)}) if as_json else describe_facts(resolved))
            return
        finished = carry_out(ready, quiet)
        conclude(ready, quiet)
    report_run(out, as_json)
    if not finished:
        click.echo(f"lipdiag: interrupted; the same command goes on with {out}", err=True)
        raise SystemExit(TERMINATED if received.get("signal") == signal.SIGTERM else INTERRUPTED)
    verify_finite(out)


def read_shard(text: str) -> tuple[int, int]:
    try:
        part, whole = (int(number) for number in text.split("/"))
    except ValueError:
        raise UsageError(f"--shard {text!r} is not I/N, such as 0/4") from None
    if not 0 <= part < whole:
        raise UsageError(f"--shard {text} is out of range; I runs from 0 to N - 1")
    return part, whole


def carry_out(ready: Any, quiet: bool) -> bool:
    """Run a study under a bar on standard error."""
    from ..run import carry_out, quiet_bar

    if quiet:
        return carry_out(ready, quiet_bar)
    from tqdm import tqdm

    return carry_out(ready, lambda **about: tqdm(file=sys.stderr, dynamic_ncols=True, smoothing=0.05, **about))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def describe_cost(ready: Any, out: Path | None) -> str:
    """The study and its price, in three lines."""
    from ..run import estimate

    cost = estimate(ready)
    lines = [
        f"{len(ready.timesteps)} timesteps x {ready.plan.draws} draws = {cost['pairs']:.0f} pairs; "
        f"x0: {ready.source.name}",
        f"about {cost['passes']:.0f} forward passes each, {duration(cost['seconds'])}"
        + ("" if ready.plan.tolerance is None else f" for the first look, up to {ready.plan.max_draws} draws"),
    ]
    return "\n".join([*lines, *ready.notes, *([f"into {out}"] if out else [])])


def conclude(ready: Any, quiet: bool) -> None:
    """What the run found out on the way, and how far above the floor it was."""
    if quiet or not ready.pairs:
        return
    ratio = ready.passes / ready.floor
    click.echo(f"{ready.passes:.1f} forward passes a pair, {ratio:.2f} times the floor of {ready.floor}", err=True)
    for note in ready.notes[len(ready.findings.notes) :]:
        click.echo(note, err=True)


def report_run(out: Path, as_json: bool) -> None:
    """The table of a run, or its summary as a line of JSON."""
    from ..study.statistics import summarize
    from ..study.store import open_run

    dataset = open_run(out)
    if not as_json:
        from ..report.table import table

        click.echo(table([dataset]))
        return
    summary = summarize(dataset)
    values = {
        name: {str(s): v.sel(statistic=s).values.tolist() for s in ("mean", "low", "high", "max")}
        for name, v in summary.items()
    }
    line = {"run": str(out), "timestep": summary["timestep"].values.tolist(), **values}
    click.echo(json.dumps(line).replace("NaN", "null").replace("-Infinity", "null").replace("Infinity", "null"))


def verify_finite(out: Path) -> None:
    """End with the right exit code where a finished run holds numbers that are none, or lacks units."""
    import numpy as np

    from ..study.store import QUARANTINED, open_run

    dataset = open_run(out)
    done = dataset["done"].values
    if (done == QUARANTINED).any():
        raise IncompleteError(f"{(done == QUARANTINED).sum()} pairs were given up after two tries; see `done` in {out}")
    for name, variable in dataset.data_vars.items():
        if name == "done" or variable.dims[:2] != ("time", "draw"):
            continue
        bad = ~np.isfinite(variable.values) & (done == 1).reshape(*done.shape, *[1] * (variable.ndim - 2))
        if bad.any():
            time, draw = np.argwhere(bad)[0][:2]
            raise NonFiniteError(
                f"{bad.sum()} values of {name} in {out} are not finite, first at timestep "
                f"{dataset['timestep'].values[time]:g}, draw {draw}; they are stored as they are"
            )


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default="demo", show_default=True, help="A folder for runs and figure."
)
@click.option("--draws", type=int, default=32, show_default=True, help="Samples at each timestep.")
@everywhere
def demo(out: Path, draws: int, quiet: bool, as_json: bool) -> None:
    """Measure the embedded DDPM and its E-TSDM twin: a table and a figure."""
    from .. import report
    from ..run import prepared
    from ..study.plan import Plan
    from ..study.store import open_run

    timesteps: Any = "log:40"
    runs: list[Path] = []
    for model in ("digits-etsdm", "digits-ddpm"):
        run = out / f"{model}.zarr"
        with stoppable() as received, prepared(model, None, Plan(timesteps=timesteps, draws=draws), run) as ready:
            if not quiet:
                click.echo(f"\n{model}: {describe_cost(ready, run)}", err=True)
            finished = carry_out(ready, quiet)
            conclude(ready, quiet)
            timesteps = tuple(ready.timesteps.tolist())  # both models at the same times, block edges included
        if not finished:
            raise SystemExit(TERMINATED if received.get("signal") == signal.SIGTERM else INTERRUPTED)
        runs.insert(0, run)
    datasets = [open_run(run) for run in runs]
    drawn = report.plot(datasets, figure="singularity")
    paths = [out / f"singularity{suffix}" for suffix in (".pdf", ".svg", ".png")]
    for path in paths:
        report.save(drawn, path)
    from ..report.table import table

    click.echo(
        json.dumps({"runs": [str(r) for r in runs], "files": [str(p) for p in paths]}) if as_json else table(datasets)
    )
    if not as_json:
        click.echo("\nThe figure: " + ", ".join(str(path) for path in paths))
