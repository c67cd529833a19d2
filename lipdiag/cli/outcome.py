"""How a measurement ends: its table, its verdict, and its comparison with itself."""

import json
import math
from pathlib import Path
from typing import Any

import click

from ..errors import IncompleteError, LipdiagError, NonFiniteError, UsageError
from ..printing import counted
from .terminal import remark


def report_run(out: Path, as_json: bool) -> None:
    """The table of a run, or its summary as a line of JSON."""
    from ..results.summary import summarize
    from ..store.store import open_run

    dataset = open_run(out)
    if not as_json:
        from ..pages.tables import table

        click.echo(table([dataset]))
        return
    summary = summarize(dataset)
    values = {
        name: {str(s): v.sel(statistic=s).values.tolist() for s in ("mean", "low", "high", "max")}
        for name, v in summary.items()
    }
    line = {"run": str(out), "timestep": summary["timestep"].values.tolist(), **values}
    line |= {kind: dataset.attrs[kind] for kind in ("warnings", "notes")}
    click.echo(json.dumps(strict(line), allow_nan=False))


def strict(value: Any) -> Any:
    """What JSON can hold: it has no word for a number that is none."""
    if isinstance(value, dict):
        return {key: strict(part) for key, part in value.items()}
    if isinstance(value, list):
        return [strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verify_finite(out: Path) -> None:
    """End with the right exit code where a finished run holds numbers that are none, or lacks units."""
    import numpy as np

    from ..store.store import QUARANTINED, open_run

    dataset = open_run(out)
    done = dataset["done"].values
    if (done == QUARANTINED).any():
        time, draw = np.argwhere(done == QUARANTINED)[0]
        raise IncompleteError(
            f"{(done == QUARANTINED).sum()} pairs of {out} were given up, as launches died or the model failed there, "
            f"first at timestep {dataset['timestep'].values[time]:g}, draw {draw}; the rest is "
            "measured; --retry tries again"
        )
    for name, variable in dataset.data_vars.items():
        if name == "done" or variable.dims[:2] != ("time", "draw"):
            continue
        bad = ~np.isfinite(variable.values) & (done == 1).reshape(*done.shape, *[1] * (variable.ndim - 2))
        if bad.any():
            time, draw = np.argwhere(bad)[0][:2]
            blind = ": there is no signal at that timestep (alpha = 0), where eps tells nothing of x0, so leave it out"
            raise NonFiniteError(
                f"{bad.sum()} values of {name} in {out} are not finite, first at timestep "
                f"{dataset['timestep'].values[time]:g}, draw {draw}; they are stored as they are"
                f"{blind if dataset['alpha'].values[time] == 0 else ''}"
            )


def waiting_for_others(out: Path, part: tuple[int, int], as_json: bool) -> bool:
    """Say how far the run is where other shards have not finished theirs.

    The last one to finish reports the run and judges it: were an earlier one to end with an error, torchrun would stop
    the others.
    """
    if part == (0, 1):
        return False
    from ..store.store import open_run

    done = open_run(out)["done"].values
    missing = int((done == 0).sum())
    if missing:
        facts = {"run": str(out), "shard": f"{part[0]}/{part[1]}", "pairs": done.size, "missing": missing}
        said = f"shard {facts['shard']} is finished; {missing} of {done.size} pairs of {out} are still to come"
        click.echo(json.dumps(facts)) if as_json else remark(said, err=False)
    return bool(missing)


def verify_units(ready: Any, out: Path, count: int, as_json: bool) -> None:
    """Measure finished units again, say how they compare, and refuse the run if they do not."""
    from ..study import verify
    from ..study.measure import launch

    here = launch(ready) | {"batch": min(ready.batch, ready.layout.pairs)}  # one unit is measured at once
    exact = verify.comparable(ready.store.attributes.get("launches", []), here)
    allowed = 0.0 if exact else verify.TOLERANCE[ready.plan.dtype]
    recomputed = list(verify.recompute(ready, count, seed=ready.pairs))
    if not recomputed:
        raise UsageError(f"{out} holds no finished unit to verify; measure it first")
    worst = max(recomputed, key=lambda unit: unit.difference)
    equal = sum(unit.equal for unit in recomputed)
    facts = {"run": str(out), "units": len(recomputed), "equal": equal, "largest_difference": worst.difference}
    reason = "the same device, libraries and micro-batch"
    if not exact:
        reason = "another device, library or micro-batch, or kernels that may add in any order"
    if worst.difference > allowed:
        raise LipdiagError(
            f"{worst.variable} of {out} differs by {worst.difference:.2g} when it is measured again with {reason}, "
            f"where {allowed:.0e} is allowed: the run, the model or this machine changed; measure with another --out"
        )
    said = f"{counted(len(recomputed), 'unit')} of {out} measured again with {reason}: {equal} equal bit for bit, "
    said += f"the largest relative difference is {worst.difference:.1e}"
    click.echo(json.dumps(facts)) if as_json else remark(said, err=False)
