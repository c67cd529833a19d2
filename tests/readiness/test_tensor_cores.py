"""Runs whose Jacobian products are rounded: what is rounded, what is not, and what the run says of it."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lipdiag
from lipdiag.cli import main
from lipdiag.design.description import Source
from lipdiag.design.plan import Plan
from lipdiag.errors import RunError, UsageError
from lipdiag.readiness import tensor_cores
from tests.networks import SHAPE, predictor

QUANTITIES = ("time_derivative", "time_difference", "spectral_norm", "squared_frobenius_norm", "trace", "loss")
PLAN = Plan(timesteps="1,400", draws=3, quantities=QUANTITIES)


@pytest.fixture(scope="module")
def runs():
    kinds = ("ieee", "tf32", "3xtf32")
    return {kind: lipdiag.measure("digits-ddpm", plan=PLAN.replace(products=kind), probe=False) for kind in kinds}


def off(runs, kind, name):
    exact = runs["ieee"][name]
    return float((np.abs(runs[kind][name] - exact) / np.abs(exact)).max())


def test_only_products_with_the_jacobian_are_rounded(runs):
    """10 bits are 5e-4, which a network's depth makes larger and probes' means smaller."""
    for name in ("time_derivative", "time_difference", "loss"):
        assert off(runs, "tf32", name) == off(runs, "3xtf32", name) == 0
    for name in ("squared_frobenius_norm", "trace"):
        assert 1e-6 < off(runs, "tf32", name) < 3e-3
        assert off(runs, "3xtf32", name) < 1e-5


def test_intervals_of_rounded_products_hold_the_float64_value(runs):
    """At full depth in float64 the value has no error to speak of."""
    precise = PLAN.replace(dtype="float64", certified_width=1e-12, quantities=("spectral_norm",))
    truth = lipdiag.measure("digits-ddpm", plan=precise, probe=False)["spectral_norm"]
    for kind, found in runs.items():
        assert (found["spectral_norm"] <= truth * (1 + 3e-6)).all(), kind
        assert (found["spectral_norm_upper"] >= truth).all(), kind
        assert (found["spectral_norm_upper"] <= 1.051 * found["spectral_norm"]).all(), kind


def test_the_run_says_how_it_was_measured(runs):
    for kind, said in (("ieee", None), ("tf32", "tf32")):
        assert runs[kind].attrs["frozen"]["plan"].get("products") == said
        assert runs[kind]["spectral_norm_upper"].attrs.get("products") == said


def test_a_run_is_gone_on_with_by_its_own_products(tmp_path):
    plan = Plan(timesteps="400", draws=1, quantities=("spectral_norm",), products="tf32")
    out = tmp_path / "run.zarr"
    lipdiag.measure("digits-ddpm", plan=plan, out=out, probe=False)
    with pytest.raises(RunError, match=r'plan\.products is "tf32" there and not given here'):
        lipdiag.measure("digits-ddpm", plan=plan.replace(products="ieee"), out=out, probe=False)
    grown = lipdiag.measure("digits-ddpm", plan=plan.replace(products="auto", draws=2), out=out, probe=False)
    assert grown.sizes["draw"] == 2
    assert grown.attrs["frozen"]["plan"]["products"] == "tf32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there may be tensor cores")
def test_without_tensor_cores_auto_is_float32(tmp_path):
    plan = Plan(timesteps="400", draws=1, quantities=("spectral_norm",), products="auto")
    assert "products" not in lipdiag.measure("digits-ddpm", plan=plan, probe=False).attrs["frozen"]["plan"]


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_card_without_tf32_is_told_from_one_with(monkeypatch, capability, fast):
    card = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Quadro T1000")
    assert tensor_cores.tensor_cores(card) is fast
    assert tensor_cores.tensor_cores(torch.device("cpu")) is None
    monkeypatch.setattr(tensor_cores, "device_of", lambda predictor: card)
    source = Source(lambda i: torch.zeros(SHAPE), "zeros", "zeros")
    asked = (predictor(), source, PLAN.replace(products="3xtf32"), np.array([400.0]), None)
    if fast:
        assert tensor_cores.settled(*asked) == "3xtf32"
    else:
        with pytest.raises(UsageError, match=r"Quadro T1000 has no TF32, .* 8\.0 and later have: leave --products out"):
            tensor_cores.settled(*asked)


def test_refusals():
    with pytest.raises(UsageError, match="products are 'fp8', they must be ieee, tf32, 3xtf32 or auto"):
        Plan(products="fp8")
    with pytest.raises(UsageError, match="tf32 products are of float32 and dtype is float64; leave one of them out"):
        Plan(products="tf32", dtype="float64")
    asked = ["measure", "digits-ddpm", "--products", "tf32", "--dtype", "float64", "--dry-run"]
    result = CliRunner().invoke(main, asked, prog_name="lipdiag")
    assert result.exit_code == 2
