"""lipdiag's own numbers of the embedded models against the table of `golden.py`, on whatever machine this is."""

import json
from hashlib import sha256

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag import Plan

from . import golden
from .networks import smooth

TABLE = json.loads(golden.TABLE.read_text())
QUANTITIES = (
    "time_derivative", "time_difference", "trajectory_derivative", "spectral_norm", "singular_values",
    "one_sided_lipschitz", "squared_frobenius_norm", "trace", "asymmetry", "stein", "loss", "sensitivity", "pairs",
    "swap", "embedding",
)  # fmt: skip
PLAN = Plan(
    timesteps=tuple(map(float, TABLE["timesteps"])),
    draws=golden.DRAWS,
    quantities=QUANTITIES,
    certified_width=1e-12,  # all 64 Krylov steps, after which nothing is an estimate
    ranks=golden.RANKS,
    probes=golden.PROBES,
    seed=golden.SEED,
)
models = pytest.mark.parametrize("name", TABLE["models"])


def made(table=TABLE):
    return ", ".join(f"{key} {table[key]}" for key in ("made", "platform", "torch", "numpy", "scipy", "diffusers"))


@models
@pytest.mark.parametrize("arithmetic", ["error", "encoding", "float32"])
def test_every_number_is_the_tables(name, arithmetic):
    """In float64 to 1e-9; with the encoding of time in float32, and with all in float32, to what rounding explains."""
    predictor = lipdiag.load(name)
    if arithmetic == "error":
        smooth(predictor.network)
    dtype = "float32" if arithmetic == "float32" else "float64"
    run = lipdiag.measure(predictor, data="digits", plan=PLAN.replace(dtype=dtype), progress=False)
    variables = TABLE["models"][name]["variables"]
    evidence = ("_error", "_residual", "_upper", "_steps")
    assert {str(v) for v in run.data_vars if not str(v).endswith(evidence)} == {*variables, "done"}
    for variable, entry in variables.items():
        truth, found = np.array(entry["value"]), run[variable].values
        distance = np.abs(found - truth) / np.where(truth == 0, 1, np.abs(truth))
        over = distance.reshape(len(truth), -1).max(1) / golden.tolerance(entry, arithmetic)
        where = TABLE["timesteps"][int(over.argmax())]
        assert over.max() <= 1, (
            f"{variable} of {name} at timestep {where} is {over.max():.3g} times as far from the table ({made()}) as "
            f"rounding explains, with torch {torch.__version__}; where the next test fails too it is the "
            "platform, else lipdiag"
        )


def test_the_truth_is_found_again_here():
    """One cell of the table for each model, by the second way, which shares no derivative with the first."""
    for name, draw in zip(TABLE["models"], range(golden.DRAWS), strict=True):
        again = golden.measured(golden.Model(name, torch.float64), TABLE["timesteps"][2], draw, differences=False)
        for variable, entry in TABLE["models"][name]["variables"].items():
            truth, most = np.array(entry["value"])[2, draw], golden.tolerance(entry, "error")[2]
            np.testing.assert_allclose(again[variable], truth, rtol=most, atol=0, err_msg=f"{variable}, {made()}")


@models
def test_the_table_is_of_the_weights_that_are_shipped(name):
    weights = (golden.ASSETS / name / "model.safetensors").read_bytes()
    assert sha256(weights).hexdigest() == TABLE["models"][name]["weights_sha256"]


@models
def test_tolerances_are_small_enough_to_notice_anything(name):
    """The largest that is used is below the width of a 95 % interval of any figure."""
    for variable, entry in TABLE["models"][name]["variables"].items():
        assert golden.tolerance(entry, "error").max() == golden.LEAST["error"], variable
        assert golden.tolerance(entry, "encoding").max() < 1e-3, variable
        assert golden.tolerance(entry, "float32").max() < 5e-3, variable
