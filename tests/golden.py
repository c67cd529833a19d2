"""Numbers of the embedded models that hold everywhere: `python -m tests.golden` makes `golden.json` anew.

They are truth and not an earlier output: nothing here comes from lipdiag.study or lipdiag.linalg. The schedule is a
product of betas and scipy's spline, random numbers are drawn by numpy from the keys that are promised, a Jacobian is
all its rows by torch.func.jacrev and a singular value numpy's, changes in time and of samples are differences of
evaluations in float64, extrapolated to no step (Romberg), and every other number is its own formula.

The networks' encoding of time is replaced by the same in float64: diffusers' own is always in float32.

Besides each value in float64 the table holds how far from it, relatively, a second way is, at most over draws, for
each timestep. It takes derivatives by torch.func.jacrev and multiplies the sampler's Jacobians.
  float64    in float64: what the truth itself may be off by
  float32    in float32

A number of lipdiag may then be off by `tolerance`: in float64, where rounding is 1e-16 times the conditioning, by 1e-9
on any machine; in float32 by eight times what another arithmetic of the same formula was off by, since other orders of
the same sums differ by a few times that, and never less than a few units in the last place.
It takes some minutes. Whoever makes it anew says why: other weights or draws are a reason, another torch is none.
"""

import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline, KroghInterpolator
from torch.nn.attention import SDPBackend, sdpa_kernel

import lipdiag
from lipdiag.data.dataset import dataset
from tests.networks import smooth

TABLE = Path(__file__).with_suffix(".json")
ASSETS = Path(lipdiag.__file__).parent / "assets"
MODELS = ("digits-ddpm", "digits-etsdm")
TIMESTEPS = (0, 19, 50, 100, 500, 999)
DRAWS = 2
RANKS = 2
PROBES = 2
STEPS = 20
"""Of the sampler."""

SEED = 0
ROLES = {"data": 0, "noise": 1, "start": 2, "probe": 3, "perturbation": 5}
N, COUNT = 64, 1000

LEAST = {"float64": 1e-9, "float32": 64 * 2.0**-24}
ROUNDINGS = 8


def tolerance(entry: dict, dtype: str) -> np.ndarray:
    """How far a number of lipdiag may be off, relatively, for each timestep."""
    return np.maximum(ROUNDINGS * np.array(entry[dtype]), LEAST[dtype])


def stream(role: str, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(SEED, spawn_key=(ROLES[role], *key))))


def sphere(role: str, draw: int) -> np.ndarray:
    z = stream(role, draw).standard_normal(N)
    return z / np.linalg.norm(z)


def schedule() -> tuple[np.ndarray, np.ndarray, CubicSpline]:
    """alpha and sigma of every index, and the spline of 1 - alpha over index + 1."""
    log_alpha = np.concatenate([[0], np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, COUNT)))]) / 2
    lost, u = -np.expm1(log_alpha), np.arange(COUNT + 1.0)
    ends = [float(KroghInterpolator(u[part], lost[part]).derivative(u[part][i])) for part, i in _ENDS]
    return np.exp(log_alpha[1:]), np.sqrt(-np.expm1(2 * log_alpha[1:])), CubicSpline(u, lost, bc_type=_slopes(*ends))


_ENDS = ((slice(4), 0), (slice(-4, None), -1))


def _slopes(first: float, last: float):
    return (1, first), (1, last)


def romberg(f: Callable[[float], np.ndarray], step: float, levels: int = 7) -> np.ndarray:
    """f'(0) by central differences over steps halved, in which errors of even orders are taken out one by one.

    Of the whole table the entry that changed least from its neighbour: rounding spoils what comes after.
    """
    rows: list[list[np.ndarray]] = []
    best, least = np.zeros(1), np.inf
    for i in range(levels):
        h = step / 2**i
        rows.append([(f(h) - f(-h)) / (2 * h)])
        for j in range(1, i + 1):
            rows[i].append(rows[i][j - 1] + (rows[i][j - 1] - rows[i - 1][j - 1]) / (4**j - 1))
            change = np.linalg.norm(rows[i][j] - rows[i][j - 1])
            if i > 1 and change < least:
                best, least = rows[i][j], change
    return best


