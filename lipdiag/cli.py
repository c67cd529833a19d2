"""The command line: a command parses its options, calls one function, and writes what it returns.

Results go to standard output, progress and remarks to standard error. Everything heavy is imported inside the command
that needs it, so that `--help` is quick.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import click

from .errors import IncompleteError, LipdiagError, NonFiniteError, StorageError, UsageError

INTERRUPTED = 130
TERMINATED = 143


class Refusals(click.Group):
    """A group whose commands end a refusal in one sentence and the exit code of its kind."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LipdiagError as error:
            if os.environ.get("LIPDIAG_DEBUG") or "--debug" in sys.argv:
                raise
            click.echo(f"lipdiag: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            ctx.exit(0)
        except OSError as error:
            if "--debug" in sys.argv:
                raise
            click.echo(f"lipdiag: {error.filename or ''}: {error.strerror or error}", err=True)
            ctx.exit(StorageError.exit_code)


def configure(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    """Take defaults from a TOML file; a key that is no option of the command is an error."""
    if path is None:
        return
    import tomllib

    try:
        values = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the configuration {path}: {error}") from error
    known = {parameter.name: parameter for parameter in ctx.command.params}
    aliases = {name.lstrip("-").replace("-", "_"): p for p in ctx.command.params for name in p.opts}
    defaults = {}
    for key, value in values.items():
        parameter = aliases.get(key.replace("-", "_")) or known.get(key)
        if parameter is None or parameter.name is None:
            raise UsageError(
                f"{path} sets {key!r}, which {ctx.info_name} does not know; known are {', '.join(sorted(aliases))}"
            )
        defaults[parameter.name] = value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def options(*decorators: Callable) -> Callable[[Callable], Callable]:
    """Several options as one decorator, in the order given."""
    return lambda command: reduce(lambda f, decorate: decorate(f), reversed(decorators), command)


everywhere = options(
    click.option(
        "--config",
        type=click.Path(dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=configure,
        help="Defaults from a TOML file.",
    ),
    click.option("--quiet", is_flag=True, help="No progress, no remarks."),
    click.option("--json", "as_json", is_flag=True, help="One line of JSON on standard output instead of text."),
    click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
)
reading = options(
    click.option(
        "--weights",
        type=click.Choice(["ema", "raw"]),
        default="ema",
        show_default=True,
        help="Which weights, where a checkpoint has both.",
    ),
    click.option("--schedule", metavar="TEXT", help='Overrides the file, e.g. "linear(0.0001, 0.02, 1000)".'),
    click.option(
        "--parameterization", metavar="TEXT", help="Overrides the file: eps, v, x0, velocity, score, edm(0.5)."
    ),
    click.option("--clock", metavar="TEXT", help='Overrides the file, e.g. "shared(timesteps(1000), 100, 5)".'),
    click.option("--factory", metavar="PKG.MOD:FUNCTION", help="Your own Python function that makes the model."),
    click.option("--shape", metavar="C,H,W", help="Of one sample, where a factory returns a bare network."),
)
computing = options(
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N."),
    click.option("--threads", type=click.IntRange(min=1), help="Processor threads."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of everything random."),
)


READING = ("weights", "schedule", "parameterization", "clock", "factory", "shape")


def reading_options(given: dict[str, Any]) -> dict[str, Any]:
    """Options about how to read a checkpoint, as keywords; what was not given is left out."""
    found = {name: given[name] for name in READING if given[name] is not None}
    if "shape" in found:
        try:
            found["shape"] = tuple(int(size) for size in found["shape"].split(","))
        except ValueError:
            raise UsageError(f"--shape {found['shape']!r} is not a list of sizes, such as 3,32,32") from None
    return found


def use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def stoppable() -> Iterator[dict[str, int]]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: what is measured stays. Yields a dict that names the signal."""
    received: dict[str, int] = {}

    def stop(number: int, frame: Any) -> None:
        received["signal"] = number
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@click.group(
    cls=Refusals,
    context_settings={"auto_envvar_prefix": "LIPDIAG", "help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(package_name="lipdiag")
def main() -> None:
    """Where is a diffusion model ill-conditioned, in time and in space?

    Start with `lipdiag demo`, then `lipdiag inspect CKPT` and `lipdiag measure CKPT`.
    """


@main.command()
@click.argument("checkpoint")
@click.option(
    "--weights",
    type=click.Choice(["ema", "raw"]),
    default="ema",
    show_default=True,
    help="Which weights, where a checkpoint has both.",
)
@everywhere
def inspect(checkpoint: str, weights: str, quiet: bool, as_json: bool) -> None:
    """Say what a checkpoint is, how it will be read, and what is unknown."""
    from . import zoo

    found = zoo.inspect(checkpoint, weights).to_dict()
    click.echo(json.dumps(found) if as_json else describe_facts(found))


def describe_facts(facts: dict[str, Any], width: int = 80) -> str:
    """Names and values in two columns that fit a terminal; empty values are left out, long ones wrapped."""
    import textwrap

    lines = []
    for name, value in facts.items():
        if value in (None, [], {}, ""):
            continue
        parts = value if isinstance(value, list) and all(isinstance(part, str) for part in value) else [value]
        text = "; ".join(part if isinstance(part, str) else json.dumps(part) for part in parts)
        lines += textwrap.wrap(text, width, initial_indent=f"{name + ':':<18}", subsequent_indent=" " * 18)
    return "\n".join(lines)


def default_out(checkpoint: str) -> Path:
    return Path(Path(checkpoint).name.removesuffix(".pt").removesuffix(".safetensors") + ".zarr")


@main.command()
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
    trace, asymmetry, stein, loss.
    """
    from .run import prepared
    from .study.plan import Plan

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

            from .run import estimate

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
    from .run import carry_out, quiet_bar

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
    from .run import estimate

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
    from .study.statistics import summarize
    from .study.store import open_run

    dataset = open_run(out)
    if not as_json:
        from .report.table import table

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

    from .study.store import QUARANTINED, open_run

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


@main.command()
@click.argument("runs", nargs=-1, type=click.Path())
@click.option("--figure", default="singularity", show_default=True, help="Which figure; see --list.")
@click.option("--style", default="iclr", show_default=True, help="icml, iclr, neurips, cvpr, slides.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Files, .pdf .svg .png; repeatable.  [default: FIGURE.pdf, .svg and .png]",
)
@click.option("--list", "listing", is_flag=True, help="Name every figure, with a line.")
@everywhere
def plot(
    runs: tuple[str, ...], figure: str, style: str, out: tuple[Path, ...], listing: bool, quiet: bool, as_json: bool
) -> None:
    """Draw a figure of one or several runs; no model is loaded."""
    from . import report

    if listing:
        for name, described in report.FIGURES.items():
            click.echo(f"{name:<14}{described.line}")
        return
    if not runs:
        raise UsageError("plot needs at least one run, the folder that `lipdiag measure` wrote")
    from .study.store import open_run

    datasets = [open_run(run) for run in runs]
    drawn = report.plot(datasets, figure=figure, style=style)
    paths = out or tuple(Path(figure + suffix) for suffix in (".pdf", ".svg", ".png"))
    for path in paths:
        report.save(drawn, path)
    if as_json:
        click.echo(json.dumps({"files": [str(path) for path in paths]}))
    elif not quiet:
        click.echo("\n".join(str(path) for path in paths))


@main.command()
@click.option("--recipe", "name", default="digits", show_default=True, help="What to train on what.")
@click.option(
    "--etsdm",
    is_flag=False,
    flag_value="100,5",
    metavar="[END,BLOCKS]",
    help="Share timesteps below END in BLOCKS blocks (alone: 100,5), or edges:0,5,15,40,100.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Training steps.  [default: the recipe's]")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a field of the recipe; repeatable.")
@click.option("--data", help="Train on this instead of the recipe's data.")
@click.option("--out", type=click.Path(path_type=Path), help="The checkpoint, a folder.  [default: the recipe's name]")
@click.option("--dry-run", is_flag=True, help="Show the recipe and its size, train nothing.")
@computing
@everywhere
def train(
    name: str,
    etsdm: str | None,
    steps: int | None,
    changes: tuple[str, ...],
    data: str | None,
    out: Path | None,
    dry_run: bool,
    device: str,
    threads: int | None,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a small DDPM, or its E-TSDM twin that differs in the clock alone."""
    from dataclasses import replace

    from .training.recipe import RECIPES, set_fields
    from .training.session import parameters, shared

    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; known are {', '.join(RECIPES)}")
    recipe = set_fields(replace(RECIPES[name], seed=seed), changes)
    recipe = replace(recipe, steps=steps or recipe.steps, data=data or recipe.data)
    if etsdm is not None:
        recipe = shared(recipe, etsdm)
    out = out or Path(f"{name}-{'ddpm' if etsdm is None else 'etsdm'}")
    use_threads(threads)
    if dry_run:
        facts = {**recipe.to_dict(), "parameters": parameters(recipe), "out": str(out)}
        click.echo(json.dumps(facts) if as_json else describe_facts(facts))
        return
    from .run import resolve_device

    finished = train_under_a_bar(recipe, resolve_device(device), out, quiet)
    if not finished:
        click.echo(f"lipdiag: stopped; the same command goes on with {out}", err=True)
        raise SystemExit(INTERRUPTED)
    click.echo(json.dumps({"checkpoint": str(out)}) if as_json else f"wrote {out}; next: lipdiag measure {out}")


def train_under_a_bar(recipe: Any, device: Any, out: Path, quiet: bool) -> bool:
    """Train with a bar on standard error; a signal ends the training after the step it is in."""
    from tqdm import tqdm

    from .training.session import session

    stopped: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, lambda *_: stopped.append(1)) for number in numbers}
    bar = tqdm(total=recipe.steps, unit="step", desc="training", file=sys.stderr, disable=quiet, dynamic_ncols=True)
    step, smooth = 0, None
    try:
        for state in session(recipe, out, device, lambda: bool(stopped)):
            smooth = state.loss if smooth is None else 0.98 * smooth + 0.02 * state.loss
            bar.update(state.step - step)
            bar.set_postfix_str(f"loss {smooth:.4f}", refresh=False)
            step = state.step
    finally:
        bar.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return step == recipe.steps


@main.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default="demo", show_default=True, help="A folder for runs and figure."
)
@click.option("--draws", type=int, default=32, show_default=True, help="Samples at each timestep.")
@everywhere
def demo(out: Path, draws: int, quiet: bool, as_json: bool) -> None:
    """Measure the embedded DDPM and its E-TSDM twin: a table and a figure."""
    from . import report
    from .run import prepared
    from .study.plan import Plan
    from .study.store import open_run

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
    from .report.table import table

    click.echo(
        json.dumps({"runs": [str(r) for r in runs], "files": [str(p) for p in paths]}) if as_json else table(datasets)
    )
    if not as_json:
        click.echo("\nThe figure: " + ", ".join(str(path) for path in paths))


@main.command()
@everywhere
def selftest(quiet: bool, as_json: bool) -> None:
    """Test every estimator against every closed form, in seconds."""
    from .study.selftest import selftest as test

    rows = list(test())
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows]))
    elif not quiet:
        click.echo(f"{'quantity':<24}{'truth':<26}{'error':>10}{'allowed':>10}")
        for row in rows:
            verdict = "ok" if row.passed else "FAILED"
            click.echo(f"{row.quantity:<24}{row.truth:<26}{row.error:>10.1e}{row.allowed:>10.1e}  {verdict}")
    failed = sum(not row.passed for row in rows)
    if failed:
        raise LipdiagError(f"{failed} of {len(rows)} self-tests failed; this installation's numbers cannot be trusted")
