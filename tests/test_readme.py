"""What the README says runs as it stands, and every file it points at is there."""

import re
from pathlib import Path

from click.testing import CliRunner

from lipdiag.cli import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_python_lines_run_and_their_files_can_be_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert Path("mine.pdf").read_bytes().startswith(b"%PDF")
    for arguments in (["inspect", "ckpt.pt"], ["plot", "mine.zarr"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    assert {"singularity.pdf", "singularity.svg", "singularity.png"} <= {path.name for path in tmp_path.iterdir()}


def test_every_lipdiag_command_in_the_readme_parses():
    """Each line is tried with --help appended: an option that does not exist is a usage error."""
    lines = [line.split("#")[0] for block in blocks("bash") for line in block.splitlines()]
    commands = [line.split("lipdiag ", 1)[1].split() for line in lines if "lipdiag " in line]
    assert len(commands) >= 6
    for command in commands:
        assert CliRunner().invoke(main, [*command, "--help"]).exit_code == 0, command


def test_every_target_in_the_readme_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)", TEXT):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_link_to_a_file_leads_somewhere():
    """In a checkout as it comes: pages that are made for the site are not in it."""
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            there = (document.parent / target).resolve()
            made = ROOT / "docs" / "api" in there.parents
            assert target.startswith("https://") or (there.exists() and not made), (document, target)


def test_the_table_of_variables_is_complete():
    from lipdiag.quantities.catalogue import QUANTITIES

    for quantity in QUANTITIES.values():
        assert f"`{quantity.headline}`" in TEXT, quantity.headline


def test_the_table_of_checkpoints_is_that_of_the_registry():
    from lipdiag.formats.family import table

    assert table().strip() in TEXT
