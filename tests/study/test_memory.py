"""The memory that a measurement takes, told from one pair, next to what torch's own record of its allocations says."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear
from lipdiag.linalg import half_precision
from lipdiag.store.layout import units
from lipdiag.study import measure as front
from lipdiag.study import memory, study
from lipdiag.study.memory import Held, Need, at_once, need
from lipdiag.study.study import measure_unit
from tests.networks import SHAPE, predictor

CPU = torch.device("cpu")
FULL = ("spectral_norm", "time_derivative", "squared_frobenius_norm", "trace")


def allocated(work):
    """The most bytes that torch's allocator had given out at once, by its profiler."""
    from torch.profiler import ProfilerActivity, profile

    def walk(events):
        for event in events:
            if event.tag.name == "Allocation":
                yield event.start_time_ns, event.extra_fields.alloc_size
            yield from walk(event.children)

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    now = peak = 0
    for _, size in sorted(walk(seen.profiler.kineto_results.experimental_event_tree())):
        now += size
        peak = max(peak, now)
    return peak


def gaussian():
    n = 200
    return Gaussian(torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64), Linear(), Timesteps(1000))


@pytest.mark.parametrize(
    ("model", "quantities"),
    [
        (lambda: lipdiag.load("digits-ddpm"), FULL),
        (lambda: lipdiag.load("digits-ddpm"), ("time_difference", "loss")),
        (predictor, FULL),
        (gaussian, (*FULL, "one_sided_lipschitz")),
    ],
    ids=["digits, full report", "digits, answers", "layers, full report", "closed form, full report"],
)
def test_the_peak_is_told_within_a_fifth_before_the_start(model, quantities):
    """A unit of 32 pairs next to what the allocator gave out for it."""
    plan = Plan(timesteps="0,10,300,900", draws=8, quantities=quantities, batch=32)
    model = model()
    with front.prepared(model, torch.zeros(3, *model.shape), plan, device="cpu", priced=lambda _: False) as ready:
        unit = units(ready.layout, 4, range(8))[0]
        assert ready.batch == 32
        peak = allocated(lambda: measure_unit(ready, unit))
        assert ready.need.of(32) == pytest.approx(peak, rel=0.2)
        weights = sum(z.nbytes for z in [*model.parameters(), *model.buffers()])
        assert ready.memory == weights + ready.need.of(32)


@pytest.mark.parametrize("products", ["ieee", "3xtf32"])
def test_weights_in_half_precision_stay_so_where_products_are_fast(products, monkeypatch):
    """A unit next to one of the widened weights: the same bits, less memory as told, and no more as allocated."""
    monkeypatch.setattr(half_precision, "LEAST", 1024)
    model = lipdiag.load("digits-ddpm")
    for weight in model.parameters():
        weight.data = weight.data.bfloat16().float()
    whole, largest = half_precision.bytes_of(model), max(weight.nbytes for weight in model.parameters())
    plan = Plan(timesteps="900", draws=2, quantities=("spectral_norm", "loss"), products=products, krylov_steps=3)
    found, told, peaks = [], [], []
    for narrow in (front.narrow, lambda *_: nullcontext()):
        monkeypatch.setattr(front, "narrow", narrow)
        with front.prepared(model, torch.zeros(2, *model.shape), plan, device="cpu", priced=lambda _: False) as ready:
            unit = units(ready.layout, 1, range(2))[0]
            peaks.append(allocated(partial(lambda *unit: found.append(measure_unit(*unit)), ready, unit)))
            told.append(ready.memory - ready.need.of(ready.batch))
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[1])
    assert peaks[0] <= 1.02 * peaks[1]
    assert told[1] == half_precision.bytes_of(model) == whole
    assert told[0] == whole if products == "ieee" else told[0] < 0.55 * whole + largest


def test_what_is_let_go_counts_no_more():
    """Two of a million numbers at once, three in turn, and a view, which holds nothing of its own."""
    with Held() as held:
        a = torch.zeros(1_000_000)
        b = a + 1
        view = b[::2]
        del a, b
        assert held.now == 4_000_000  # by the view
        del view
        torch.ones(1_000_000)
    assert held.peak == 8_000_000
    assert held.now == 0


def test_a_device_that_counts_for_itself_is_believed(monkeypatch):
    """A kilobyte always, 171 bytes a pair; and 32 MiB that a library takes at the first product and then keeps."""
    work, kept = [0], []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: work.append(0))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5000 + sum(kept))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5000 + sum(kept) + 1000 + 171 * work[-1])

    def measure(pairs):
        work.append(pairs)
        kept[:] = [32 << 20]

    assert need(measure, torch.device("cuda", 0)) == Need(1000, 171)


