"""A shared network against the same network that is told the shared timestep by hand, in diffusers' own pipelines."""

import copy
import inspect
import json
import pickle
from functools import wraps
from types import MethodType

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

import lipdiag
from lipdiag.diffusion.clock import Reversed, Shared, Timesteps
from lipdiag.errors import CheckpointError, UsageError
from lipdiag.sampling.sampler import sample

UNET = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1, "attention_head_dim": 8, "norm_num_groups": 4,
}  # fmt: skip
EDGES = (0, 5, 15, 40, 100)


def unet() -> diffusers.UNet2DModel:
    """A tiny network with random weights, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.UNet2DModel(**UNET).eval()


def by_hand(k: int, edges=(0, 20, 40, 60, 80, 100)) -> int:
    """The last edge at or below k; k itself from the last edge on."""
    return k if k >= edges[-1] else max(edge for edge in edges if edge <= k)


def run(pipeline, network, steps: int):
    """What a pipeline draws with a network, as bits."""
    scheduler = {"ddpm": diffusers.DDPMScheduler(), "ddim": diffusers.DDIMScheduler()}[pipeline]
    kind = {"ddpm": diffusers.DDPMPipeline, "ddim": diffusers.DDIMPipeline}[pipeline]
    pipe = kind(network, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe(2, generator=torch.Generator().manual_seed(1), num_inference_steps=steps, output_type="np").images


@pytest.mark.parametrize("edges", [None, EDGES])
@pytest.mark.parametrize(("pipeline", "steps"), [("ddpm", 40), ("ddim", 40)])
def test_a_pipeline_with_a_shared_network_is_one_that_shares_by_hand(pipeline, steps, edges):
    class ByHand(diffusers.UNet2DModel):
        def forward(self, sample, timestep, *args, **kwargs):
            told = by_hand(int(timestep), edges or (0, 20, 40, 60, 80, 100))
            return super().forward(sample, torch.tensor(told), *args, **kwargs)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        manual = ByHand(**UNET).eval()
    shared = lipdiag.share_timesteps(unet(), edges=edges)
    expected = run(pipeline, manual, steps)
    assert np.array_equal(run(pipeline, shared, steps), expected)
    assert not np.array_equal(run(pipeline, unet(), steps), expected)


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize(
    "timestep",
    [
        19, 20.5, 100, np.int64(59), torch.tensor(99), torch.tensor(7.5), torch.tensor([0, 19, 20, 99, 100, 999]),
        torch.tensor([3.0, 19.99, 20.0, 99.5, 100.0, 100.25]), torch.tensor([3.0, 41.0, 100.0], dtype=torch.bfloat16),
        torch.tensor([79.0, 640.0], dtype=torch.float16), torch.tensor([19], dtype=torch.int32),
        torch.tensor([[21.0], [300.0]], dtype=torch.float64),
    ],
    ids=str,
)  # fmt: skip
def test_the_timestep_keeps_its_type_and_becomes_the_edge_of_its_block(timestep, keyword):
    heard = []

    class Watched(nn.Module):
        def forward(self, x, timestep):
            heard.append(timestep)
            return x

    network = lipdiag.share_timesteps(Watched())
    network(torch.zeros(1), timestep=timestep) if keyword else network(torch.zeros(1), timestep)
    assert type(heard[0]) is type(timestep)
    if not isinstance(timestep, torch.Tensor):
        assert heard[0] == by_hand(timestep)
        return
    expected = torch.tensor([by_hand(k) for k in timestep.flatten().tolist()]).reshape(timestep.shape)
    assert heard[0].dtype == timestep.dtype
    assert torch.equal(heard[0], expected.to(timestep.dtype))


def test_the_rule_is_that_of_the_shared_clock():
    k = torch.arange(0, 1000)
    heard = lipdiag.share_timesteps(lambda x, t: t, edges=EDGES)(None, k)
    clock = Shared(Timesteps(1000), 100.0, edges=tuple(float(edge) for edge in EDGES))
    assert torch.equal(heard.double(), clock((k.double() + 1) / 1000))


def test_a_function_is_wrapped_and_given_back():
    def network(x, sigma, label=None):
        return sigma, label

    shared = lipdiag.share_timesteps(network, end=50, blocks=2)
    assert shared(0, 49, label=3) == (25, 3)
    assert shared(0, sigma=24) == (0, None)
    assert lipdiag.unshare_timesteps(shared) is network


def test_the_parameter_is_found_by_its_name_behind_others():
    """As in SD3Transformer2DModel, which takes its timestep in fourth place."""

    class Fourth(nn.Module):
        def forward(self, hidden_states, encoder_hidden_states=None, pooled_projections=None, timestep=None):
            return encoder_hidden_states, timestep

    network = lipdiag.share_timesteps(Fourth())
    assert network(0, 33, None, 33) == (33, 20)
    assert network(0, encoder_hidden_states=7, timestep=61) == (7, 60)
    assert network(0, 7) == (7, None)


def test_gradients_and_training_see_the_shared_timestep():
    """A step of training with the hook is that of a network told by hand, to the last bit."""
    grads = []
    for network, k in ((lipdiag.share_timesteps(unet()), [13, 250]), (unet(), [0, 250])):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        network.train()(x, torch.tensor(k)).sample.square().mean().backward()
        grads.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.equal(*grads)


def test_copies_and_state_dicts():
    shared, x = lipdiag.share_timesteps(unet()), torch.ones(1, 3, 8, 8)
    assert shared.state_dict().keys() == unet().state_dict().keys()
    with torch.no_grad():
        expected = unet()(x, 40).sample
        for copied in (copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):
            assert type(copied) is diffusers.UNet2DModel
            assert torch.equal(copied(x, 59).sample, expected)
            copied.load_state_dict(unet().state_dict())
            with pytest.raises(UsageError, match="already"):
                lipdiag.share_timesteps(copied)
        plain = lipdiag.unshare_timesteps(shared)
        assert torch.equal(plain(x, 59).sample, unet()(x, 59).sample)
    assert dict(plain.config) == dict(unet().config)


@pytest.mark.parametrize("edges", [None, EDGES])
@pytest.mark.parametrize("whole", [True, False])
def test_what_save_pretrained_writes_is_read_as_shared(tmp_path, whole, edges):
    shared = lipdiag.share_timesteps(unet(), edges=edges)
    if whole:
        diffusers.DDIMPipeline(shared, diffusers.DDIMScheduler()).save_pretrained(tmp_path / "saved")
        again = diffusers.UNet2DModel.from_pretrained(tmp_path / "saved", subfolder="unet")
    else:
        shared.save_pretrained(tmp_path / "saved")
        diffusers.DDIMScheduler().save_pretrained(tmp_path / "saved")
        again = diffusers.UNet2DModel.from_pretrained(tmp_path / "saved")
    predictor = lipdiag.load(tmp_path / "saved")
    assert predictor.clock == (
        Shared(Timesteps(1000), 100.0, 5) if edges is None else Shared(Timesteps(1000), 100.0, edges=EDGES)
    )
    assert "ignored" not in " ".join(lipdiag.inspect(tmp_path / "saved").notes)
    # diffusers keeps the edges and the class, and shares after one more call
    assert type(again) is diffusers.UNet2DModel
    with pytest.raises(UsageError, match=r"saved with"):
        lipdiag.share_timesteps(again, edges=(0, 1, 2))
    lipdiag.share_timesteps(again, edges=edges)
    x = torch.ones(1, 3, 8, 8)
    with torch.no_grad():
        for k in (13, 59, 99, 100, 500):
            expected = shared(x, k).sample
            # weights that lie elsewhere in memory are multiplied in another order, so not to the last bit
            torch.testing.assert_close(again(x, k).sample, expected, rtol=1e-6, atol=2e-6)
            found = predictor(x, torch.tensor([(k + 1) / 1000], dtype=torch.float64))
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-6)


def test_sampling_through_the_hook_and_through_the_clock_is_the_same(tmp_path):
    network = lipdiag.share_timesteps(unet())
    diffusers.DDIMPipeline(network, diffusers.DDIMScheduler(clip_sample=False)).save_pretrained(tmp_path / "saved")
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = sample(lipdiag.load(tmp_path / "saved"), noise=noise.double(), steps=40)
    x, scheduler = noise, diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(40)
    with torch.no_grad():
        for k in scheduler.timesteps:
            x = scheduler.step(network(x, k).sample, k, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("edges", [[0, "x"], [3], 7, [0, 1.5, 4], [0, 5, 5]])
def test_a_record_that_makes_no_sense_is_refused(tmp_path, edges):
    network = lipdiag.share_timesteps(unet())
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config | {"shared_timesteps": edges}))
    with pytest.raises(CheckpointError, match="shared_timesteps"):
        lipdiag.load(tmp_path)


@pytest.mark.parametrize(
    ("network", "given", "word"),
    [
        (lambda x: x, {}, "no timestep"),
        (lambda x, t: x, {"edges": (0,)}, "at least two"),
        (lambda x, t: x, {"edges": (0, 20, 10)}, "rise"),
        (lambda x, t: x, {"end": 2000}, "of 1000"),
        (lambda x, t: x, {"blocks": 0}, "blocks"),
        (lambda x, t: x, {"timesteps": 32}, "5 blocks up to 3"),
        (lambda x, t: x, {"timesteps": 10, "clock": "unit(1)"}, "leave timesteps out"),
        (lambda x, t: x, {"clock": "shared(timesteps(1000))", "end": 5}, "leave end and edges out"),
        (lambda x, t: x, {"clock": "log_snr(vp())"}, "begins at inf"),
        (lambda x, t: x, {"end": 0.9}, "most of the time"),
        (lambda x, t: x, {"edges": (0, 0.5, 1.5), "clock": "unit(1)"}, "goes from 0 to 1"),
        (lambda x, sigma: x, {}, "told sigma, a noise level"),
        (lipdiag.share_timesteps(lambda x, t: x), {}, "already"),
    ],
)
def test_what_cannot_be_shared_is_refused(network, given, word):
    with pytest.raises(UsageError, match=word):
        lipdiag.share_timesteps(network, **given)


def test_odd_calls_end_in_a_sentence():
    with pytest.raises(UsageError, match="nothing to undo"):
        lipdiag.unshare_timesteps(lambda x, t: x)
    with pytest.raises(UsageError, match="a str as t"):
        lipdiag.share_timesteps(lambda x, t: x)(0, "soon")


class Watched(nn.Module):
    """Keeps what it was told, and calls its own forward as guidance does."""

    def forward(self, t, x, y=None):
        self.heard = t, x
        return x

    def forward_with_cond_scale(self, *args, **kwargs):
        return self.forward(*args, **kwargs)


PICTURES = torch.full((3, 1, 4, 4), 13.0)
TIMES = torch.tensor([13, 99, 250])


def test_a_network_called_with_its_time_first_keeps_its_pictures():
    """As torchcfm's and flow_matching's are: by position, by keyword, a number, a 0-d and an expanded tensor."""
    network = lipdiag.share_timesteps(Watched())
    for call in (lambda t: network(t, PICTURES), lambda t: network(x=PICTURES, t=t)):
        for t in (TIMES, torch.tensor(13), torch.tensor(59.0).expand(3), 45):
            call(t)
            assert torch.equal(network.heard[1], PICTURES)
            assert torch.equal(torch.as_tensor(network.heard[0]), torch.as_tensor(by_hand_of(t)))


def by_hand_of(t):
    return torch.tensor([by_hand(k) for k in t.tolist()]).to(t.dtype) if getattr(t, "ndim", 0) else by_hand(float(t))


def test_where_no_name_tells_the_time_its_shape_does():
    def pair(a, b):
        return a, b

    network = lipdiag.share_timesteps(pair)
    assert network(PICTURES, TIMES)[1].tolist() == [0, 80, 250]
    assert network(TIMES, PICTURES)[0].tolist() == [0, 80, 250]
    assert network(b=PICTURES, a=61)[0] == 60
    anything = lipdiag.share_timesteps(lambda *args, **kwargs: (args, kwargs))
    assert anything(PICTURES, TIMES)[0][1].tolist() == [0, 80, 250]
    assert anything(PICTURES, timestep=TIMES)[1]["timestep"].tolist() == [0, 80, 250]
    for ambiguous in ((PICTURES, PICTURES), (TIMES, TIMES)):
        with pytest.raises(UsageError, match="no name tells the time"):
            network(*ambiguous)
    with pytest.raises(UsageError, match=r"shape \(3, 1, 4, 4\) as t"):
        lipdiag.share_timesteps(Watched())(PICTURES, TIMES)


@pytest.mark.parametrize(
    ("given", "t", "told"),
    [
        ({"timesteps": 1}, [0.0, 0.019, 0.02, 0.07, 0.1, 0.5, 1.0], [0, 0, 0.02, 0.06, 0.1, 0.5, 1.0]),
        ({"end": 0.1, "blocks": 2}, [0.04, 0.05, 0.3], [0, 0.05, 0.3]),
        ({"edges": (0.001, 0.02, 0.1)}, [0.0, 0.03, 0.3], [0.001, 0.02, 0.3]),
        ({"clock": "reversed(unit(1))"}, [1.0, 0.99, 0.97, 0.91, 0.9, 0.2, 0.0], [1, 1, 0.98, 0.92, 0.9, 0.2, 0.0]),
        ({"edges": (0.999, 0.95, 0.9), "timesteps": 1}, [1.0, 0.96, 0.95, 0.5], [0.999, 0.999, 0.95, 0.5]),
        ({"clock": Reversed(Timesteps(1000))}, [999, 980, 979, 900, 899, 0], [999, 999, 979, 919, 899, 0]),
        ({"edges": (999, 980, 899)}, [999, 981, 980, 899, 3], [999, 999, 980, 899, 3]),
        ({"clock": "unit(1000)"}, [0.5, 19.5, 20.0, 400.5], [0, 0, 20, 400.5]),
        ({"timesteps": 4000}, [79, 80, 399, 400], [0, 80, 320, 400]),
        ({"timesteps": 100}, [1, 2, 9, 10, 99], [0, 2, 8, 10, 99]),
        ({"clock": "sigma(karras())", "edges": (0.002, 0.1, 1.0)}, [0.002, 0.05, 0.5, 70.0], [0.002, 0.002, 0.1, 70]),
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_time_is_shared_in_its_own_unit(given, t, told):
    shared = lipdiag.share_timesteps(lambda x, t: t, **given)
    for dtype in (torch.float64, torch.float32):
        found = shared(PICTURES, torch.tensor(t, dtype=dtype))
        torch.testing.assert_close(found, torch.tensor(told, dtype=dtype))
        assert torch.equal(shared(PICTURES, found), found)  # told twice is told once


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_edge_that_is_rounded_lies_in_its_own_block(dtype):
    """0.06 in half precision is less than 0.06, and would fall back to 0.04 where it is told twice."""
    shared = lipdiag.share_timesteps(lambda x, t: t, timesteps=1)
    edges = torch.tensor([0.02, 0.04, 0.06, 0.08, 0.1]).to(dtype)
    assert torch.equal(shared(PICTURES, edges), edges)


@pytest.mark.parametrize(
    ("given", "t"),
    [({}, [0.25, 0.5]), ({}, [-3.0]), ({}, [5000]), ({"timesteps": 1}, [13]), ({"timesteps": 100}, [500])],
)
def test_times_of_another_clock_are_refused_and_not_shared(given, t):
    with pytest.raises(UsageError, match=r"got the time .* tell share_timesteps"):
        lipdiag.share_timesteps(lambda x, t: t, **given)(PICTURES, torch.tensor(t))


def test_fractions_of_the_first_timestep_are_an_indexs_once_others_were_heard():
    """As samplers with Karras's levels tell them at their end."""
    shared = lipdiag.share_timesteps(lambda x, t: t)
    assert shared(PICTURES, 999.0) == 999
    assert shared(PICTURES, 0.4) == 0


