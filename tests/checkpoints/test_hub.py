"""Models by their name on a hub: one served on the loopback address, and the cache that huggingface_hub makes of it."""

import shutil
import socket

import diffusers
import pytest
import torch
from click.testing import CliRunner

import lipdiag
from lipdiag.checkpoints.hub import located, needed, weights_among
from lipdiag.cli import main
from lipdiag.errors import CheckpointError, StorageError, UsageError
from lipdiag.hub import Name, parse, spelled, titled
from tests.checkpoints.hub import serving

MODEL, COMMIT = "owner/tiny-ddpm", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A tiny pipeline as its library saves it, with files beside it that are not needed."""
    folder = tmp_path_factory.mktemp("hub") / "pipe"
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(folder)
    torch.save(network.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    shutil.copy(
        folder / "unet/diffusion_pytorch_model.safetensors", folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    )
    (folder / "README.md").write_text("a card")
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch, pipeline):
    """A hub that has the pipeline, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    with serving() as server:
        server.add(MODEL, pipeline, COMMIT)
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield server


@pytest.fixture
def offline(monkeypatch):
    """Any way to the network fails the test."""

    def connect(*args):
        raise AssertionError(f"it went to the network: {args}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


def run(*arguments):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_model_is_fetched_when_that_is_asked_for_and_then_read_from_the_cache(hub, pipeline, monkeypatch, tmp_path):
    loaded = lipdiag.load(MODEL, download=True)
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.9]).double()
    assert torch.equal(loaded(x, t), lipdiag.load(pipeline)(x, t))
    assert hub.served() == {  # one kind of weights, and neither the vae nor the card
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    asked = len(hub.asked)
    names = (MODEL, f"{MODEL}@main", f"hf://{MODEL}", f"hf://{MODEL}@{COMMIT}/unet", f"hf://{MODEL}@{COMMIT[:8]}")
    for name in names:
        assert lipdiag.inspect(name).unknown == ()
    lipdiag.load(f"hf://{MODEL}", download=True)  # it is there
    assert len(hub.asked) == asked
    assert lipdiag.inspect(MODEL).path == f"hf://{MODEL}@{COMMIT}"


def test_the_commit_is_kept_in_the_run_whose_name_is_the_model_s(hub):
    small = ("--timesteps", "0,500", "--draws", "2", "--quantity", "loss", "--no-probe")
    assert run("inspect", MODEL, "--download").exit_code == 0
    result = run("measure", f"hf://{MODEL}@main", *small, "--quiet", "--json")
    assert result.exit_code == 0, result.stderr
    dataset = lipdiag.open_run("tiny-ddpm.zarr")
    assert dataset.attrs["checkpoint"] == f"hf://{MODEL}@{COMMIT}"


def test_without_the_flag_nothing_goes_to_the_network(hub, offline):
    for call in (lipdiag.load, lipdiag.inspect, lipdiag.measure):
        with pytest.raises(CheckpointError, match=f"run `hf download {MODEL}`, or add download=True"):
            call(MODEL)
    for command in ("inspect", "measure", "sample", "evaluate"):
        result = run(command, f"hf://{MODEL}@v2", *(["--data", "digits"] if command == "evaluate" else []))
        assert result.exit_code == 3, result.output
        assert f"`hf download {MODEL} --revision v2`" in result.stderr
        assert result.stderr.count("\n") == 1
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("owner/tiny-dpdm", "the hub has no model owner/tiny-dpdm, or it is private: check the spelling"),
        ("owner/gated", "the hub gives owner/gated to those alone who accepted its terms: accept them at http"),
        (f"{MODEL}@v9", f"{MODEL} has no revision v9 on the hub: give a branch, tag or commit"),
        (f"hf://{MODEL}/unett", f"{MODEL} on the hub has no unett: it has README.md, model_index.json, scheduler"),
        ("owner/several", "owner/several on the hub has 2 files of weights: name one, such as hf://owner/several/a.pt"),
    ],
)
def test_what_the_hub_does_not_give_ends_in_a_sentence(hub, tmp_path, name, words):
    hub.gated.add("owner/gated")
    hub.models["owner/several"] = {"a.pt": b"a", "b.pt": b"b"}
    hub.revisions["owner/several"] = {"main": COMMIT, COMMIT: COMMIT}
    with pytest.raises(CheckpointError) as raised:
        located(name, download=True)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_hub_that_is_not_there_ends_in_a_sentence(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"cannot fetch owner/tiny-ddpm from http://127.0.0.1:9 \(.*\): check"):
        located(MODEL, download=True)