@pytest.mark.parametrize(
    ("room", "device", "pairs"),
    [
        (10**9, "cuda", 16 * 32),  # no more than fill it
        (125_000 * 100 + 10_000, "cuda", 96),  # three units of a hundred pairs that fit
        (125_000 * 31, "cuda", 30),  # not a whole unit
        (1, "cuda", 1),
        (None, "cuda", 32),  # nobody knows
        (10**9, "cpu", 32),
        (125_000 * 8, "cpu", 7),
    ],
)
def test_as_many_pairs_at_once_as_fill_the_device_and_fit(monkeypatch, room, device, pairs):
    monkeypatch.setattr(memory, "free", lambda _: room)
    assert at_once(32, Need(1000, 100_000), torch.device(device)) == pairs


def test_free_memory_counts_what_torch_keeps_for_itself(monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 80_000))
    assert memory.free(torch.device("cuda", 0)) == 10_400
    here = memory.free(CPU)
    assert here is not None
    assert 1e8 < here < 1e14


@pytest.mark.parametrize("told", [{"plan": Plan(batch=16)}, {"deterministic": True}])
def test_a_fixed_micro_batch_does_not_follow_the_memory(monkeypatch, told):
    monkeypatch.setattr(memory, "free", lambda _: 1)
    data = torch.zeros(3, *SHAPE)
    for how in (told, {}):
        with front.prepared(predictor(), data, device="cpu", priced=lambda _: False, **how) as ready:
            assert ready.batch == (ready.layout.pairs if how else 1)
    assert Plan(batch="auto") == Plan()


def deep(**more):
    """Eight layers of its own resolution, so that most of its memory are activations."""
    from diffusers import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=3, block_out_channels=(16,),
            add_attention=False, norm_num_groups=4,
            **{"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), **more},
        )  # fmt: skip
    return NetworkPredictor(network, Linear(), eps, Timesteps(1000), (1, 8, 8)).eval()


@pytest.mark.parametrize("known", ["beforehand", "when it runs out"])
def test_what_does_not_fit_is_measured_with_activations_computed_again(monkeypatch, known):
    """The same numbers to rounding, in less memory; the network is as it was afterwards."""
    model = deep()
    plan = Plan(timesteps="0,500", draws=2, quantities=("spectral_norm", "time_derivative"), dtype="float64")
    data = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    how = {"progress": False, "probe": False, "device": "cpu"}
    whole = lipdiag.measure(model, data, plan, **how)
    with front.prepared(model, data, plan, device="cpu", priced=lambda _: False) as ready:
        kept = ready.need.pair
    real = study.measure_point

    def scarce(point):
        if point.record:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(point)

    if known == "beforehand":
        monkeypatch.setattr("lipdiag.study.preparation.free", lambda _: kept - 1)
        monkeypatch.setattr(memory, "free", lambda _: kept - 1)
        with front.prepared(model, data, plan, device="cpu", priced=lambda _: False) as ready:
            assert ready.sparing == 2
            assert ready.need.pair < 0.7 * kept
    monkeypatch.setattr(study, "measure_point", scarce)
    found = lipdiag.measure(model, data, plan, **how)
    assert any("activations are computed again" in note for note in found.attrs["launches"][0]["notes"])
    for name in ("time_derivative", "spectral_norm"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-8 if name == "time_derivative" else 0.05)
    assert not model.network.is_gradient_checkpointing


def test_probabilities_are_given_up_before_activations(monkeypatch):
    """Three layers of attention with more heads than memory has room for: the same numbers, and a sentence about it."""
    model = deep(down_block_types=("AttnDownBlock2D",), attention_head_dim=1)
    plan = Plan(timesteps="0,500", draws=1, quantities=("spectral_norm", "time_derivative"), dtype="float64")
    data = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    room, needs, found = 10**12, [], []
    for module in ("preparation", "memory"):
        monkeypatch.setattr(f"lipdiag.study.{module}.free", lambda _: room)
    for level in range(3):
        with front.prepared(model, data, plan, device="cpu", priced=lambda _: False) as ready:
            assert ready.sparing == level
            assert ready.notes == list(memory.SPARED[:level][-1:])
            assert model.network.is_gradient_checkpointing == (level == 2)
            needs.append(ready.need.pair)
            room = needs[-1] - 1
            if level < 2:
                found.append(measure_unit(ready, units(ready.layout, 2, range(1))[0]))
    probabilities = 3 * 16 * 64**2 * 8
    assert probabilities <= needs[0] - needs[1] < 2 * probabilities
    assert needs[2] < 0.7 * needs[1]
    for name in found[0]:
        np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-6, atol=1e-8, err_msg=name)
