"""What a terminal is shown otherwise than a file: sentences in its width, and pictures.

Pictures need a protocol: kitty's, which others speak too, or iTerm's.
"""

import base64
import shutil
import sys
from collections.abc import Mapping

import click

from ..printing import folded

CHUNK = 4096
"""Characters of a picture that kitty's protocol takes at once."""


def inline(png: bytes, environment: Mapping[str, str]) -> bytes:
    """What to write to a terminal for it to show a picture; nothing where it is not known to show any.

    Sources: sw.kovidgoyal.net/kitty/graphics-protocol and iterm2.com/documentation-images.html. A multiplexer between
    program and terminal swallows both, and hands the terminal's variables on all the same.

    Args:
        png: The picture's file.
        environment: Its variables tell which terminal this is.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term.startswith(("screen", "tmux")) or not {"TMUX", "STY"}.isdisjoint(environment):
        return b""
    text = base64.b64encode(png)
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        chunks = [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]
        heads = [b"a=T,f=100,", *[b""] * (len(chunks) - 1)]
        more = [*[1] * (len(chunks) - 1), 0]
        parts = zip(heads, more, chunks, strict=True)
        return b"".join(b"\x1b_G%bm=%d;%b\x1b\\" % part for part in parts) + b"\n"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return b"\x1b]1337;File=inline=1;size=%d:%b\x07\n" % (len(png), text)
    return b""


def remark(sentence: str, err: bool = True) -> None:
    """Say a sentence on standard error, or standard output: in one line, which a terminal gets folded at its words."""
    terminal = (sys.stderr if err else sys.stdout).isatty()
    click.echo(folded(sentence, shutil.get_terminal_size().columns) if terminal else sentence, err=err)
