"""Batches: the same from data on the host and on the device, to the last bit."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from lipdiag.data.dataset import array, dataset
from lipdiag.errors import UsageError
from lipdiag.training import batch as module
from lipdiag.training.batch import Resident, draw, resident
from lipdiag.training.loop import build


def every_kind(folder):
    """Pictures with their channels last, latents, digits, and a folder of pictures."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number:02d}.png")
    return [
        array("pictures", pixels, (3, 8, 8)),
        array("latents", random.standard_normal((11, 4, 8, 8)).astype(np.float16), (4, 8, 8)),
        dataset("digits"),
        dataset(folder),
    ]


def test_samples_on_a_device_have_the_bits_of_those_on_the_host(tmp_path, device, monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 800)  # of fewer samples than there are, and no divisor of their number
    for data in every_kind(tmp_path):
        held = Resident(data, device)
        assert held.values.dtype == (torch.uint8 if data.eight_bit else torch.float32)
        indices = torch.tensor([10, 0, 3, 10])
        expected = torch.stack([data[i] for i in indices.tolist()])
        assert torch.equal(held.take(indices).cpu(), expected), data.name
        assert (len(held), held.fingerprint) == (len(data), data.fingerprint)


def test_all_256_values_come_back_as_they_were():
    data = array("grey", np.arange(256, dtype=np.uint8).reshape(256, 1, 1), (1, 1, 1))
    assert torch.equal(Resident(data, torch.device("cpu")).values.flatten(), torch.arange(256, dtype=torch.uint8))


def test_a_batch_does_not_depend_on_where_the_data_lie(recipe, device, tmp_path):
    labels = np.arange(11) % 3
    data = dataclasses.replace(every_kind(tmp_path)[0], labels=labels)
    network = recipe.network_config | {"num_class_embeds": 3, "in_channels": 3, "out_channels": 3}
    recipe = dataclasses.replace(recipe, shape=(3, 8, 8), batch=6, flip=True, network_config=network)
    clock = build(recipe).clock
    for step in (0, 7):
        host, held = (draw(recipe, z, clock, step, device=device) for z in (data, Resident(data, device)))
        again = draw(recipe, data, clock, step, device=device)
        for name, a, b, c in zip(host._fields, host, held, again, strict=True):
            assert torch.equal(a, b), name
            assert torch.equal(a, c), name
        assert host.noise.device.type == host.x0.device.type == device.type
        assert host.t.device.type == "cpu", "the schedule is evaluated on the processor"
        found = [next(i for i in range(11) if data[i].equal(x) or data[i].flip(-1).equal(x)) for x in host.x0.cpu()]
        assert host.labels.tolist() == [int(labels[i]) for i in found]


def test_data_larger_than_a_devices_memory_stay_on_the_host_and_it_is_said(capsys):
    data = dataset("digits")
    size = len(data) * 64
    assert isinstance(resident(data, torch.device("cpu"), 4 * size), Resident)
    assert capsys.readouterr().err == ""
    assert resident(data, torch.device("cpu"), 4 * size - 1) is data
    said = capsys.readouterr().err
    assert said.count("stay in the host's memory") == said.count("\n") == 1


def test_what_cannot_be_brought_to_a_device_is_refused_before_the_first_step():
    values = np.zeros((3, 1, 8, 8), np.float32)
    values[2, 0, 0, 0] = np.inf
    with pytest.raises(UsageError, match="sample 2 of x is not finite"):
        Resident(array("x", values, None), torch.device("cpu"))
