"""PhysicsNeMo's checkpoints against PhysicsNeMo itself, where that is installed, and archives as strangers may make."""

import importlib
import io
import json
import sys
import tarfile
import zipfile
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock

import pytest
import torch

from lipdiag import checkpoints
from lipdiag.checkpoints.template import write_factory
from lipdiag.diffusion.continuous import along
from lipdiag.errors import CheckpointError
from lipdiag.formats import physicsnemo as format_of
from tests.formats.agreement import derivatives_agree
from tests.formats.originals import package

UNUSED = ("warp", "s3fs", "cloudpickle", "tensordict", "pyarrow", "nvtx", "torchvision", "apex", "omegaconf", "git")
SMALL = {"img_resolution": 8, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
EDM = SMALL | {"img_channels": 2, "model_type": "SongUNet"}
T = torch.tensor([0.3, 0.6], dtype=torch.float64)


class Unused:
    """Finds a stand-in for every part of packages that PhysicsNeMo imports and these networks do not use."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in UNUSED else None

    def create_module(self, spec):
        module = MagicMock(name=spec.name, __version__="99.0", __path__=[])
        module.__spec__ = spec
        return module

    def exec_module(self, module):
        pass


@contextmanager
def physicsnemo():
    """The package, if it is installed."""
    finder, before = Unused(), set(sys.modules)
    with package("physicsnemo"):
        sys.meta_path.append(finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            for name in set(sys.modules) - before:
                if name.partition(".")[0] in UNUSED:
                    del sys.modules[name]


def made(name, told, inside=None):
    """A network or preconditioner of the package, with last layers that are not zero."""
    networks = importlib.import_module("physicsnemo.models.diffusion_unets")
    home = importlib.import_module("physicsnemo.diffusion.preconditioners")
    legacy = importlib.import_module("physicsnemo.diffusion.preconditioners.legacy")
    make = next(getattr(place, name) for place in (networks, home, legacy) if hasattr(place, name))
    torch.manual_seed(0)
    model = make(**told) if inside is None else make(inside, **told)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("EDMPrecond", EDM | {"sigma_data": 0.7}), ("EDMPrecond", EDM | {"label_dim": 3}), ("VPPrecond", EDM),
        ("VEPrecond", EDM), ("EDMPreconditioner", {"sigma_data": 0.6}),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)  # fmt: skip
def test_what_is_measured_is_the_packages_denoiser(tmp_path, name, told):
    """eps = (x - D) / sigma, where its own class denoises x at noise level sigma."""
    with physicsnemo():
        inside = None
        if name == "EDMPreconditioner":
            inside = made("SongUNet", SMALL | {"in_channels": 2, "out_channels": 2})
        model = made(name, told, inside)
        model.save(str(tmp_path / "model.mdlus"))
        label = 2 if "label_dim" in told else None
        predictor = checkpoints.load(tmp_path / "model.mdlus", label=label)
        sigma = torch.exp(-predictor.schedule.logsnr(T) / 2).float()
        x = sigma.view(-1, 1, 1, 1) * torch.randn(2, 2, 8, 8)
        more = {} if label is None else {"class_labels": torch.eye(3)[[2, 2]]}
        with torch.no_grad():
            theirs = model(x, sigma, **more)
    assert predictor.shape == (2, 8, 8)
    alpha = predictor.schedule(T)[0]
    with torch.no_grad():
        ours = predictor(along(alpha.float(), x) * x, T)
    torch.testing.assert_close(ours, (x - theirs) / along(sigma, x), rtol=1e-4, atol=1e-4)
    if name == "EDMPreconditioner":
        derivatives_agree(predictor, T)


def args(name="SongUNet", **told):
    network = {"img_resolution": 8, "in_channels": 2, "out_channels": 2, "label_dim": 0} | told
    return {"__name__": name, "__module__": "os", "__args__": network}


def archive(path, told, members=None, compression=zipfile.ZIP_STORED, tar=False):
    """An archive as PhysicsNeMo writes it, or otherwise."""
    weights = io.BytesIO()
    torch.save({"model.a": torch.zeros(2), "b": torch.zeros(1)}, weights)
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    found = {"model.pt": weights.getvalue(), "args.json": text, "metadata.json": b"{}"} | (members or {})
    if tar:
        with tarfile.open(path, "w") as made:
            for name, data in found.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                made.addfile(info, io.BytesIO(data))
        return path
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, data in found.items():
            made.writestr(name, data)
    return path


@pytest.mark.parametrize("tar", [False, True], ids=["zip", "tar"])
def test_an_archive_tells_its_network_and_preconditioner(tmp_path, tar):
    """No class is imported for that: what a file calls the module of its class is not even read."""
    bare = format_of.read(archive(tmp_path / "a.mdlus", args(), tar=tar))
    assert (bare.network, bare.shape, set(bare.state)) == ("physicsnemo.SongUNet", (2, 8, 8), {"model.a", "b"})
    with pytest.raises(CheckpointError, match="by --schedule, --parameterization and --clock, those of the precond"):
        checkpoints.load(tmp_path / "a.mdlus")
    old = args("VPPrecond", img_channels=3, beta_d=10, beta_min=0.2, model_channels=8, sigma_max=float("inf"))
    found = format_of.read(archive(tmp_path / "b.mdlus", old, tar=tar))
    assert found.convention.spelled["schedule"] == "vp(0.2, 10.2)"
    assert (found.network, found.network_config["model_channels"], set(found.state)) == (
        "physicsnemo.SongUNet", 8, {"a"},
    )  # fmt: skip
    doubled = format_of.read(archive(tmp_path / "d.mdlus", args("iDDPMPrecond", img_channels=3), tar=tar))
    assert (doubled.network_config["in_channels"], doubled.network_config["out_channels"]) == (3, 6)
    new = {"__name__": "EDMPreconditioner", "__module__": "m", "__args__": {"model": "x.model", "sigma_data": 0.7}}
    found = format_of.read(archive(tmp_path / "c.mdlus", new | {"x.model": args("DhariwalUNet")}, tar=tar))
    assert (found.network, found.convention.spelled["parameterization"]) == ("physicsnemo.DhariwalUNet", "edm(0.7)")


def test_without_the_package_a_factory_is_begun(tmp_path, monkeypatch):
    """Its arguments are those of the file, and the file tells how the network is used."""
    monkeypatch.chdir(tmp_path)
    archive("a.mdlus", args("EDMPrecond", img_channels=2, img_resolution=4, model_channels=24))
    monkeypatch.setitem(sys.modules, "physicsnemo", None)
    with pytest.raises(
        CheckpointError, match="physicsnemo, which has the network, is not installed: install it, or give"
    ):
        checkpoints.load("a.mdlus")
    command = write_factory("a.mdlus", "my_field.py")
    assert command == "lipdiag measure a.mdlus --factory my_field:build"
    text = (tmp_path / "my_field.py").read_text()
    assert "'model_channels': 24" in text
    (tmp_path / "my_field.py").write_text("def build(state):\n    return lambda x, t: x * state['a'].sum()\n")
    monkeypatch.delitem(sys.modules, "my_field", raising=False)
    predictor = checkpoints.load("a.mdlus", factory="my_field:build")
    assert (predictor.shape, predictor.parameterization.__class__.__name__) == ((2, 4, 4), "Edm")


@pytest.mark.parametrize("tar", [False, True], ids=["zip", "tar"])
def test_strange_archives_are_refused(tmp_path, tar):
    for number, (told, members, words) in enumerate((
        (args("Popen"), None, r"'?Popen'?, which is not among SongUNet, DhariwalUNet"),
        (args(in_channels=5), None, "5 channels in and 2 out, which sees a condition beside x"),
        ({"__name__": 3}, None, "does not name its network by a class and arguments"),
        (args("EDMPrecond", img_channels=2, sigma_data=-1.0), None, "numbers in its preconditioner"),
        (b"{", None, "JSON"),
        (b" " * 1_000_001, None, "description too long"),
        (args(), {"evil.py": b""}, "is no archive of args.json, metadata.json, model.pt"),
        (args(), {"model.pt": b"\x80\x02c"}, "bare pickle|damaged|zip archive"),
    )):  # fmt: skip
        with pytest.raises(CheckpointError, match=words):
            format_of.read(archive(tmp_path / f"{number}.mdlus", told, members, tar=tar))


def test_damaged_and_compressed_archives_are_refused(tmp_path):
    archive(tmp_path / "a.mdlus", args(), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="none of them compressed"):
        format_of.read(tmp_path / "a.mdlus")
    whole = archive(tmp_path / "b.mdlus", args()).read_bytes()
    for end in (1, 100, len(whole) - 5):
        (tmp_path / "b.mdlus").write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="damaged or cut short"):
            format_of.read(tmp_path / "b.mdlus")
