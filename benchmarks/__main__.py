"""`python -m benchmarks`: the table on standard output, a bar on standard error."""

import json
import sys
import time
import warnings

import click
from tqdm import tqdm

QUICK = ("digits",)


@click.command()
@click.option("--quick", is_flag=True, help="The embedded network alone, in less than a minute.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
@click.option("--only", "names", multiple=True, help="This network; repeatable.  [default: all]")
@click.option("--rounds", type=click.IntRange(min=1), help="Most rounds of each case.  [default: 5, quick 2]")
@click.option("--minutes", default=9.0, show_default=True, help="What does not fit is left out, and shows as -.")
def main(quick: bool, as_json: bool, names: tuple[str, ...], rounds: int | None, minutes: float) -> None:
    """Cost of every quantity in forward passes, next to its floor and to what one would write instead."""
    from benchmarks.networks import SUBJECTS
    from benchmarks.programme import programme
    from benchmarks.table import record, text

    warnings.filterwarnings("ignore", message="There is a performance drop", module="torch")
    unknown = set(names) - set(SUBJECTS)
    if unknown:
        raise click.BadParameter(
            f"{', '.join(sorted(unknown))}; choose among {', '.join(SUBJECTS)}", param_hint="--only"
        )
    chosen = names or (QUICK if quick else tuple(SUBJECTS))
    results, jobs = programme(chosen, time.monotonic() + 60 * minutes, rounds or (2 if quick else 5), quick)
    with tqdm(jobs, file=sys.stderr, dynamic_ncols=True, unit="job") as bar:
        for job in bar:
            bar.set_postfix_str(job.label)
            job.run()
    click.echo(json.dumps(record(results)) if as_json else text(results))


if __name__ == "__main__":
    main()
