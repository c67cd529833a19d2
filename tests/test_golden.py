"""lipdiag's own numbers of the embedded models against the table of `golden.py`, on whatever machine this is."""

import json
from hashlib import sha256

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag import Plan
from lipdiag.data.dataset import dataset
from lipdiag.design.arithmetic import arithmetic, evaluating
from lipdiag.design.points import points
from lipdiag.quantities.catalogue import measure_point
from lipdiag.study.resolve import from_data
from tests import golden
from tests.networks import smooth

TABLE = json.loads(golden.TABLE.read_text())
IN_TIME = (
    "time_derivative", "time_difference", "trajectory_derivative", "stein", "loss", "sensitivity", "pairs", "swap",
    "embedding",
)  # fmt: skip
QUANTITIES = {
    "digits-ddpm": (
        *IN_TIME, "spectral_norm", "singular_values", "one_sided_lipschitz", "squared_frobenius_norm", "trace",
        "asymmetry",
    ),
    "digits-etsdm": IN_TIME,  # it differs in the clock alone, and Jacobians take half a minute
}  # fmt: skip
PLAN = Plan(
    timesteps=tuple(map(float, TABLE["timesteps"])),
    draws=golden.DRAWS,
    certified_width=1e-12,  # nothing is an estimate then
    ranks=golden.RANKS,
    probes=golden.PROBES,
    seed=golden.SEED,
)
models = pytest.mark.parametrize("name", TABLE["models"])


def made(table=TABLE):
    return ", ".join(f"{key} {table[key]}" for key in ("made", "platform", "torch", "numpy", "scipy", "diffusers"))


def measured(name, dtype):
    """Variable -> (times, draws, ...), by lipdiag without its store."""
    predictor, plan = lipdiag.load(name), PLAN.replace(dtype=dtype, quantities=QUANTITIES[name])
    if dtype == "float64":
        smooth(predictor.network)
    data = from_data(dataset("digits", shape=predictor.shape), plan.seed)
    with evaluating(predictor, plan), arithmetic():
        found = measure_point(points(predictor, plan, data.sample, plan.timesteps, range(plan.draws)))
    return {variable: value.unflatten(0, (-1, plan.draws)).numpy() for variable, value in found.items()}


@models
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_number_is_the_tables(name, dtype):
    """In float64 to 1e-9, with the encoding of time in float64 too; in float32 to what rounding explains."""
    found, variables = measured(name, dtype), TABLE["models"][name]["variables"]
    names = {v for v in found if not v.endswith(("_error", "_residual", "_upper", "_steps"))}
    assert names <= {*variables} if QUANTITIES[name] == IN_TIME else names == {*variables}
    for variable in names:
        entry = variables[variable]
        truth = np.array(entry["value"])
        value = found[variable]
        if variable in ("singular_values", "spectral_norm"):  # lowered by half of the residual, once all is converged
            lowered = found["singular_values_residual"] / 2
            value = value + (lowered if variable == "singular_values" else lowered[..., 0])
            assert (found[variable] <= truth * (1 + 1e-12)).all()
        distance = np.abs(value - truth) / np.where(truth == 0, 1, np.abs(truth))
        over = distance.reshape(len(truth), -1).max(1) / golden.tolerance(entry, dtype)
        where = TABLE["timesteps"][int(over.argmax())]
        assert over.max() <= 1, (
            f"{variable} of {name} at timestep {where} is {over.max():.3g} times as far from the table ({made()}) as "
            f"rounding explains, with torch {torch.__version__}; where the next test fails too it is the "
            "platform, else lipdiag"
        )


def test_the_truth_is_found_again_here():
    """One cell of the table, by the second way, which shares no derivative with the first."""
    again = golden.measured(golden.Model("digits-ddpm", torch.float64), TABLE["timesteps"][2], 1, differences=False)
    for variable, entry in TABLE["models"]["digits-ddpm"]["variables"].items():
        truth, most = np.array(entry["value"])[2, 1], golden.tolerance(entry, "float64")[2]
        np.testing.assert_allclose(again[variable], truth, rtol=most, atol=0, err_msg=f"{variable}, {made()}")


@models
def test_the_table_is_of_the_weights_that_are_shipped(name):
    weights = (golden.ASSETS / name / "model.safetensors").read_bytes()
    assert sha256(weights).hexdigest() == TABLE["models"][name]["weights_sha256"]


@models
def test_tolerances_are_small_enough_to_notice_anything(name):
    """A tenth of a per cent is less than the width of a 95 % interval in any figure."""
    for variable, entry in TABLE["models"][name]["variables"].items():
        assert golden.tolerance(entry, "float64").max() < 2e-9, variable
        assert golden.tolerance(entry, "float32").max() < 2e-3, variable
