"""In a terminal: sentences in its width, and pictures, the bytes of both protocols, as their documents say."""

import base64
import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from lipdiag.cli import main
from lipdiag.cli.terminal import inline
from lipdiag.printing import folded

PNG = bytes(range(256)) * 40
"""Longer than two chunks."""


@pytest.mark.parametrize(
    "environment", [{"KITTY_WINDOW_ID": "1"}, {"TERM": "xterm-kitty"}, {"TERM_PROGRAM": "ghostty", "TERM": "xterm"}]
)
def test_kitty_gets_the_picture_in_chunks(environment):
    written = inline(PNG, environment)
    commands = re.findall(rb"\x1b_G([^;]*);([^\x1b]*)\x1b\\", written)
    assert b"".join(b"\x1b_G%b;%b\x1b\\" % command for command in commands) + b"\n" == written
    assert [head for head, _ in commands] == [b"a=T,f=100,m=1", b"m=1", b"m=1", b"m=0"]
    assert all(len(data) <= 4096 and (len(data) % 4 == 0) for _, data in commands)
    assert base64.b64decode(b"".join(data for _, data in commands)) == PNG


@pytest.mark.parametrize(
    "environment", [{"TERM_PROGRAM": "iTerm.app"}, {"TERM_PROGRAM": "WezTerm"}, {"LC_TERMINAL": "iTerm2"}]
)
def test_iterm_gets_the_picture_at_once(environment):
    size, data = re.fullmatch(
        rb"\x1b\]1337;File=inline=1;size=(\d+):([^\x07]*)\x07\n", inline(PNG, environment)
    ).groups()
    assert int(size) == len(PNG)
    assert base64.b64decode(data) == PNG


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TERM": "xterm-256color"},
        {"KITTY_WINDOW_ID": "1", "TMUX": "/tmp/x"},
        {"LC_TERMINAL": "iTerm2", "TERM": "screen"},
    ],
)
def test_other_terminals_get_nothing(environment):
    assert inline(PNG, environment) == b""


def test_a_terminal_gets_sentences_in_its_width_and_a_file_gets_them_in_one_line():
    """As both see it: what is quoted, to be copied, is not torn."""
    command = [sys.executable, "-m", "lipdiag", "plot", "--figure", "jacobin"]
    plain = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (plain.returncode, plain.stderr.count("\n")) == (2, 1)
    ours, theirs = pty.openpty()
    subprocess.run(command, stderr=theirs, env=os.environ | {"COLUMNS": "50"}, check=False)
    os.close(theirs)
    seen = os.read(ours, 10_000).decode().splitlines()
    os.close(ours)
    assert len(seen) > 2
    assert max(map(len, seen)) <= 50
    assert " ".join(line.strip() for line in seen) == plain.stderr.strip()


def test_what_is_quoted_is_not_torn():
    sentence = 'give it by --schedule "linear(0.0001, 0.02, 1000)", or see what `lipdiag help conventions` says of it'
    lines = folded(sentence, 30).splitlines()
    assert '  "linear(0.0001, 0.02, 1000)",' in lines
    assert any("`lipdiag help conventions`" in line for line in lines)
    assert folded("facts:  1\n  more:   2", 30) == "facts:  1\n  more:   2"


@pytest.mark.parametrize("words", [("--batch", "many"), ("--dtype", "float16"), ("--products", "bf16")])
def test_a_terminal_gets_refusals_of_options_in_its_width_too(monkeypatch, words):
    terminal = SimpleNamespace(isatty=lambda: True)
    runner = CliRunner(env={"COLUMNS": "80"})
    plain = runner.invoke(main, ["measure", "digits-ddpm", *words])
    monkeypatch.setattr("lipdiag.cli.terminal.sys", SimpleNamespace(stderr=terminal, stdout=terminal))
    shown = runner.invoke(main, ["measure", "digits-ddpm", *words])
    assert plain.exit_code == shown.exit_code == 2
    assert max(map(len, shown.stderr.splitlines())) <= 80 < max(map(len, plain.stderr.splitlines()))
    assert shown.stderr.split() == plain.stderr.split()