def test_a_network_that_keeps_its_count_is_shared_up_to_a_tenth_of_it():
    network = unet()
    network.register_to_config(num_train_timesteps=500)
    lipdiag.share_timesteps(network)
    assert network.config["shared_timesteps"] == [0, 10, 20, 30, 40, 50]


def test_forward_shares_however_it_is_called_and_once():
    network = lipdiag.share_timesteps(Watched())
    for copied in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for call in (copied, copied.forward, copied.forward_with_cond_scale):
            call(TIMES, PICTURES)
            assert copied.heard[0].tolist() == [0, 80, 250]
        replica = copied._replicate_for_data_parallel()  # of torch's DataParallel
        replica.forward(TIMES, PICTURES)
        assert replica.heard[0].tolist() == [0, 80, 250]
        lipdiag.unshare_timesteps(copied)
        copied.forward(TIMES, PICTURES)
        assert copied.heard[0] is TIMES
        assert "forward" not in vars(copied)


def test_what_other_libraries_wrap_around_forward_is_left_to_them():
    """Wrapped over and bound again, as accelerate does; and wrapped before, which is given back."""
    for wrap in (lambda f, n: wraps(f)(lambda *a, **k: f(*a, **k)), lambda f, n: MethodType(f, n)):
        network = lipdiag.share_timesteps(Watched())
        assert list(inspect.signature(network.forward).parameters) == ["t", "x", "y"]
        network.forward = wrap(network.forward, network)
        network.forward(TIMES, PICTURES)
        assert network.heard[0].tolist() == [0, 80, 250]
        lipdiag.unshare_timesteps(network)
        network.forward(TIMES, PICTURES)
        assert network.heard[0] is TIMES
    network = Watched()
    network.forward = before = wraps(network.forward)(lambda *a, **k: Watched.forward(network, *a, **k))
    lipdiag.share_timesteps(network)(TIMES, PICTURES)
    assert network.heard[0].tolist() == [0, 80, 250]
    assert lipdiag.unshare_timesteps(network).forward is before


