"""The benchmark: its table is complete, its products are counted exactly, its shortcut for slow rivals is no
approximation while they stay in the Krylov space. Nothing here depends on how fast the machine is.
"""

import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from click.testing import CliRunner

from benchmarks import spectrum
from benchmarks.__main__ import main
from benchmarks.cost import CASES, UNPRICED, Batch, Cost, Laps, interleaved
from benchmarks.goals import Goal
from benchmarks.networks import SUBJECTS
from benchmarks.rivals import Rival
from benchmarks.table import Result, text
from lipdiag.design.plan import Plan
from lipdiag.linalg.lanczos import singular_values
from lipdiag.linalg.operator import Operator
from lipdiag.quantities import sensitivity
from lipdiag.quantities.catalogue import QUANTITIES


@pytest.fixture(scope="module")
def quick():
    """What `--quick --json` prints; forward passes are timed for a moment, for no price is looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.cost.SHORTEST", 1e-3)
        outcome = CliRunner().invoke(main, ["--quick", "--json", "--rounds", "1"], catch_exceptions=False)
    assert outcome.exit_code == 0
    return json.loads(outcome.stdout)["networks"]


def test_every_quantity_has_its_price_at_both_batch_sizes(quick):
    found = {(cost["case"], cost["pairs"]) for cost in quick[0]["costs"]}
    assert found == {(case, pairs) for case in CASES for pairs in (8, 32)}
    assert set(QUANTITIES) - set(UNPRICED) < set(CASES)
    assert len(quick[0]["costs"]) == len(found)


def test_ratios_are_finite(quick):
    ratios = [row["ratio"] for row in [*quick[0]["costs"], *quick[0]["rivals"]]]
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios)
    assert quick[0]["rivals"][0]["ratio"] == 1


def products(case: str, k: int) -> tuple[int, int]:
    """Forward and reverse: k and k for the norm, one for each time derivative, one for each probe, and no more."""
    probes = Plan().probes
    return {
        "time_derivative": (1, 0),
        "time_difference": (0, 0),
        "trajectory_derivative": (1, 0),
        "spectral_norm": (k, k),
        "singular_values": (k, k),
        "one_sided_lipschitz": (k, k),
        "squared_frobenius_norm": (k + probes, k),
        "trace": (k + probes, k),
        "asymmetry": (k + probes, k + probes + 1),
        "stein": (0, 0),
        "loss": (0, 0),
        "fokker_planck": (1, 0),
        "flipd": (0, 0),  # its products are those of another point, at the clean sample
        "sensitivity": (0, 0),  # its products are those of 20 other points
        "the defaults": (k + 1, k),
        "the full report": (k + probes + 1, k),
    }[case]


def test_products_are_those_of_the_formulas(quick):
    for cost in quick[0]["costs"]:
        expected = products(cost["case"], cost["krylov_steps"])
        assert (cost["forward_products"], cost["reverse_products"]) == expected, cost["case"]
        others = {"time_difference": 1, "fokker_planck": 4, "flipd": 1 + Plan().probes}
        evaluations = sum(others.get(name, 0) for name in CASES[cost["case"]])
        way = 2 * sensitivity.STEPS if "sensitivity" in CASES[cost["case"]] else 0
        assert cost["floor"] == 1 + sum(expected) + evaluations + way
        assert (cost["krylov_steps"] >= 8) == bool(expected[1])
        if cost["case"] == "the full report":
            assert cost["floor"] == 2 * cost["krylov_steps"] + 4


def test_what_is_priced_and_not_run_has_the_products_of_the_formulas():
    batch = Batch(SUBJECTS["digits"](), 8)
    full = batch.cost("the full report", rounds=1, limit=0.0)
    for case, names in CASES.items():
        if any("krylov" in QUANTITIES[name].needs for name in names):
            cost = batch.counted(case, full)
            assert (cost.forward_products, cost.reverse_products) == products(case, full.krylov_steps), case
            assert 0 < cost.passes < math.inf


def test_every_rival_is_there_at_the_same_error(quick):
    methods = [rival["method"] for rival in quick[0]["rivals"]]
    for word in ("lipdiag", "double backward", "loop of autograd.functional", "svds", "jacrev"):
        assert any(word in method for method in methods), word
    assert all(rival["error"] <= spectrum.ERROR for rival in quick[0]["rivals"])
    assert [rival["run"] for rival in quick[0]["rivals"]] == [True] + [False] * (len(methods) - 1)


def test_every_goal_is_judged(quick):
    promises = [goal["promise"] for goal in quick[0]["goals"]]
    for word in ("full report", "Krylov steps", "time derivative", "batched power", "per-sample loop"):
        assert any(word in promise for promise in promises), word


@pytest.fixture
def operators():
    """Matrices with slowly falling singular values, as Jacobians of diffusion models have them, and starts."""
    generator = np.random.default_rng(0)
    n, batch = 60, 6
    sides = [np.linalg.qr(generator.standard_normal((batch, n, n)))[0] for _ in range(2)]
    values = np.linspace(1, 0.2, n) ** np.linspace(1, 1.5, batch)[:, None]
    A = torch.from_numpy(sides[0] * values[:, None] @ sides[1])
    start = torch.from_numpy(generator.standard_normal((batch, n)))
    start = start / start.norm(dim=1, keepdim=True)

    def apply(M):
        return lambda v: (M @ v[:, :, None])[:, :, 0]

    return A, Operator(apply(A), apply(A.mT), n, n, batch, A.dtype, A.device), start


@pytest.mark.parametrize("depth", [60, 36])
def test_iterations_of_the_power_method_are_those_on_the_operator_itself(operators, depth):
    """Run on the matrices with numpy's products and norms; at depth 60 the count is exact, at 36 within 5 %."""
    A, operator, start = operators
    count = spectrum.power(spectrum.spectrum(operator, start, depth))
    truth = np.linalg.norm(A.numpy(), 2, axis=(1, 2))
    v, error, iterations = start.numpy(), 1.0, 0
    while error > spectrum.ERROR:
        u = np.einsum("bij,bj->bi", A.numpy(), v)
        error = np.median(np.abs(np.linalg.norm(u, axis=1) / truth - 1))
        v = np.einsum("bij,bi->bj", A.numpy(), u)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        iterations += 1
    assert count.products / 2 == pytest.approx(iterations, rel=0 if depth == 60 else 0.05)
    assert count.error == pytest.approx(error, rel=1e-4 if depth == 60 else 0.1)