def test_a_cache_that_cannot_be_written_ends_in_a_sentence(hub, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot write the cache .*/file/hub: .*; set HF_HOME to a folder of yours"):
        located(MODEL, download=True)


def test_a_download_that_broke_off_is_told_and_made_whole(hub, tmp_path):
    located(MODEL, download=True)
    place = tmp_path / "home/hub/models--owner--tiny-ddpm/snapshots" / COMMIT
    (place / "unet/diffusion_pytorch_model.safetensors").resolve().unlink()
    with pytest.raises(CheckpointError, match=f"{COMMIT[:12]} is not whole, it lacks the weights of unet/: run `hf"):
        located(MODEL)
    located(MODEL, download=True)
    assert lipdiag.load(MODEL).shape == (3, 8, 8)
    shutil.rmtree(place / "scheduler")
    with pytest.raises(CheckpointError, match="lacks scheduler/"):
        located(MODEL)


def test_another_revision_in_the_cache_is_named(hub, tmp_path):
    located(MODEL, download=True)
    with pytest.raises(CheckpointError, match=f"the cache has {MODEL} at {COMMIT[:12]} and not at v2: run `hf"):
        located(f"{MODEL}@v2")
    with pytest.raises(CheckpointError, match="has no transformer: run"):
        located(f"hf://{MODEL}/transformer")


def test_a_single_file_is_found_in_a_model_that_has_no_other(hub, tmp_path):
    lipdiag.save(tmp_path / "model.pt", lipdiag.load("digits-ddpm"))
    hub.models["me/one"] = {"README.md": b"card", "best.pt": (tmp_path / "model.pt").read_bytes()}
    hub.revisions["me/one"] = {"main": COMMIT, COMMIT: COMMIT}
    assert lipdiag.load("me/one", download=True).shape == (1, 8, 8)
    assert str(located("hf://me/one/best.pt")) == str(located("me/one"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/b", Name("a", "b")),
        ("a/b.c-d@v1.0", Name("a", "b.c-d", "v1.0")),
        ("hf://a/b", Name("a", "b")),
        ("hf:/a/b", Name("a", "b")),  # as a path spells it
        ("hf://a/b@refs/pr/3/unet", Name("a", "b", "refs/pr/3", "unet")),
        ("hf://a/b/unet/", Name("a", "b", None, "unet")),
        ("hf://a/b.pt@x/c/d.pt", Name("a", "b.pt", "x", "c/d.pt")),
        ("a/model.pt", None),
        ("here/b", None),
        ("./a/b", None),
        ("/a/b", None),
        ("a/b/c", None),
        ("digits-ddpm", None),
    ],
)
def test_which_texts_are_names(tmp_path, monkeypatch, text, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert parse(text) == name


@pytest.mark.parametrize("text", ["hf://a", "hf://", "hf://a/../b", "hf://a/b/../../c", "hf://a b/c", "hf:///a/b"])
def test_what_begins_as_a_name_and_is_none_is_refused(text):
    with pytest.raises(UsageError, match="names no model on the hub: write hf://owner/name"):
        parse(text)


def test_a_place_in_the_cache_is_called_by_the_name_of_the_model():
    place = f"/x/hub/models--a--b/snapshots/{COMMIT}/unet"
    assert spelled(place) == f"hf://a/b@{COMMIT}/unet"
    assert titled(place) == titled("hf://a/b@main/unet") == titled("a/b") == "b"
    assert spelled("runs/model.pt") == "runs/model.pt"
    assert titled("runs/model.pt") == "model.pt"


def test_one_kind_of_weights_is_taken_with_all_its_shards():
    front = "diffusion_pytorch_model"
    shards = [f"{front}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert weights_among([*shards, f"{front}.fp16.safetensors", f"{front}.bin"]) == shards
    assert weights_among([shards[0], f"{front}.bin"]) == [f"{front}.bin"]
    assert weights_among([shards[0]]) == []
    names = ["unet/config.json", f"unet/{front}.bin", "scheduler/scheduler_config.json", "vae/config.json", "x.png"]
    assert needed(names, Name("a", "b", None, "unet")) == sorted(names[:3])
