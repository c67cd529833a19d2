"""Runs judged: exact models pass, faults that were put into them are named, and what is not there is said."""

import json

import numpy as np
import pytest

import lipdiag
from lipdiag.errors import UsageError
from lipdiag.health.examine import PLAN
from lipdiag.health.judge import holm, judge
from tests.health.planted import ZOO, data, exact, mixture
from tests.holm import coverage
from tests.runs import make


def test_holms_p_values_are_those_of_the_procedure():
    """Of 0.005, 0.01, 0.03, 0.04 the first is 4 times, the second 3 times, the third twice as large; none falls."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005], [1] * 4), [0.03, 0.06, 0.06, 0.02])
    # one hypothesis of weight 1 and two that share another: halves of the level for each kind, then all that is left
    np.testing.assert_allclose(holm([0.02, 0.02, 0.9], [1, 0.5, 0.5]), [0.04, 0.04, 0.9])


GROUPS = 10


def test_exact_models_pass(p_value, seed):
    """At most one in a hundred is blamed; groups of draws are independent of each other."""
    plan = PLAN.replace(draws=32 * GROUPS, timesteps="pairs:4", dtype="float64", seed=seed)
    run = lipdiag.measure(mixture(None, 8), data(8, 4096), plan, probe=False, progress=False)
    passed = [judge(run.isel(draw=slice(32 * i, 32 * i + 32))).verdict == "healthy" for i in range(GROUPS)]
    p_value(coverage(sum(passed), GROUPS, 0.99))


@pytest.mark.parametrize("kind", [kind for kind in ZOO if kind != "ddpm"])
def test_exact_models_of_every_kind_pass(kind):
    plan = PLAN.replace(timesteps="pairs:4", draws=16)
    assert judge(lipdiag.measure(ZOO[kind](), data(), plan, probe=False, progress=False)).verdict == "healthy"


def test_what_is_not_there_is_said_with_the_command_that_measures_it():
    found = judge(make(checkpoint="ckpt.pt"))
    assert found.verdict == "undecided"
    (said,) = found.missing
    assert "whether a multiple of its answer would do better, whether" in said
    assert (
        "listens to its timestep and whether its answers at different times are of one diffusion: measure it with"
        in said
    )
    assert "`lipdiag measure ckpt.pt --quantity stein --quantity loss" in said
    assert "--quantity swap --quantity fokker_planck --out NEW.zarr`" in said
    assert json.loads(found.to_json())["verdict"] == "undecided"


def test_too_few_draws_tell_nothing():
    found = judge(make(draws=4))
    assert found.verdict == "undecided"
    assert "too few draws" in str(found)


def test_answers_that_are_no_numbers_are_a_fault():
    run = make(draws=12)
    run["loss"].values[3, 5] = np.nan
    (fault,) = judge(run).faults
    assert (fault.name, fault.timesteps) == ("not_finite", (run["timestep"].values[3],))


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(UsageError, match=r"there is no check 'sise' \(did you mean size\?\); known are size"):
        judge(make(), {"sise": 1.0})
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        judge(make(), level=2.0)
    with pytest.raises(UsageError, match="must be a number from 0 on"):
        judge(make(), {"size": np.nan})
    raw = make()
    raw.attrs["frozen"]["model"]["function"] = "raw"
    with pytest.raises(UsageError, match="holds the network's own output"):
        judge(raw)


def test_a_diagnosis_fits_a_terminal_and_a_notebook():
    run = lipdiag.measure(exact(), data(), PLAN.replace(timesteps="0,1,500", draws=8), probe=False, progress=False)
    run["loss"] = run["loss"] * 3 + 1
    run.attrs["checkpoint"] = "my<b>"
    found = judge(run)
    assert found.verdict == "faults"
    assert max(map(len, str(found).splitlines())) <= 80
    assert "to do: " in str(found)
    shown = found._repr_html_()
    assert "&lt;b&gt;" in shown
    assert "<b>:" not in shown
    assert shown.count("<tr>") == len(found.lines) + 1
    keys = {"name", "timesteps", "evidence", "remedy"}
    assert all(keys <= set(fault) for fault in found.to_dict()["faults"])
    assert found.to_dataframe()["p_value"].tolist() == [line.p_value for line in found.lines]
