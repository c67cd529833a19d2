"""The command that turns a file which is code into files that are not."""

import json
import shlex
from pathlib import Path

import click

from ..errors import UsageError
from .options import everywhere


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--unsafe-pickle", is_flag=True, help="Allow the code in FILE to run, with all your rights.")
@click.option("--code-dir", type=click.Path(path_type=Path), help="The code FILE was made with (torch_utils, dnnlib).")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@everywhere
def convert(file: Path, unsafe_pickle: bool, code_dir: Path | None, out: Path, quiet: bool, as_json: bool) -> None:
    """Turn a pickle of NVIDIA's EDM or EDM2 into safetensors and a config.

    Such a file is a program: reading it runs whatever code it holds. Do it where
    there is nothing to lose, best in a container without network. What would be
    measured is compared with the file's own denoiser; the command that measures it
    is printed.
    """
    from ..checkpoints.hub import located
    from ..formats import edm
    from ..formats.checkpoint import file_digest

    if not unsafe_pickle:
        raise UsageError(f"{file} runs any code stored in it when it is read; add --unsafe-pickle if you trust it")
    if code_dir is None:
        raise UsageError("convert needs --code-dir, the folder with the code the pickle was made with")
    file = Path(located(file))
    if not quiet:
        click.echo(f"{file} (SHA-256 {file_digest(file)}): this runs any code stored in the file", err=True)
    config = edm.convert(file, code_dir, out)
    if as_json:
        click.echo(json.dumps({"out": str(out), **config}))
    elif not quiet:
        module, name = config["network"]["module"] or "MODULE", config["network"]["class"]
        around = f"{config['preconditioner']} around {name}"
        click.echo(f"{out}: {around}, equal to the file's own denoiser to {config['difference']:.0e}\n")
        click.echo(f"    PYTHONPATH={shlex.quote(str(code_dir))} lipdiag measure {out} --factory {module}:{name}")
