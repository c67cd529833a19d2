"""Sample quality of the two models of a pair, from what `lipdiag evaluate` wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..errors import RunError
from ..results.label import IN_MEMORY
from ..store.reader import open_evaluation

METRICS = {"fid": "FID", "kid": "KID"}
"""Smaller is better in each."""

SAME = ("extractor", "n", "n_real")
"""Without which distances do not compare."""


@dataclass(frozen=True)
class Quality:
    """Distances of the samples of both models from the data.

    Attributes:
        samplers: That all evaluations have, such as `ddim:20`.
        values: Metric -> (pair, model, sampler, sampling seed).
        extractor: What the distances were measured in, and from how many samples.
        floors: Metric -> the distance of real data from real data, where it is known.
    """

    samplers: tuple[str, ...]
    values: dict[str, np.ndarray]
    extractor: str
    floors: dict[str, float]


def read(given: "Sequence[tuple[Any, Any]]", checkpoints: Sequence[tuple[str, str]]) -> Quality:
    """The distances that all evaluations have.

    Args:
        given: Paths or datasets of the models of each pair.
        checkpoints: What the pairs' runs say they measured.

    Raises:
        RunError: If they are none, or cannot be compared with each other or belong to other models than the runs.
    """
    evaluations = [[open_evaluation(side) if isinstance(side, str | Path) else side for side in pair] for pair in given]
    flat = [dataset for pair in evaluations for dataset in pair]
    for dataset, checkpoint in zip(flat, [name for pair in checkpoints for name in pair], strict=True):
        lacking = [metric for metric in METRICS if metric not in dataset.data_vars]
        if lacking or not {"sampler", "seed"} <= set(dataset.dims):
            raise RunError("this dataset is no evaluation; give the store that `lipdiag evaluate` wrote")
        judged = str(dataset.attrs.get("checkpoint") or IN_MEMORY)
        if IN_MEMORY not in (judged, checkpoint) and PurePath(judged).name != PurePath(checkpoint).name:
            raise RunError(
                f"an evaluation of {judged} stands where one of {checkpoint} belongs; give --quality QA.zarr QB.zarr "
                "in the order of the pairs"
            )
        for name in SAME:
            known, here = flat[0].attrs.get(name), dataset.attrs.get(name)
            if known != here:
                raise RunError(
                    f"these evaluations have different {name} ({known} and {here}), so that their distances do not "
                    "compare; evaluate again with the same options"
                )
    samplers = common([dataset["sampler"].values.tolist() for dataset in flat])
    seeds = common([dataset["seed"].values.tolist() for dataset in flat])
    if not samplers or not seeds:
        what = "sampler" if not samplers else "seed"
        raise RunError(f"these evaluations have no {what} in common; evaluate again with the same options")
    values = {
        metric: np.array(
            [
                [
                    dataset[metric].sel(sampler=samplers, seed=seeds).transpose("sampler", "seed").values
                    for dataset in pair
                ]
                for pair in evaluations
            ],
            dtype=np.float64,
        )
        for metric in METRICS
    }
    about = flat[0].attrs
    floors = {metric: float(about[f"floor_{metric}"]) for metric in METRICS if about.get(f"floor_{metric}") is not None}
    return Quality(tuple(map(str, samplers)), values, f"{about.get('extractor')}, n = {about.get('n')}", floors)


def common(lists: Sequence[list]) -> list:
    """What is in all lists, in the order of the first."""
    return [item for item in lists[0] if all(item in other for other in lists)]
