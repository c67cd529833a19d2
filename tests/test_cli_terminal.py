"""Pictures in a terminal: the bytes of both protocols, taken apart again as their documents say."""

import base64
import re

import pytest

from lipdiag.cli.terminal import inline

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
