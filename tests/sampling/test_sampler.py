"""Samples of Gaussians, whose exact laws and trajectories are known, and order and invariance of the samplers."""

import inspect
import math
import warnings

import diffusers
import numpy as np
import pytest
import torch

from lipdiag import checkpoints
from lipdiag.diffusion.clock import Shared, Timesteps, Unit
from lipdiag.diffusion.exact import Empirical, Gaussian
from lipdiag.diffusion.limit import LIMITS, Clip
from lipdiag.diffusion.optimum import SharedOptimum
from lipdiag.diffusion.parameterization import eps, velocity
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import (
    VE,
    VP,
    Cosine,
    Karras,
    Linear,
    ScaledLinear,
    SquaredCosine,
    Straight,
    ZeroTerminalSNR,
)
from lipdiag.diffusion.spelling import parse
from lipdiag.errors import UsageError
from lipdiag.formats.clipping import limit
from lipdiag.sampling.sampler import SAMPLERS, by_schedule, leading, normal, sample, stream, times

TABLES = [Linear(), ScaledLinear(), SquaredCosine(), ZeroTerminalSNR(Linear())]
CONTINUOUS = [VP(), VE(), Cosine(), Karras(), Straight()]
SPREAD = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
NOISE = torch.eye(3, dtype=torch.float64)
TABLE_SAMPLERS = [name for name in SAMPLERS if name != "euler"]


def gaussian(schedule, mean=None) -> Gaussian:
    """Independent coordinates with the spreads above."""
    return Gaussian(torch.zeros(3, dtype=torch.float64) if mean is None else mean, SPREAD**2, schedule)


def exact_end(schedule, t0: float, t1: float) -> torch.Tensor:
    """What unit noise at t0 becomes along the exact trajectory to t1: x / sqrt(alpha^2 s^2 + sigma^2) is constant."""
    (a0, a1), (s0, s1) = (c.tolist() for c in schedule(torch.tensor([t0, t1], dtype=torch.float64)))
    return s0 * torch.sqrt((a1**2 * SPREAD**2 + s1**2) / (a0**2 * SPREAD**2 + s0**2))


@pytest.mark.parametrize("schedule", TABLES + CONTINUOUS, ids=repr)
def test_many_steps_give_the_spread_of_the_data(schedule, device):
    # The map from noise to samples is linear and diagonal here, so that three unit vectors tell it wholly.
    found = sample(gaussian(schedule).to(device), noise=NOISE, steps=500).cpu()
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, found.diagonal().diag(), rtol=0, atol=1e-9)
    first = 1.0 if schedule not in CONTINUOUS else times(gaussian(schedule), 2)[0].item()
    start = schedule(torch.tensor([first], dtype=torch.float64))
    # At most this much of the spread is lost because the start is noise without any data in it.
    unmixed = (SPREAD * start[0] / start[1]).square() / 2
    assert ((found.diagonal() / SPREAD - 1).abs() < 0.02 + unmixed).all()


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
def test_the_plain_ddim_converges_to_the_trajectory_with_order_one(schedule):
    predictor, steps, errors = gaussian(schedule), np.array([50, 100, 200, 400]), []
    for count in steps:
        grid = times(predictor, int(count) + 1)[:-1]  # stop at a time before the last, where the exact end is known
        grid = (
            torch.linspace(0.9, 0.1, int(count) + 1, dtype=torch.float64)
            if schedule in (Straight(), Cosine())
            else grid
        )
        x = to_last(predictor, NOISE, grid)
        errors.append((x.diagonal() - exact_end(schedule, grid[0].item(), grid[-1].item())).abs().max().item())
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 0.9 < order < 1.1


def to_last(predictor, noise, grid):
    """The DDIM steps up to the last time of the grid: undo the one to sigma = 0, x0 = (x - sigma eps) / alpha."""
    *_, x0 = by_schedule(predictor, noise, grid)
    alpha, sigma = (c[-1] for c in predictor.schedule(grid))
    # x0 = x (1 - sigma g(x)) / alpha with eps = sigma x / V, so x = x0 alpha V / (V - sigma^2)
    variance = alpha**2 * SPREAD**2 + sigma**2
    return x0 * alpha * variance / (variance - sigma**2)


