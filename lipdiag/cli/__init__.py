"""The command line: a command parses its options, calls one function, and writes what it returns.

Results go to standard output, progress and remarks to standard error. Everything heavy is imported inside the command
that needs it, so that `--help` is quick.
"""

import click

from .advise import advise
from .compare import compare
from .convert import convert
from .look import inspect, plot, selftest
from .measure import demo, measure
from .merge import merge
from .options import Refusals
from .quality import evaluate, sample
from .report import report
from .train import train


@click.group(
    cls=Refusals,
    context_settings={"auto_envvar_prefix": "LIPDIAG", "help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(package_name="lipdiag")
def main() -> None:
    """Where is a diffusion model ill-conditioned, in time and in space?

    Start with `lipdiag demo`, then `lipdiag inspect CKPT` and `lipdiag measure CKPT`.
    """


for command in (
    inspect,
    measure,
    merge,
    plot,
    compare,
    report,
    advise,
    train,
    sample,
    evaluate,
    convert,
    demo,
    selftest,
):
    main.add_command(command)
