"""The command line: a command parses its options, calls one function, and writes what it returns.

Results go to standard output, progress and remarks to standard error. Everything heavy is imported inside the command
that needs it, so that `--help` is quick.
"""

import click

from ..lean import alone
from ..provenance import devices, versions
from .advise import advise
from .bug import bug
from .compare import compare
from .convert import convert
from .doctor import doctor
from .help import explain
from .look import inspect, plot, selftest
from .measure import demo, measure
from .merge import merge
from .options import Refusals
from .quality import evaluate, sample
from .report import report
from .train import train


def tell_versions(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    """What this is and what it stands on, without importing any of it."""
    if asked and not ctx.resilient_parsing:
        for name, number in versions("lipdiag", "python", "torch", "diffusers").items():
            click.echo(f"{name:<10} {number}")
        click.echo(f"{'device':<10} {devices()}")
        ctx.exit()


@click.group(
    cls=Refusals,
    context_settings={"auto_envvar_prefix": "LIPDIAG", "help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=tell_versions, help="Tell versions."
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Where is a diffusion model ill-conditioned, in time and in space?

    Start with `lipdiag demo`, then `lipdiag inspect CKPT` and `lipdiag measure CKPT`.
    """
    ctx.with_resource(alone(ctx.invoked_subcommand != "train"))


for command in (
    inspect,
    measure,
    merge,
    plot,
    doctor,
    compare,
    report,
    advise,
    train,
    sample,
    evaluate,
    convert,
    demo,
    selftest,
    explain,
    bug,
):
    main.add_command(command)
