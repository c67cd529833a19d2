"""What commands share: options, how refusals end, how runs are stopped, and facts in two columns."""

import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..breakdown import described, of_the_device
from ..errors import IncompleteError, LipdiagError, StorageError, UsageError, meant
from ..hub import titled
from ..store.folder import read_regular
from ..text import legible, printable
from .terminal import remark

if TYPE_CHECKING:
    from ..checkpoints.reading import Reading

INTERRUPTED = 130
LARGEST_CONFIGURATION = 1_000_000  # bytes
LARGEST_SAMPLE = 2**30
"""Numbers in one sample."""


class Refusals(click.Group):
    """A group whose commands end a refusal in one sentence and the exit code of its kind.

    Whatever is printed meanwhile is printable: names and texts of others, typed paths, warnings of libraries.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        lost = sys.stdout is None
        for number in range(3):  # or the first files to be opened would take the places of streams that were closed
            with suppress(OSError):
                os.fstat(number)
                continue
            os.open(os.devnull, os.O_RDWR)
        if sys.stderr is None:
            sys.stderr = os.fdopen(2, "w")
        if lost:
            sys.stderr.write("lipdiag: standard output is closed; send it to a file or to /dev/null\n")
            sys.exit(StorageError.exit_code)
        with legible():
            return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        os.environ.pop(
            "MPLBACKEND", None
        )  # of the notebook that started this; nothing is shown here, and files need none
        try:
            return super().invoke(ctx)
        except LipdiagError as error:
            if os.environ.get("LIPDIAG_DEBUG") or "--debug" in sys.argv:
                raise
            remark(f"lipdiag: {printable(str(error))}")
            ctx.exit(error.exit_code)
        except click.ClickException as error:
            words = io.StringIO()
            error.show(words)
            remark(words.getvalue().rstrip())
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            ctx.exit(0)
        except (RuntimeError, MemoryError) as error:
            if "--debug" in sys.argv or not of_the_device(error):
                raise
            said = f"lipdiag: the device failed or is full, with {described(error)}: free it, or give another --device"
            remark(printable(f"{said}; what is on disk is kept"))
            ctx.exit(IncompleteError.exit_code)
        except KeyboardInterrupt as interrupt:
            remark("lipdiag: interrupted; what was finished is kept, and the same command goes on or begins again")
            ctx.exit(128 + getattr(interrupt, "number", signal.SIGINT))
        except OSError as error:
            if "--debug" in sys.argv:
                raise
            remark(printable(f"lipdiag: {error.filename or ''}: {error.strerror or error}"))
            ctx.exit(StorageError.exit_code)


def configure(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    """Take defaults from a TOML file; a key that is no option of the command is an error."""
    if path is None:
        return
    import tomllib

    try:
        text = read_regular(Path(path), LARGEST_CONFIGURATION, links=True)
        if len(text) > LARGEST_CONFIGURATION:
            raise ValueError(f"it is larger than {LARGEST_CONFIGURATION} bytes")
        values = tomllib.loads(text.decode())
    except (OSError, ValueError, RecursionError) as error:
        cause = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"cannot read the configuration {path}: {cause}") from error
    known = {parameter.name: parameter for parameter in ctx.command.params}
    aliases = {name.lstrip("-").replace("-", "_"): p for p in ctx.command.params for name in p.opts}
    defaults = {}
    for key, value in values.items():
        parameter = aliases.get(key.replace("-", "_")) or known.get(key)
        if parameter is None or parameter.name is None:
            raise UsageError(
                f"{path} sets {key!r}, which {ctx.info_name} does not know{meant(key, aliases)}; known are "
                f"{', '.join(sorted(aliases))}"
            )
        several = getattr(parameter, "multiple", False) or parameter.nargs != 1
        items = value if several and isinstance(value, list) else [value]
        kinds = (bool,) if getattr(parameter, "is_flag", False) else (str, int, float, bool)
        if not all(type(item) in kinds and (type(item) is not float or math.isfinite(item)) for item in items):
            raise UsageError(f"{path} sets {key!r} to {str(value)[:60]!r}, which is no value of that option")
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
    click.option("--quiet", is_flag=True, help="No progress, no remarks but warnings."),
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
    click.option(
        "--schedule", metavar="TEXT", help='Overrides the file, "linear(0.0001, 0.02, 1000)"; `help conventions`.'
    ),
    click.option(
        "--parameterization", metavar="TEXT", help="Overrides the file: eps, v, x0, velocity, score, edm(0.5), ..."
    ),
    click.option("--clock", metavar="TEXT", help='Overrides the file, e.g. "shared(timesteps(1000), 100, 5)".'),
    click.option(
        "--function",
        type=click.Choice(["eps", "raw"]),
        default="eps",
        show_default=True,
        help="What is measured: the noise, or the network's own output.",
    ),
    click.option("--conditioning", metavar="FILE", help="Tensors by keyword, .safetensors or .npz, told throughout."),
    click.option("--label", type=int, help="The class that the network is told."),
    click.option("--prompt", metavar="TEXT", help='The text that it is told, by its own text encoder; "" for none.'),
    click.option(
        "--original-config",
        metavar="PATH",
        help="Of a bare file: a diffusers folder or JSON flags; of a LoRA: its model.",
    ),
    click.option("--download", is_flag=True, help="Fetch a model on the hub that is not in the local cache."),
    click.option("--factory", metavar="PKG.MOD:FUNCTION", help="Your own Python function that makes the model."),
    click.option("--shape", metavar="C,H,W", help="Of one sample, where a factory returns a bare network."),
)
resizing = click.option(
    "--resize", is_flag=True, help="Fit pictures in a folder to the model's size, cut to their centre."
)
pictures = options(
    resizing,
    click.option(
        "--range",
        "bounds",
        metavar="LOW,HIGH",
        default="-1,1",
        show_default=True,
        help="Of the data where they are pictures of 8 bits; 0,1 for models that take these.",
    ),
)
computing = options(
    click.option(
        "--device", type=str.lower, metavar="TEXT", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N."
    ),
    click.option("--threads", type=click.IntRange(min=1), help="Processor threads."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of everything random."),
)


def drawing(name: str) -> Callable[[Callable], Callable]:
    """The options of a command that draws a figure of some name."""
    return options(
        click.option(
            "--style",
            default="iclr",
            show_default=True,
            help="icml, icml-wide, iclr, neurips, cvpr, cvpr-wide, slides.",
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            multiple=True,
            help=f"Figures, .pdf .svg .png; repeatable.  [default: {name}.pdf, .svg and .png]",
        ),
    )


def save_figure(drawn: Any, name: str, out: tuple[Path, ...] = ()) -> list[str]:
    """Write a figure to the files that are asked for, by default three of its name, and return them."""
    from ..figures.canvas import save

    paths = out or tuple(Path(name + suffix) for suffix in (".pdf", ".svg", ".png"))
    for path in paths:
        save(drawn, path)
    return [str(path) for path in paths]


def read_reading(given: dict[str, Any]) -> "Reading":
    """What the options tell about a checkpoint."""
    from ..checkpoints.reading import WORDS, Reading

    words = {name: given[name] for name in WORDS}
    if words["shape"] is not None:
        try:
            sizes = tuple(int(size) for size in words["shape"].split(","))
        except ValueError:
            sizes = ()
        if not 0 < math.prod(sizes) <= LARGEST_SAMPLE or min(sizes, default=0) < 1:
            raise UsageError(
                f"--shape {words['shape'][:60]!r} is not a list of sizes of a sample, each at least 1, such as 3,32,32"
            )
        words["shape"] = sizes
    return Reading.of(**words)


def require_model(checkpoint: str | None, factory: str | None, command: str) -> None:
    """Refuse a command that is given neither a checkpoint nor what makes one."""
    if checkpoint is None and factory is None:
        raise UsageError(f"{command} needs a checkpoint (a path, digits-ddpm or digits-etsdm), or a --factory")


ENDINGS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".pkl", ".pickle", ".mdlus", ".npz")
"""What names of checkpoints end in."""


def stem(checkpoint: str | None, factory: str | None) -> str:
    """What a file made from a checkpoint is called without a suffix."""
    name = titled(checkpoint) if checkpoint else (factory or "").partition(":")[2]
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or name


def read_range(text: str) -> tuple[float, float]:
    """Two numbers."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"--range {text[:60]!r} is not two numbers, black and white, such as 0,1") from None
    return low, high


def use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


class Stopped(KeyboardInterrupt):
    """Ctrl-C, by any of the signals that ask a program to end."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def stoppable(gently: bool = False) -> Iterator[dict[str, int]]:
    """SIGTERM, SIGHUP and SIGUSR1 end a run as Ctrl-C does: what is measured stays. Yields what names the signal.

    A second signal ends the process on the spot.

    Args:
        gently: Whether signals are only taken note of, however many, and the caller looks for one after each step.
    """
    received: dict[str, int] = {}

    def stop(number: int, frame: Any) -> None:
        if received and not gently:
            os._exit(128 + number)
        received["signal"] = number
        if gently:
            return
        raise Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