def test_averages_begun_before_sharing_are_read_as_shared(tmp_path):
    """unet_ema of a folder whose unet was told to share: the edges are in the config of the latter alone."""
    network, averaged = lipdiag.share_timesteps(unet()), unet()
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    averaged.save_pretrained(tmp_path / "unet_ema")
    assert (
        lipdiag.load(tmp_path).clock == lipdiag.load(tmp_path, weights="raw").clock == Shared(Timesteps(1000), 100, 5)
    )


class Inside(nn.Module):
    """A network that calls a shared one; with `late`, at other timesteps than it is told."""

    def __init__(self, network, late=0):
        super().__init__()
        self.network, self.late = network, late

    def forward(self, x, timestep):
        return self.network(x, timestep + self.late).sample


def function(network):
    """The same as a plain function, shared itself."""
    return lipdiag.share_timesteps(lambda x, timestep: network(x, timestep).sample)


def measured(network, clock, timesteps="3,19,60,150"):
    from lipdiag.diffusion.parameterization import eps
    from lipdiag.diffusion.schedule import Linear

    data = np.random.default_rng(0).uniform(-1, 1, (5, 3, 8, 8)).astype("float32")
    plan = lipdiag.Plan(timesteps=timesteps, draws=1, quantities=("time_derivative", "time_difference", "loss"))
    predictor = lipdiag.NetworkPredictor(network, Linear(), eps, clock, (3, 8, 8))
    return lipdiag.measure(predictor, data=data, plan=plan, progress=False, probe=False)