@pytest.mark.parametrize(
    ("sampler", "steps", "order"),
    [
        ("ddim", [40, 57, 83, 120, 170], 1),
        ("dpm", [20, 27, 37, 52, 75, 110], 2),
        ("unipc", [13, 20, 27, 37, 52, 75], 2),
    ],
)
def test_diffusers_samplers_converge_to_the_trajectory_with_their_order(sampler, steps, order):
    """Numbers of steps that mostly do not divide the table; the truth is the end of the trajectory at t = 0.

    The orders are those of uniform steps, before rounding of the timesteps and the last jump to sigma = 0 take over.
    """
    schedule, errors = Linear(), []
    for count in steps:
        first = (leading(1000, count)[0] + 1) / 1000 if sampler == "ddim" else 1.0
        x = sample(gaussian(schedule), noise=NOISE, steps=count, sampler=sampler)
        errors.append((x.diagonal() - exact_end(schedule, first, 0.0)).abs().max().item())
    found = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order - 0.1 < found < order + 0.4


@pytest.mark.parametrize("steps", [3, 7, 30, 600])
@pytest.mark.parametrize("sampler", TABLE_SAMPLERS)
def test_any_number_of_steps_makes_so_many_calls_from_noise_to_data(sampler, steps):
    times_seen = []

    class Watched(Gaussian):
        def conditioned(self, x, t, timestep):
            times_seen.append(t[0].item())
            return super().conditioned(x, t, timestep)

    sample(Watched(torch.zeros(3).double(), SPREAD**2, Linear()), 1, steps=steps, sampler=sampler)
    k = np.array([round(1000 * t - 1) for t in times_seen])
    assert len(k) == steps
    assert (np.diff(k) < 0).all()
    assert np.ptp(np.diff(k)) <= 1  # even but for rounding
    expected = (round(1000 - 1000 / steps), 0) if sampler in ("ddim", "ddpm") else (999, round(1000 / steps) - 1)
    assert (k[0], k[-1]) == expected


CLIPPED = {"clip_sample": True, "clip_sample_range": 0.7}
CUT = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}


@pytest.mark.parametrize(
    ("sampler", "kind", "options", "steps"),
    [
        ("ddim", diffusers.DDIMScheduler, CLIPPED, 50),
        ("ddim", diffusers.DDIMScheduler, CUT, 50),
        ("ddpm", diffusers.DDPMScheduler, CLIPPED, 50),
        ("ddpm", diffusers.DDPMScheduler, CUT, 50),
        ("dpm", diffusers.DPMSolverMultistepScheduler, CUT | {"timestep_spacing": "trailing"}, 20),
        ("dpm", diffusers.DPMSolverMultistepScheduler, CLIPPED | {"timestep_spacing": "trailing"}, 20),
        ("unipc", diffusers.UniPCMultistepScheduler, CUT | {"timestep_spacing": "trailing"}, 20),
        ("ddim", diffusers.DDIMScheduler, {"clip_sample": False}, 50),
        ("ddim", diffusers.DDIMScheduler, {"clip_sample": False}, 200),
        ("dpm", diffusers.DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}, 20),
        ("dpm", diffusers.DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}, 30),
        ("unipc", diffusers.UniPCMultistepScheduler, {"timestep_spacing": "trailing"}, 20),
        ("ddpm", diffusers.DDPMScheduler, {"clip_sample": False}, 100),
    ],
)
def test_samplers_are_diffusers_own_where_these_exist(sampler, kind, options, steps):
    """A pipeline of diffusers' with its own scheduler and its own defaults draws the same from the same noise."""
    network = tiny_unet()
    predictor = NetworkPredictor(network, Linear(), eps, Timesteps(1000), (1, 8, 8))
    told = limit({"_class_name": kind.__name__, **options})
    predictor.limit = None if told is None else parse(told, LIMITS)
    found = sample(predictor, 1, steps=steps, sampler=sampler, seed=3)
    options = {name: value for name, value in options.items() if name in inspect.signature(kind).parameters}
    scheduler = kind(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy, at how diffusers turns tensors into arrays
        scheduler.set_timesteps(steps)
    x, generator = normal(3, 0, (1, 8, 8))[None].float(), torch.Generator().manual_seed(stream(3, 0, 1))
    extra = {} if sampler == "unipc" else {"generator": generator}
    with torch.no_grad():
        for k in scheduler.timesteps:
            x = scheduler.step(network(x, k).sample, k, x, **extra).prev_sample
    torch.testing.assert_close(found, x, rtol=2e-3, atol=2e-3)  # float32, and diffusers' own amplitudes near t = 0


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
def test_a_limit_holds_x0_on_schedules_without_a_table_too(schedule):
    predictor = gaussian(schedule)
    free = sample(predictor, noise=3 * NOISE, steps=50)
    predictor.limit = Clip(1e6)
    torch.testing.assert_close(sample(predictor, noise=3 * NOISE, steps=50), free, rtol=1e-9, atol=1e-12)
    predictor.limit = Clip(0.5)
    assert sample(predictor, noise=3 * NOISE, steps=50).abs().max() <= 0.5 < free.abs().max()


@pytest.mark.parametrize("options", [CLIPPED, CUT, {"thresholding": True}], ids=str)
def test_a_limit_is_what_a_scheduler_of_diffusers_makes_of_x0(options):
    """Of x0 = x itself at alpha = 1: diffusers' own thresholding, and its clamp."""
    x0 = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.5, 1, 2, 9]).view(
        5, 1, 1, 1
    )
    scheduler = diffusers.DDPMScheduler(**options)
    own = scheduler._threshold_sample(x0) if "thresholding" in options else x0.clamp(-0.7, 0.7)
    torch.testing.assert_close(parse(str(limit(options)), LIMITS)(x0), own)


