"""The choice between grids and the words for it; what is to be pasted is read by Python and holds the same numbers."""

import json
import re

import numpy as np
import pytest

from lipdiag.advice.choice import StepsAdvice, choose

GRIDS = {"uniform, leading": np.array([0.8, 0.4]), "Karras": np.array([1.0, 0.3]), "advised": np.array([0.9, 0.2])}


def errors(seed, **means):
    """Errors of 40 draws that are high or low together."""
    rng = np.random.default_rng(seed)
    common = np.exp(rng.normal(size=40))
    names = {"uniform": "uniform, leading", "karras": "Karras", "advised": "advised"}
    return {names[k]: m * common * np.exp(0.1 * rng.normal(size=40)) for k, m in means.items()}


def advice(*choices, **changes):
    told = tuple(np.round(choice.t * 1000) - 1 for choice in choices)
    known = {
        "model": "m.pt",
        "sampler": "dpm",
        "choices": choices,
        "told": told,
        "sigmas": tuple(np.array([3.25, 0.5]) for _ in choices),
        "whole": True,
        "flow": False,
        "doubt": 1e-4,
        "last": (np.array([999.0, 299.0, 99.0, 9.0]), np.array([1.0, 0.3, 0.02, 0.001])),
        "draws": 40,
    }
    return StepsAdvice(**(known | changes))


def test_a_fitted_grid_is_advised_where_it_is_better_on_draws_it_has_not_seen():
    """In pairs: the draws differ by a factor of e, the grids by a tenth."""
    choice = choose(2, GRIDS, errors(0, uniform=2, karras=1.1, advised=1), errors(1, uniform=2, karras=1.1, advised=1))
    assert choice.better
    assert choice.name == "advised"
    assert choice.best == "Karras"
    assert choice.against_best.value == pytest.approx(1 / 1.1, rel=0.05)
    assert choice.against_uniform.value == pytest.approx(0.5, rel=0.05)
    assert "take the advised grid" in str(advice(choice)).replace("\n", " ")


@pytest.mark.parametrize("truth", [1.0, 1.3])
def test_one_that_only_did_well_where_it_was_fitted_is_refused_in_words(truth):
    fitted, judged = errors(0, uniform=2, karras=1, advised=0.5), errors(1, uniform=2, karras=1, advised=truth)
    choice = choose(2, GRIDS, fitted, judged)
    assert not choice.better
    assert choice.name == "Karras"
    np.testing.assert_array_equal(choice.t, GRIDS["Karras"])
    said = str(advice(choice)).replace("\n", " ")
    assert "no grid was found to be better than the best common one; take Karras" in said


def test_a_grid_is_not_better_than_itself():
    same = errors(0, uniform=2, karras=1, advised=1) | {"advised": errors(0, uniform=2, karras=1)["Karras"]}
    assert choose(2, GRIDS, same, same).name == "Karras"


def test_what_is_pasted_holds_the_grid():
    judged = errors(1, uniform=2, karras=1.1, advised=1)
    made = advice(choose(2, GRIDS, judged, judged))
    code = made.code(0)
    (pipe,) = [line for tool, line in code.items() if tool.startswith("diffusers (DPMSolverMultistepScheduler")]
    assert eval(pipe.replace("...", "0"), {"pipe": lambda _, **given: given}) == {
        "num_inference_steps": 2,
        "timesteps": [899, 199],
    }
    sigmas = next(line for tool, line in code.items() if "ComfyUI" in tool)
    assert [float(text) for text in re.findall(r"[-+]?(?:\d*\.*\d+)", sigmas)] == [
        3.25,
        0.5,
        0.0,
    ]  # as ComfyUI reads it
    flow = advice(choose(2, GRIDS, judged, judged), flow=True, sampler="euler", whole=False)
    (pipe,) = [line for tool, line in flow.code(0).items() if tool.startswith("diffusers (FlowMatch")]
    assert eval(pipe.replace("...", "0"), {"pipe": lambda _, **given: given})["sigmas"] == [3.25, 0.5]


def test_the_last_step_and_where_it_is_cheap():
    """From timestep 199, half way of 99 and 299; a tenth of the whole error, 1.6, is first reached from 99."""
    judged = {name: np.full(40, 1.6 if name == "advised" else 2.0) for name in GRIDS}
    here, short = advice(choose(2, GRIDS, judged, judged)).last_step(0)
    assert here == pytest.approx(0.16)
    assert short == 99


def test_json_and_a_terminal():
    judged = errors(1, uniform=2, karras=1.1, advised=1)
    made = advice(choose(2, GRIDS, judged, judged))
    told = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert told["grids"][0]["timesteps"] == [899, 199]
    assert set(told["grids"][0]["errors"]) == set(GRIDS)
    assert all(len(line) <= 80 for line in str(made).splitlines())
    assert made._repr_html_().count("<tr>") == 2
    frame = made.to_dataframe().set_index("grid")
    assert frame["error"].to_dict() == {name: error.value for name, error in made.choices[0].errors.items()}


def test_errors_at_the_references_own_are_said_to_be():
    judged = errors(1, uniform=2, karras=1.1, advised=1)
    choice = choose(2, GRIDS, judged, judged)
    assert "not known of the reference" in str(advice(choice, doubt=1.0)).replace("\n", " ")
    assert "not known of the reference" not in str(advice(choice)).replace("\n", " ")