def test_products_of_svds_are_those_on_the_operator_itself(operators):
    """scipy's svds on the matrices, from the same start, at the tolerance that the count chose."""
    A, operator, start = operators
    count = spectrum.arpack(spectrum.spectrum(operator, start, 60))
    made = 0

    def counted(M):
        def product(v):
            nonlocal made
            made += 1
            return M @ v

        return product

    truth, found = np.linalg.norm(A.numpy(), 2, axis=(1, 2)), []
    for M, v0 in zip(A.numpy(), start.numpy(), strict=True):
        linear = scipy.sparse.linalg.LinearOperator(M.shape, dtype=M.dtype, matvec=counted(M), rmatvec=counted(M.T))
        tolerance = float(count.setting.removeprefix("tol="))
        found += list(scipy.sparse.linalg.svds(linear, 1, tol=tolerance, v0=v0, return_singular_vectors=False))
    assert made / len(truth) == pytest.approx(count.products, rel=0.02)
    assert np.median(np.abs(np.array(found) / truth - 1)) <= spectrum.ERROR


def test_krylov_steps_are_the_fewest_that_reach_the_error(operators):
    """Against numpy's norms, one step fewer does not do."""
    A, operator, start = operators
    steps = int(spectrum.krylov(spectrum.spectrum(operator, start, 60)).products / 2)
    truth = torch.from_numpy(np.linalg.norm(A.numpy(), 2, axis=(1, 2)))
    for k, enough in ((steps, True), (steps - 1, False)):
        error = (singular_values(operator, start, k).values[:, 0] / truth - 1).abs().quantile(0.5)
        assert (error <= spectrum.ERROR) == enough


def test_work_is_measured_by_the_forward_passes_around_it():
    """Sleep is at least as long as asked for; forward passes of 10 and 30 ms have the mean 20."""
    forwards = iter([0.01, 0.03, 0.01])
    ratios = interleaved(lambda: next(forwards), lambda: time.sleep(0.1), 2, 60.0)
    assert len(ratios) == 2
    assert all(ratio >= 5 for ratio in ratios)


def test_short_work_is_repeated_as_forward_passes_are(monkeypatch):
    """Ten milliseconds, once and then as often as fifty hold."""
    clock = [0.0]

    def work():
        clock[0] += 0.01

    monkeypatch.setattr("benchmarks.cost.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert interleaved(lambda: 0.004, work, 3, 60.0) == pytest.approx([2.5, 2.5, 2.5])
    assert clock[0] == pytest.approx((1 + 5 + 5) * 0.01)


def test_a_price_by_laps_is_the_sum_of_the_products():
    laps = Laps(forward=[3.0, 1.0, 1.5, 1.0], reverse=[2.0, 1.0], krylov_steps=2, total=12.0)
    assert laps.price(4, 2) == pytest.approx(3 + 3 * 1 + 2 + 1 + 2.5)
    assert laps.price(1, 0) == pytest.approx(3 + 2.5)


def test_the_table_says_what_was_missed_and_fits_a_terminal():
    result = Result("a network")
    result.forward[8] = 0.1
    result.costs = [Cost("trace", 8, 12, 14, 12, 27, 29.7, 0)]
    result.rivals = [
        Rival("lipdiag", "16 steps", 32, 40.0, 4e-4, True),
        Rival("loop", "100 iterations", 200, 4000.0, 5e-4, False),
    ]
    result.goals = [Goal("cost", 1.25, 1.3), Goal("ratio", 20.0, 100.0, most=False)]
    lines = text([result]).splitlines()
    assert max(map(len, lines[1:])) <= 80
    assert any("29.7*" in line and "1.10" in line for line in lines)
    assert [line.endswith("MISSED") for line in lines[-2:]] == [True, False]
