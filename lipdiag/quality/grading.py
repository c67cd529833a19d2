"""How good a model's samples are: sampler by sampler and seed by seed, into an evaluation that can be gone on with."""

import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.predictor import Predictor
from ..errors import NonFiniteError, UsageError
from ..sampling.sampler import require_sampler, sample
from . import evaluation
from .extractor import Extractor
from .metric import COPY, frechet, kernel, nearest, own_distance, require_torchmetrics

if TYPE_CHECKING:
    import xarray as xr

SPLITS = 4  # of the data into halves, over which the floor is averaged


class Real(NamedTuple):
    """The data that samples are compared with.

    Attributes:
        data: Themselves.
        features: What the extractor makes of them.
        distance: The median of that from a datum to its nearest other.
    """

    data: Float[Tensor, "data *event"]
    features: Float[Tensor, "data d"]
    distance: float


def parse_sampler(text: str) -> tuple[str, int]:
    """Name and steps out of "ddim:20"."""
    match = re.fullmatch(r"([a-z]+):([0-9]{1,7})", text)
    if not match:
        raise UsageError(f"got the sampler {text!r}: write its name and its steps, such as ddim:20")
    return match[1], int(match[2])


def grade(
    predictor: Predictor,
    data: Float[Tensor, "data *event"],
    extractor: Extractor,
    samplers: Sequence[str],
    n: int,
    seeds: Sequence[int],
    out: str | Path | None = None,
    *,
    batch: int = 256,
    attributes: Mapping[str, Any] | None = None,
    advance: Callable[[int], object] | None = None,
    draw: Callable[..., Tensor] = sample,
) -> "xr.Dataset":
    """FID, KID and near-copies of a model's samples, by sampler and seed.

    Sample i of a seed starts from the same noise for every sampler and every model, so that differences are paired.

    Cost: n * steps evaluations of the model a sampler and seed.

    Args:
        predictor: The model.
        data: What samples are compared with, and what the model may have learned by heart.
        extractor: The features of FID and KID; near-copies are looked for among the samples themselves.
        samplers: Names with steps, such as "ddim:20".
        n: Samples a sampler and seed.
        seeds: Of the samples' first noise.
        out: A folder, written after each sampler and seed; what it holds already is kept. None keeps all in memory.
        batch: Samples evaluated together.
        attributes: Provenance to be kept beside the numbers.
        advance: Called with the number of evaluations of the model made since its last call.
        draw: Gives the samples, called as `sample` is; what keeps them lets a second extractor judge the same ones.

    Raises:
        UsageError: If there are too few samples or data, or a sampler does not fit the model.
        RunError: If `out` holds an evaluation of something else.
        NonFiniteError: If a sample is not finite; what was evaluated before is kept.
    """
    require_torchmetrics()
    for text in samplers:
        require_sampler(predictor.schedule, *parse_sampler(text))
    if n < 8 or len(data) < 16:
        raise UsageError(f"got {n} samples and {len(data)} data: at least 8 and 16 are needed")
    asked = evaluation.new(list(dict.fromkeys(samplers)), sorted(set(seeds)), attributes or {})
    features = extractor(data)
    asked.attrs |= {"extractor": extractor.name, "extractor_sha256": extractor.sha256, "features": features.shape[1]}
    asked.attrs |= {"n": n, "n_real": len(data), "copy": COPY}
    path = None if out is None else Path(out)
    dataset = begun(asked, path)
    if not {"floor_fid", "floor_kid", "floor_n"} <= dataset.attrs.keys():
        dataset.attrs |= floor(features, n)
    real = Real(data, features, own_distance(data))
    for seed, text in itertools.product(asked["seed"].values.tolist(), asked["sampler"].values.tolist()):
        name, steps = parse_sampler(text)
        if evaluation.done(dataset, text, seed):
            if advance is not None:
                advance(n * steps)
            continue
        began = time.perf_counter()
        x = draw(predictor, n, steps, seed, sampler=name, batch=batch, advance=advance)
        seconds = time.perf_counter() - began
        verify_finite(x, text, seed)
        for key, value in (graded(x, extractor(x), real, seed) | {"seconds": seconds}).items():
            dataset[key].loc[{"sampler": text, "seed": seed}] = value
        if path is not None:
            evaluation.write(dataset, path)
    return dataset


def begun(asked: "xr.Dataset", path: Path | None) -> "xr.Dataset":
    """The evaluation that is at `path`, grown by what is asked; where there is none, what is asked.

    Raises:
        RunError: If it is one of something else.
    """
    if path is None or not evaluation.exists(path):
        return asked
    dataset = evaluation.grown(evaluation.open_evaluation(path), asked, path)
    dataset.attrs = asked.attrs | dataset.attrs
    return dataset


def verify_finite(x: Tensor, sampler: str, seed: int) -> None:
    """Refuse samples that are not numbers.

    Raises:
        NonFiniteError: If one is not finite.
    """
    if not x.isfinite().all():
        raise NonFiniteError(
            f"{int((~x.isfinite()).flatten(1).any(1).sum())} of {len(x)} samples by {sampler} from seed {seed} are not "
            "finite: look at the model with lipdiag doctor"
        )


def graded(x: Tensor, features: Float[Tensor, "n d"], real: Real, seed: int) -> dict[str, float]:
    """How good samples are, beside the data; `seed` draws the subsets that KID's error is estimated from."""
    distance = nearest(x.to(real.data.device), real.data)
    kid = kernel(real.features, features, seed)
    return {
        "fid": frechet(real.features, features),
        "kid": kid.value,
        "kid_standard_error": kid.standard_error,
        "nearest_ratio": float(distance.median() / real.distance),
        "copies": float((distance < COPY * real.distance).sum()),
    }


def floor(features: Float[Tensor, "n d"], n: int) -> dict[str, float | int]:
    """FID and KID of data against the rest of the data: what samples would have that are as good as data.

    n data, but half of them at most, against all others; the mean over random splits.
    """
    size = min(n, len(features) // 2)
    fids, kids = [], []
    for k in range(SPLITS):
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(k), device="cpu")
        some, rest = features[order[:size]], features[order[size:]]
        fids.append(frechet(rest, some))
        kids.append(kernel(rest, some, k).value)
    return {"floor_fid": sum(fids) / SPLITS, "floor_kid": sum(kids) / SPLITS, "floor_n": size}