def test_flow_euler_is_diffusers_own():
    """A velocity network is asked for its velocity, at t = 1 too, and stepped as diffusers' flow pipelines do."""
    network, steps = tiny_unet(), 7
    predictor = NetworkPredictor(network, Straight(), velocity, Unit(1000.0), (1, 8, 8))
    found = sample(predictor, 2, steps=steps, sampler="euler", seed=3)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
    x = torch.stack([normal(3, i, (1, 8, 8)) for i in range(2)]).float()
    with torch.no_grad():
        for k in scheduler.timesteps:
            x = scheduler.step(network(x, k).sample, k, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)
    assert predictor.parameterization is velocity


def test_flow_euler_converges_to_the_trajectory_with_order_one():
    steps, errors = np.array([25, 37, 50, 75, 100]), []
    for count in steps:
        x = sample(gaussian(Straight()), noise=NOISE, steps=int(count), sampler="euler").diagonal()
        errors.append((x - exact_end(Straight(), 1.0, 0.0)).abs().max().item())
    assert 0.9 < -np.polyfit(np.log(steps), np.log(errors), 1)[0] < 1.1


def tiny_unet():
    """A network with random weights, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4,
            layers_per_block=1, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
        ).eval()  # fmt: skip


@pytest.mark.parametrize("sampler", TABLE_SAMPLERS)
def test_samples_have_the_mean_and_the_variance_of_the_data(sampler, device):
    # 2000 samples: mean and spread are off by 4 standard errors with probability 6e-5 in each of 3 coordinates.
    mean = torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float64)
    x = sample(gaussian(Linear(), mean).to(device), 2000, steps=100, sampler=sampler, batch=2000).cpu()
    assert x.shape == (2000, 3)
    assert ((x.mean(0) - mean).abs() < 4 * SPREAD / math.sqrt(2000) + 0.05).all()
    assert ((x.std(0) / SPREAD - 1).abs() < 4 / math.sqrt(2 * 2000) + 0.05).all()


@pytest.mark.parametrize("sampler", TABLE_SAMPLERS)
def test_a_sample_follows_from_its_seed_and_number_alone(sampler):
    predictor = gaussian(Linear())
    whole = sample(predictor, 5, steps=10, seed=1, sampler=sampler)
    split = sample(predictor, 5, steps=10, seed=1, sampler=sampler, batch=2)
    torch.testing.assert_close(whole, split, rtol=1e-12, atol=1e-12)
    assert torch.equal(sample(predictor, 3, steps=10, seed=1, sampler=sampler, batch=5), whole[:3])
    assert not torch.allclose(sample(predictor, 5, steps=10, seed=2, sampler=sampler), whole)


@pytest.mark.parametrize("sampler", TABLE_SAMPLERS)
def test_the_noise_level_is_never_shared(sampler):
    """A model that is told shared times is stepped at the true ones: the calls differ in the timestep alone."""
    seen: list[tuple] = []

    class Watched(Gaussian):
        def conditioned(self, x, t, timestep):
            seen.append((t[0].item(), timestep[0].item()))
            return super().conditioned(x, t, self.clock(t))

    clock = Shared(Timesteps(1000), 100.0, 5)
    predictor = Watched(torch.zeros(3).double(), SPREAD**2, Linear(), clock)
    sample(predictor, 1, steps=100, sampler=sampler)
    k = [round(1000 * t - 1) for t, _ in seen]
    assert k == list(range(990, -1, -10) if sampler in ("ddim", "ddpm") else range(999, 0, -10))
    assert [timestep for _, timestep in seen] == [i if i >= 100 else i // 20 * 20 for i in k]


class Interpolating(SharedOptimum):
    """What a network trained with shared timesteps is between them: told one, it goes straight from edge to edge."""

    def conditioned(self, x, t, timestep):
        edges = torch.tensor(self.shared.bounds, dtype=torch.float64)
        told = timestep.double()
        last = torch.searchsorted(edges, told, right=True).sub(1).clamp(0, len(edges) - 2)
        w = ((told - edges[last]) / (edges[last + 1] - edges[last])).clamp(0, 1)[:, None]
        near, far = (super(Interpolating, self).conditioned(x, t, edges[last + i]) for i in (0, 1))
        beyond = super().conditioned(x, t, told)
        return torch.where((told < edges[-1])[:, None], (1 - w) * near + w * far, beyond)


def test_switching_the_map_off_at_sampling_is_worse_than_sharing_in_both():
    """The best shared predictor, exact between its edges only when the map is on, on points in 16 dimensions.

    The distance of samples from the nearest point, which the law of the data has at 0.
    """
    points = torch.randn(20, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clock, noise = Shared(Timesteps(1000), 100.0, 5), torch.stack([normal(0, i, (16,)) for i in range(12)])
    distances = []
    for told in (clock, Timesteps(1000)):
        predictor = Interpolating(Empirical(points, Linear(), Timesteps(1000)), clock)
        predictor.clock = told
        x = sample(predictor, noise=noise, steps=100, sampler="dpm")
        distances.append(torch.cdist(x, points).min(1).values.mean().item())
    on, off = distances
    assert off > 2 * on


def test_switching_the_map_on_at_sampling_alone_is_worse_than_never_sharing():
    """An exact model of points that never shared, told shared times: it takes its noise for less than it is."""
    points = torch.randn(20, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.stack([normal(0, i, (16,)) for i in range(24)])
    distances = []
    for clock in (Timesteps(1000), Shared(Timesteps(1000), 100.0, 5)):
        x = sample(Empirical(points, Linear(), clock), noise=noise, steps=100, sampler="dpm")
        distances.append(torch.cdist(x, points).min(1).values.mean().item())
    never, at_sampling = distances
    assert never < 1e-6
    # The last call is at sigma_9 and told 0, so that noise is taken for sigma_9 / sigma_0 = 4.3 times what it is:
    # what is left of it in the end is sigma_9 (4.3 - 1) a coordinate at most, and of that order.
    assert at_sampling > 0.1


def test_the_embedded_model_makes_digits(device):
    """Its samples are nearer to a digit than noise of their own mean and variance, pixel by pixel, is."""
    from lipdiag.data.dataset import dataset

    data = dataset("digits")
    every = torch.stack([data[i] for i in range(len(data))]).flatten(1)
    x = sample(checkpoints.load("digits-ddpm").to(device), 32, steps=50).flatten(1).cpu()
    assert x.dtype == torch.float32
    fake = every.mean(0) + every.std(0) * torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    nearest, nearest_fake = (torch.cdist(points, every).min(1).values.mean() for points in (x, fake))
    assert nearest < 0.7 * nearest_fake


@pytest.mark.parametrize(
    ("schedule", "given", "word"),
    [
        (Linear(), {"n": 2, "steps": 1001}, "at most these"),
        (Linear(), {"n": 2, "batch": 0}, "at least 1"),
        (Linear(), {"n": 2, "steps": 0}, "at least 1"),
        (Linear(), {"n": 0}, "at least 1"),
        (Linear(), {}, "how many"),
        (Linear(), {"n": 2, "sampler": "heun"}, "ddim, ddpm, dpm"),
        (Linear(), {"n": 2, "sampler": "euler"}, "does not fit a table"),
        (VP(), {"n": 2, "sampler": "dpm"}, "choose ddim"),
        (Straight(), {"n": 2, "sampler": "unipc"}, "choose ddim or euler"),
        (VP(), {"n": 2, "noise": NOISE}, "shape"),
        (VP(), {"noise": NOISE[:, :2]}, "shape"),
    ],
)
def test_what_cannot_be_sampled_is_refused(schedule, given, word):
    with pytest.raises(UsageError, match=word):
        sample(gaussian(schedule), **given)


def test_streams_of_samples_are_their_own():
    """By seed, sample and role: what "ddpm" adds is not the noise it began with."""
    keys = [(seed, i, role) for seed in range(3) for i in range(40) for role in (0, 1)]
    assert len({stream(*key) for key in keys}) == len(keys)
