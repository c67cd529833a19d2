"""Text of others: what it may not do to a terminal, a file or a reader."""

import io
import os
import subprocess
import sys

import pytest

from lipdiag.text import legible, printable, sound, writable

EVERYTHING = "".join(map(chr, range(0x110000)))
NASTY = "a\x1b[31mb\u202ec\ud800d\x07e\x9bf\ng\té"


def test_everything_a_terminal_acts_upon_is_spelled_out():
    assert printable(NASTY) == r"a\x1b[31mb\u202ec\ud800d\x07e\x9bf\ng\té"
    assert printable("a\nb\tc\r", keep="\n") == "a\nb\\tc\\r"
    assert printable(EVERYTHING).isprintable()


def test_what_is_kept_can_be_written_and_drawn_and_joined_letters_stay():
    assert writable("a\ud800\x1b\x00b") == r"a\ud800\x1b\x00b"
    joined = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert writable(joined) == joined
    assert writable(EVERYTHING).encode()


def test_values_out_of_json_are_made_sound():
    assert sound({"a\ud800": ["\x1b", 1, None, {"b": 2.5}]}) == {r"a\ud800": [r"\x1b", 1, None, {"b": 2.5}]}
    nested: list = []
    for _ in range(62):
        nested = [nested]
    assert sound(nested) == nested
    for value in ([[nested]], {"a": [nested]}):
        with pytest.raises(ValueError, match="nested too deeply"):
            sound(value)
    with pytest.raises(ValueError, match="integer that is too large"):
        sound({"a": 10**30})


def test_whoever_prints_prints_text(monkeypatch):
    """Text that a library prints too, on streams that know no more than ASCII; a progress bar may go back."""
    raw = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
    for name, binary in raw.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(binary, "ascii"))
    before = sys.stdout
    with legible():
        print(NASTY)
        for text in ("\r 50 %", "\rlipdiag: all is well\n", "\x1b[2J"):
            sys.stderr.write(text)
    assert sys.stdout is before
    assert raw["stdout"].getvalue().decode() == "a\\x1b[31mb\\u202ec\\ud800d\\x07e\\x9bf\ng\té\n"
    assert raw["stderr"].getvalue().decode() == "\r 50 %\\rlipdiag: all is well\n\\x1b[2J"


def lipdiag(*arguments: str, closed: tuple[int, ...] = ()) -> tuple[int, str]:
    """Exit code and all that is printed, with streams closed."""
    shell = "exec " + " ".join(f"{number}>&-" for number in closed) + '; exec "$@"'
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "lipdiag", *map(os.fsencode, arguments)]
    done = subprocess.run(command, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize(
    ("closed", "code"), [((1,), 5), ((0, 1, 2), 5), ((0,), 4), ((2,), 4)], ids=["stdout", "all", "stdin", "stderr"]
)
def test_a_closed_stream_is_an_error_of_output(closed, code):
    """And a run goes on without standard input, or standard error."""
    told = lipdiag("plot", "nowhere", closed=closed)
    assert told[0] == code
    assert "Traceback" not in told[1]
    assert 1 in closed or 2 in closed or "there is no run nowhere" in told[1]


@pytest.mark.parametrize(
    "arguments",
    [("plot", "{}"), ("compare", "{}", "b"), ("report", "{}"), ("plot", "a", "--figure", "{}"), ("selftest", "{}"),
     ("{}",), ("inspect", "{}"), ("inspect", "digits-ddpm", "--config", "{}"), ("plot", "--{}")],
)  # fmt: skip
def test_typed_words_are_spelled_out(arguments, monkeypatch):
    from click.testing import CliRunner

    from lipdiag.cli import main

    word = "a\x1b[31m\u202eb\rc"
    result = CliRunner().invoke(main, [text.format(word) for text in arguments])
    assert result.exit_code in (2, 3, 4)
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output
    assert "\r" not in result.output
    assert "\\u202eb\\rc" in result.output  # click itself strips colours where no terminal is