@pytest.mark.parametrize("made", [lipdiag.share_timesteps, lambda n: Inside(lipdiag.share_timesteps(n)), function])
def test_a_shared_network_is_measured_as_one_whose_clock_is_shared(made):
    network = made(unet())
    run, base = measured(network, Timesteps()), measured(unet(), Shared(Timesteps()))
    for name in ("time_derivative", "time_difference", "loss"):
        assert np.array_equal(run[name], base[name]), name
    assert run["time_derivative"][:3].values.max() == 0 < run["time_derivative"][3].item()
    assert run.attrs["frozen"]["model"]["clock"] == base.attrs["frozen"]["model"]["clock"]
    assert any("shares its timesteps by itself" in note for note in run.attrs["launches"][0]["notes"])
    x = torch.zeros(1, 3, 8, 8)  # afterwards it shares again
    early, late = (network(x, torch.tensor([k])) for k in (3.0, 17.0))
    assert torch.equal(getattr(early, "sample", early), getattr(late, "sample", late))


def test_a_network_that_shares_other_timesteps_than_it_is_told_keeps_its_own_blocks():
    """Told 60 it hears 67, and 7 more than 12 is in another block than 7 more than 13."""
    run = measured(Inside(lipdiag.share_timesteps(unet()), late=7), Timesteps(), "3,12,60,150")
    assert (run["time_difference"].values[:, 0] > 0).tolist() == [False, True, False, True]
    assert run.attrs["frozen"]["model"]["clock"] == "timesteps(1000)"


def test_a_shared_network_of_a_factory_is_measured(tmp_path, monkeypatch):
    (tmp_path / "shared_factory.py").write_text(
        "import lipdiag, tests.test_share as made\ndef network(): return lipdiag.share_timesteps(made.unet())\n"
    )
    monkeypatch.chdir(tmp_path)
    data = np.random.default_rng(0).uniform(-1, 1, (5, 3, 8, 8)).astype("float32")
    plan = lipdiag.Plan(timesteps="3,150", draws=1, quantities=("time_derivative", "time_difference"))
    told = {"schedule": "linear(0.0001, 0.02, 1000)", "parameterization": "eps", "clock": "timesteps(1000)"}
    run = lipdiag.measure(None, data, plan, factory="shared_factory:network", shape=(3, 8, 8), progress=False, **told)
    assert run["time_derivative"].values[0] == 0 < run["time_derivative"].values[1]
    assert run.attrs["frozen"]["model"]["clock"].startswith("shared(timesteps(1000)")
