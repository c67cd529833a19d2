"""Redraw every figure in this folder from the embedded models: `make figures`, under two minutes on two cores."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import lipdiag
from lipdiag import Plan, report

HERE = Path(__file__).parent
BLOCK_ENDS = (19, 39, 59, 79, 99)


def timesteps() -> tuple[float, ...]:
    """The default grid of the shared clock, which has the end of each block, with all of the first timesteps."""
    from lipdiag.study.plan import resolve_timesteps

    clock = lipdiag.load("digits-etsdm").clock
    return tuple(sorted({*range(16), *BLOCK_ENDS, *resolve_timesteps("log:64", clock).tolist()}))


def weights(run) -> str:
    """The first digits of the checksum of a run's model."""
    return run.attrs["frozen"]["model"]["weights_sha256"][:16]


def main() -> None:
    plan = Plan(timesteps=timesteps(), draws=128, quantities=("time_derivative", "time_difference", "loss"))
    runs = [lipdiag.measure(model, plan=plan) for model in ("digits-ddpm", "digits-etsdm")]
    picture = report.plot(runs, figure="singularity")
    for suffix in (".pdf", ".svg", ".png"):
        report.save(picture, HERE / f"singularity{suffix}")
    words = [
        "# singularity",
        "",
        picture.caption,
        "",
        f"- made by `make figures` ({plan.draws} draws, seed {plan.seed}, {len(plan.timesteps)} timesteps)",
        *(f"- {run.attrs['checkpoint']}: weights {weights(run)}" for run in runs),
        f"- torch {version('torch')}, {platform.machine()} CPU, {datetime.now(UTC).date()}",
        "- the data drawn: `singularity.csv`",
        "",
    ]
    (HERE / "singularity.md").write_text("\n".join(words))


if __name__ == "__main__":
    main()
