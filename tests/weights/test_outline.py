"""What a report of a bug shows of a checkpoint: the layout that was written, and nothing that a person wrote."""

import json

import pytest
import torch
from click.testing import CliRunner

import lipdiag
from lipdiag.cli import main
from lipdiag.weights import outline

PRIVATE = ("alice", "marigold", "secret", "0.123456", "1.25e-05", "bunny")
WEIGHTS = {f"down.{i}.conv.weight": torch.full((2, 3), 0.123456) for i in range(3)} | {
    "out.bias": torch.zeros(4).half()
}


def run(*arguments):
    return CliRunner().invoke(main, ["bug", *map(str, arguments)])


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of a user whose names must not be told."""
    monkeypatch.setenv("HOME", str(tmp_path / "alice"))
    monkeypatch.setenv("LOGNAME", "alice")
    monkeypatch.setattr("platform.node", lambda: "marigold")
    folder = tmp_path / "alice" / "my secret project"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def file(home):
    args = {"lr": 1.25e-5, "prompt": "a secret bunny", "out_dir": "/data/alice/run", "owner": "alice"}
    content = {"model": WEIGHTS, "args": args, "a secret prompt": torch.zeros(1), "of_alice": [1, 2]}
    torch.save(content, home / "net.pt")
    return home / "net.pt"


def test_the_layout_is_told_and_nothing_private(file):
    result = run(file)
    assert result.exit_code == 0, result.output
    for line in ("model/down.*.conv.weight  float32 [2, 3]  x 3", "model/out.bias  float16 [4]", "args/lr  float"):
        assert line in result.output
    assert "net.pt" in result.output
    assert f"torch:            {torch.__version__}" in result.output
    assert "CheckpointError: cannot use net.pt: " in " ".join(result.output.split())
    assert not [word for word in PRIVATE if word in result.output.lower()], result.output


def test_json_is_one_line_with_the_same(file):
    told = json.loads(run(file, "--json").output)
    assert "  model/out.bias  float16 [4]" in told["layout"]
    assert told["checkpoint"] == "net.pt"
    assert not [word for word in PRIVATE if word in json.dumps(told).lower()]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.pt", None),
        ("damaged.pt", b"PK\x03\x04 alice"),
        ("text.pt", b"a secret bunny of alice"),
        ("empty.pt", b""),
    ],
)
def test_a_file_that_cannot_be_read_is_told_without_its_place(home, name, content):
    if content is not None:
        (home / name).write_bytes(content)
    result = run(home / name)
    assert result.exit_code == 0, result.output
    assert "not read: " in result.output
    assert name in result.output
    assert not [word for word in PRIVATE if word in result.output.lower()], result.output


def test_a_folder_is_told_by_its_files_and_the_keys_of_their_configurations(home):
    (home / "unet").mkdir()
    (home / "unet" / "config.json").write_text('{"sample_size": 8, "note": "a secret bunny", "levels": [1, 2]}')
    (home / "a bunny.png").write_bytes(b"x")
    (home / "broken.json").write_text("{")
    result = run(home)
    assert "unet/config.json: " in result.output
    assert "    sample_size  int\n" in result.output
    assert "    levels  list of 2\n" in result.output
    assert "<a name of 11 characters>: 1 bytes" in result.output
    assert "broken.json: 1 bytes\n    not read: " in result.output
    assert "a bunny" not in result.output
    assert "bunny" not in result.output.replace("a bunny", "")


def test_an_error_of_a_factory_is_told_with_the_lines_it_came_from(file, monkeypatch):
    (file.parent / "mine_alice.py").write_text("def make():\n    raise KeyError('a secret bunny')\n")
    monkeypatch.syspath_prepend(str(file.parent))
    told = json.loads(run(file, "--factory", "mine_alice:make", "--clock", "unit", "--json").output)
    assert told["options"] == ["--clock unit", "--factory ..."], "what was given"
    assert "error" in told
    assert not [word for word in PRIVATE if word in json.dumps(told).lower()], told


def test_an_error_that_quotes_the_file_does_not_tell_the_text(home):
    lipdiag.save(home / "net.pt", lipdiag.load("digits-ddpm"))
    content = torch.load(home / "net.pt", weights_only=True)
    config = json.loads(content["config"]) | {"schedule": "a secret bunny of alice"}
    torch.save({**content, "config": json.dumps(config)}, home / "net.pt")
    assert "bunny" in CliRunner().invoke(main, ["measure", str(home / "net.pt")]).output
    told = json.loads(run(home / "net.pt", "--json").output)
    assert "..." in told["error"]
    assert "    config/schedule  str" in "\n".join(f"  {line}" for line in told["layout"])
    assert not [word for word in PRIVATE if word in json.dumps(told).lower()], told


def test_a_checkpoint_that_is_read_has_no_error():
    told = json.loads(run("digits-ddpm", "--json").output)
    assert "error" not in told
    assert told["read as"] == "UNet2DModel"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice/x.pt is bad", "x.pt is bad"),
        (r"C:\Users\alice\x.pt", "x.pt"),
        ("of ALICE and alice_2", "of USER and USER_2"),
        ("a/b: 3 bytes", "b: 3 bytes"),
    ],
)
def test_paths_and_people_are_taken_out_of_a_text(home, text, shown):
    assert outline.anonymous(text) == shown


def test_an_embedded_model_is_outlined_and_what_was_not_given_is_not_told():
    plain, told = (json.loads(run("digits-ddpm", "--json", *flags).stdout) for flags in ((), ("--download",)))
    assert "options" not in plain or plain["options"] == []
    assert told["options"] == ["--download"]
    assert any("model.safetensors" in line for line in plain["layout"])
    assert not any("not read" in line for line in plain["layout"])
