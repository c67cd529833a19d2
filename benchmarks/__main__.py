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
@click.option("--minutes", type=float, help="What does not fit is left out.  [default: 9, on a device 3.5]")
@click.option("--device", help="The page of a device, as cuda or cpu, in the place of that of the quantities.")
def main(
    quick: bool, as_json: bool, names: tuple[str, ...], rounds: int | None, minutes: float | None, device: str | None
) -> None:
    """Cost of every quantity in forward passes, next to its floor and to what one would write instead."""
    from benchmarks.networks import LARGE_SUBJECTS, SUBJECTS
    from benchmarks.programme import programme
    from benchmarks.table import record, text

    warnings.filterwarnings("ignore", message="There is a performance drop", module="torch")
    known = [*SUBJECTS, *(LARGE_SUBJECTS if device else ())]
    unknown = set(names) - set(known)
    if unknown:
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; choose among {', '.join(known)}", param_hint="--only")
    if device is not None:
        of_device(device, names, quick, rounds or 2, time.monotonic() + 60 * (minutes or 3.5), as_json)
        return
    chosen = names or (QUICK if quick else tuple(SUBJECTS))
    results, jobs = programme(chosen, time.monotonic() + 60 * (minutes or 9.0), rounds or (2 if quick else 5), quick)
    with tqdm(jobs, file=sys.stderr, dynamic_ncols=True, unit="job") as bar:
        for job in bar:
            bar.set_postfix_str(job.label)
            job.run()
    click.echo(json.dumps(record(results)) if as_json else text(results))


def of_device(name: str, names: tuple[str, ...], quick: bool, rounds: int, deadline: float, as_json: bool) -> None:
    """The page of a device; quick ones are of the embedded network at a few pairs."""
    from benchmarks.page import PAIRS, Page
    from lipdiag.study.device import resolve_device

    page = Page(resolve_device(name), deadline, matrix=512 if quick else 8192)
    pairs = dict.fromkeys(QUICK, (8,)) if quick else PAIRS
    chosen = [other for other in names or pairs if other in pairs]
    jobs = list(page.jobs(chosen, pairs, ("log:4", 2) if quick else ("log:64", 8), rounds))
    with tqdm(total=len(jobs), file=sys.stderr, dynamic_ncols=True, unit="job") as bar:
        for label in page.run(jobs):
            bar.set_postfix_str(label)
            bar.update()
    click.echo(json.dumps(page.record()) if as_json else page.text(" ".join(["python -m benchmarks", *sys.argv[1:]])))


if __name__ == "__main__":
    main()
