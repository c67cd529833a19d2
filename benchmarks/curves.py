"""Does the fast way of training learn as float32 does? `python -m benchmarks.curves --device cuda`.

Some seeds are trained both ways, each on the same draws from the same first weights. A training's number is its mean
loss over the second half of the steps. Student's test for two groups tells whether the two ways differ by more than
seeds do; the pairs, from which what seeds differ in is gone, tell how large the difference can be.
"""

import json
import sys
from dataclasses import replace

import click
import numpy as np
import torch
from scipy.special import stdtr

from benchmarks.table import hardware
from lipdiag.statistics import Estimate, moments, ratio
from lipdiag.training.loop import train
from lipdiag.training.recipe import RECIPES, Recipe, set_fields

STRETCHES = 10
WAYS = {"fast": {"precision": "bfloat16"}, "float32": {"precision": "float32", "compile": False}}


def losses(recipe: Recipe, device: torch.device) -> list[float]:
    """The loss of every step of a training."""
    return [row.loss for state in train(recipe, device=device) for row in state.rows]


def group_test(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Student's t of two groups of as many replicates each, with their common variance, and its two-sided p-value."""
    (mean_a, error_a), (mean_b, error_b) = moments(a), moments(b)
    t = float((mean_a - mean_b) / np.hypot(error_a, error_b))
    return t, float(2 * stdtr(2 * a.size - 2, -abs(t)))


def second_half(curves: np.ndarray) -> np.ndarray:
    """The mean loss of each training (seed, step) over the second half of its steps."""
    return curves[:, curves.shape[1] // 2 :].mean(1)


def text(curves: dict[str, np.ndarray]) -> list[str]:
    """What was found, in words."""
    fast, exact = curves["fast"], curves["float32"]
    lines = [f"{'steps':<16}{'fast':>10}{'float32':>10}{'s.d. of seeds':>16}{'difference / s.d.':>20}"]
    for part in np.array_split(np.arange(fast.shape[1]), STRETCHES):
        a, b = fast[:, part].mean(1), exact[:, part].mean(1)
        spread = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
        steps = f"{part[0] + 1} to {part[-1] + 1}"
        lines.append(f"{steps:<16}{a.mean():>10.4f}{b.mean():>10.4f}{spread:>16.1e}{(a - b).mean() / spread:>20.2f}")
    t, p = group_test(second_half(fast), second_half(exact))
    pairs: Estimate = ratio(second_half(fast), second_half(exact))
    return [
        *lines,
        f"second half, {len(fast)} seeds each way: t = {t:.2f}, {2 * len(fast) - 2} degrees of freedom, p = {p:.2f}",
        f"fast over float32, by pairs: {pairs.value:.4f} [{pairs.low:.4f}, {pairs.high:.4f}] at 95 %",
    ]


@click.command()
@click.option("--recipe", "name", type=click.Choice(list(RECIPES)), default="digits", show_default=True)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a field of it, such as data=PATH.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N.")
@click.option("--steps", type=click.IntRange(min=20), default=2000, show_default=True)
@click.option("--seeds", type=click.IntRange(min=2), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of a processor.")
@click.option("--json", "as_json", is_flag=True, help="Every loss as JSON instead of words.")
def main(name: str, changes: tuple[str, ...], device: str, steps: int, seeds: int, threads: int, as_json: bool) -> None:
    """The loss curve of the fast way beside that of float32, by a test over seeds."""
    from tqdm import tqdm

    torch.set_num_threads(threads)
    recipe = replace(set_fields(RECIPES[name], changes), steps=steps)
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tqdm(total=seeds * len(WAYS), file=sys.stderr, unit="training", dynamic_ncols=True) as bar:
        for seed in range(seeds):
            for way, fields in WAYS.items():
                found[way].append(losses(replace(recipe, seed=seed, **fields), torch.device(device)))
                bar.update()
    if as_json:
        click.echo(json.dumps(found))
        return
    where = torch.cuda.get_device_name(torch.device(device)) if device.startswith("cuda") else hardware()
    curves = {way: np.array(rows) for way, rows in found.items()}
    click.echo("\n".join([where, f"{name}, {steps} steps of {recipe.batch} samples", *text(curves)]))


if __name__ == "__main__":
    main()