class Model:
    """An embedded model as a bare network, in one precision; numpy in, numpy out."""

    def __init__(self, name: str, dtype: torch.dtype):
        self.shared, self.dtype = name == "digits-etsdm", dtype
        self.network = torch.nn.Module.to(lipdiag.load(name).network, dtype).eval().requires_grad_(False)
        smooth(self.network)

    def told(self, k: float) -> float:
        """Below 100 the model with sharing is told the first timestep of a block of 20."""
        return 20 * (k // 20) if self.shared and k < 100 else k

    def tensor(self, z) -> torch.Tensor:
        return torch.as_tensor(np.asarray(z), dtype=self.dtype)

    def apply(self, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return self.network(x.reshape(1, 1, 8, 8), k.reshape(1)).sample.reshape(N)

    def eps(self, x: np.ndarray, k: float) -> np.ndarray:
        """Of the timestep that the network is told."""
        with torch.no_grad():
            return self.apply(self.tensor(x), self.tensor(k)).double().numpy()

    def jacobian(self, x: np.ndarray, k: float) -> np.ndarray:
        f = partial(self.apply, k=self.tensor(k))
        return torch.func.jacrev(f)(self.tensor(x)).double().numpy()

    def rate(self, x: np.ndarray, k: float) -> np.ndarray:
        """The derivative in the timestep that the network is told."""
        f = partial(self.apply, self.tensor(x))
        return torch.func.jacrev(f)(self.tensor(k)).double().numpy()

    def embedding(self, k: float) -> np.ndarray:
        with torch.no_grad():
            told = self.network.time_proj(self.tensor([k])).to(self.dtype)
            return self.network.time_embedding(told)[0].double().numpy()


ALPHA, SIGMA, LOST = schedule()


def sampler(k: int) -> list[tuple[int, float, float]]:
    """Index, a and b of each step x <- a x + b eps of DDIM from index k to the data."""
    path = [-(-(k + 1) * (STEPS - i) // STEPS) - 1 for i in range(STEPS)]
    alpha, sigma = [*ALPHA[path], 1.0], [*SIGMA[path], 0.0]
    ratios = [alpha[i + 1] / alpha[i] for i in range(STEPS)]
    return [(path[i], ratios[i], sigma[i + 1] - ratios[i] * sigma[i]) for i in range(STEPS)]


def sampled(model: Model, x: np.ndarray, k: int) -> np.ndarray:
    for index, a, b in sampler(k):
        x = a * x + b * model.eps(x, model.told(index))
    return x


def transported(model: Model, x: np.ndarray, v: np.ndarray, k: int) -> np.ndarray:
    """v through the product of the steps' Jacobians."""
    for index, a, b in sampler(k):
        v = a * v + b * model.jacobian(x, model.told(index)) @ v
        x = a * x + b * model.eps(x, model.told(index))
    return v


def measured(model: Model, k: int, draw: int, differences: bool) -> dict[str, np.ndarray]:
    """All numbers of one timestep and draw.

    Args:
        model: In either precision.
        k: The timestep.
        draw: The number of the draw.
        differences: Whether derivatives in time and of samples are extrapolated differences.
    """
    data = dataset("digits", shape=(1, 8, 8))
    x0 = data[int(stream("data", draw).integers(len(data)))].double().numpy().reshape(N)
    noise = stream("noise", draw).standard_normal((1, 8, 8)).reshape(N)
    x, told = ALPHA[k] * x0 + SIGMA[k] * noise, model.told(k)
    eps, J = model.eps(x, told), model.jacobian(x, told)
    other = k + 1 if k + 1 < COUNT else k - 1

    still = model.shared and k < 100  # within a block nothing moves
    in_time = np.zeros(N)
    if not still:
        in_time = romberg(lambda h: model.eps(x, k + h), 0.25) if differences else model.rate(x, k)
    slope = float(LOST(k + 1.0, 1))
    towards = -slope * (x - SIGMA[k] * eps) / ALPHA[k] + ALPHA[k] * slope / SIGMA[k] * eps

    direction = sphere("perturbation", draw)
    if differences:
        moved = romberg(lambda h: sampled(model, x + h * direction, k), 0.05)
    else:
        moved = transported(model, x, direction, k)

    probes = [2.0 * stream("probe", draw, i).integers(0, 2, N) - 1 for i in range(PROBES)]
    z = np.stack([*probes, np.sqrt(N) * sphere("start", draw)], 1)
    values = np.linalg.svd(J, compute_uv=False)
    largest = np.linalg.eigvalsh((J + J.T) / 2)[-1]
    answers = [model.eps(x, model.told(i)) for i in TIMESTEPS]
    return {
        "time_derivative": np.linalg.norm(in_time),
        "time_difference": np.linalg.norm(model.eps(x, model.told(other)) - eps),
        "trajectory_derivative": np.linalg.norm(in_time + J @ towards),
        "spectral_norm": values[0],
        "singular_values": values[:RANKS],
        "one_sided_lipschitz": largest,
        "denoising_bound": SIGMA[k] * largest,
        "squared_frobenius_norm": ((J @ z) ** 2).sum(0).mean(),
        "trace": (z * (J @ z)).sum(0).mean(),
        "asymmetry": np.linalg.norm(J @ z - J.T @ z) / np.linalg.norm(J @ z + J.T @ z),
        "stein_product": noise @ eps,
        "stein_square": eps @ eps,
        "loss": ((eps - noise) ** 2).mean(),
        "sensitivity": np.linalg.norm(moved),
        "pair_difference": np.array([np.linalg.norm(there - eps) for there in answers]),
        "swap_loss": np.array([((there - noise) ** 2).mean() for there in answers]),
        "embedding_difference": np.linalg.norm(model.embedding(model.told(other)) - model.embedding(told)),
        "embedding_norm": np.linalg.norm(model.embedding(told)),
    }


def rows(model: Model, differences: bool) -> dict[str, np.ndarray]:
    """Variable -> (times, draws, ...)."""
    each = [[measured(model, k, draw, differences) for draw in range(DRAWS)] for k in TIMESTEPS]
    return {name: np.array([[cell[name] for cell in row] for row in each]) for name in each[0][0]}


def farthest(values: np.ndarray, truth: np.ndarray) -> list[float]:
    """Relatively, for each timestep; what is exactly 0 must be so."""
    distance = np.abs(values - truth) / np.where(truth == 0, 1, np.abs(truth))
    return [float(f"{worst:.2g}") for worst in distance.reshape(len(distance), -1).max(1)]


def main() -> None:
    models = {}
    for name in MODELS:
        truth = rows(Model(name, torch.float64), True)
        others = {
            "float64": rows(Model(name, torch.float64), False),
            "float32": rows(Model(name, torch.float32), False),
        }
        models[name] = {
            "weights_sha256": sha256((ASSETS / name / "model.safetensors").read_bytes()).hexdigest(),
            "variables": {
                variable: {"value": values.tolist()}
                | {way: farthest(found[variable], values) for way, found in others.items()}
                for variable, values in truth.items()
            },
        }
    made = {
        "made": datetime.now(UTC).date().isoformat(),
        "platform": f"{platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        **{package: version(package) for package in ("torch", "numpy", "scipy", "diffusers")},
    }
    held = {**made, "timesteps": TIMESTEPS, "models": models}
    text = json.dumps(held, indent=1)
    TABLE.write_text(text + "\n")


if __name__ == "__main__":
    main()
