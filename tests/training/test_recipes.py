"""The recipes of the page on watching a training, with the real trackers and trainers where they are installed."""

import math
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch
from torch import nn

import lipdiag

PAGE = Path(lipdiag.__file__).parents[1] / "docs" / "how" / "watch-a-training.md"
TOLD = {"schedule": "linear", "parameterization": "eps", "clock": "timesteps(1000)"}
OFTEN = {"every": 2, "share": 1, "panel": lipdiag.Panel(timesteps=(0, 100), draws=2)}
pytestmark = pytest.mark.filterwarnings("default")  # those of the packages are theirs


def recipe(title: str) -> str:
    """The code under a heading of the page."""
    return re.search(rf"^### {title}.*?^```py\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, timestep):
        return self.conv(x) * torch.cos(timestep / 1000)[:, None, None, None]


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Runs a recipe in a folder of its own, and tells what the monitor gave the tracker, by step."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    given = {}

    class Monitor(lipdiag.Monitor):
        def __init__(self, *args, on_result, **told):
            def heard(step, seen):
                given[step] = dict(seen)
                on_result(step, seen)

            super().__init__(*args, on_result=heard, **OFTEN | told)

    monkeypatch.setattr(lipdiag, "Monitor", Monitor)
    names = {"network": Net(), "told": TOLD, "lipdiag": lipdiag, "torch": torch}
    names["steps"] = lambda: ((step, torch.tensor(0.5)) for step in range(1, 5))

    def run(title, **others):
        exec(compile(recipe(title), title, "exec"), names | others)
        assert list(given) == [2, 4]
        assert set(given[4]) > {"loss", "loss/0", "time_difference/100", "spectral_norm"}
        return given

    return run


def test_tensorboard_keeps_what_was_seen(ran, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given = ran("TensorBoard")
    found = EventAccumulator(str(tmp_path / "runs")).Reload()
    for name in given[4]:
        kept = [(event.step, pytest.approx(event.value, rel=1e-6)) for event in found.Scalars(name)]
        assert kept == [(step, given[step][name]) for step in (2, 4)]


def test_wandb_keeps_what_was_seen_without_a_network(ran, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    given = ran("Weights & Biases")
    wandb.teardown()  # its process writes the last of what it was given
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert wandb.run is None
    for name in given[4]:
        assert name.encode() in content
        assert repr(given[4][name]).encode() in content


def test_trackio_keeps_what_was_seen(ran, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    given = ran("trackio")
    (file,) = (tmp_path / "trackio").glob("**/*.db")
    shutil.copy(file, tmp_path / "copy.db")
    kept = sqlite3.connect(tmp_path / "copy.db").execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in kept] == [2, 4]
    for step, text in kept:
        assert all(f'"{name}"' in (text if isinstance(text, str) else text.decode()) for name in given[step])


def test_accelerate_and_the_scripts_of_diffusers_track_what_was_seen(ran):
    accelerate = pytest.importorskip("accelerate")
    import diffusers

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16")
    kept = {}
    accelerator.log = lambda seen, step: kept.update({step: seen})
    model = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=4,
    )  # fmt: skip
    data = [{"input": torch.randn(1, 8, 8)} for _ in range(32)]
    given = ran(
        "accelerate, and", accelerator=accelerator, model=model, optimizer=torch.optim.AdamW(model.parameters(), 1e-3),
        train_dataloader=torch.utils.data.DataLoader(data, batch_size=4), noise_scheduler=diffusers.DDPMScheduler(),
        global_step=0,
    )  # fmt: skip
    assert kept == given
    assert all(math.isfinite(value) for seen in kept.values() for value in seen.values())


def test_lightning_logs_what_was_seen(ran, monkeypatch):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = Net()

        def training_step(self, batch, index):
            return {"loss": 0 * self.network(batch[0], torch.zeros(4)).sum() + 0.5}

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    kept = {}

    class Logger(lightning.pytorch.loggers.logger.DummyLogger):
        def log_metrics(self, metrics, step=None):
            kept[step] = dict(metrics)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(16, 1, 8, 8)), batch_size=4)

    class Trainer(lightning.Trainer):
        def __init__(self, **told):
            quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
            super().__init__(**told, **quiet, logger=Logger(), accelerator="cpu")
            self.fit(Module(), loader)

    monkeypatch.setattr(lightning, "Trainer", Trainer)
    given = ran("Lightning")
    assert {step: seen for step, seen in kept.items() if "spectral_norm" in seen} == given
