"""Names with arguments: reading undoes writing, and nothing else is understood."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipdiag.diffusion.clock import CLOCKS, LogSigma, LogSNR, Reversed, Shared, Sigma, Timesteps, Unit
from lipdiag.diffusion.parameterization import (
    PARAMETERIZATIONS,
    Consistency,
    Edm,
    data_velocity,
    eps,
    minus_eps,
    score,
    v,
    velocity,
    x0,
)
from lipdiag.diffusion.schedule import (
    SCHEDULES,
    VE,
    VP,
    Cosine,
    Discrete,
    Karras,
    Linear,
    Normalized,
    Quadratic,
    ScaledLinear,
    ShiftedCosine,
    Sigmoid,
    SquaredCosine,
    Straight,
    SubVP,
    UnnormalizedCosine,
    ZeroTerminalSNR,
)
from lipdiag.diffusion.spelling import entries, parse, spell
from lipdiag.errors import UsageError

SPELLINGS = [
    (Linear(), "linear(0.0001, 0.02, 1000)", SCHEDULES),
    (ScaledLinear(), "scaled_linear(0.00085, 0.012, 1000)", SCHEDULES),
    (Quadratic(1e-5), "quadratic(1e-05, 0.02, 1000)", SCHEDULES),
    (Sigmoid(timesteps=50), "sigmoid(0.0001, 0.02, 50)", SCHEDULES),
    (SquaredCosine(), "squared_cosine(1000, 0.999)", SCHEDULES),
    (ZeroTerminalSNR(Linear()), "zero_terminal_snr(linear(0.0001, 0.02, 1000))", SCHEDULES),
    (Discrete((0.1, 0.2)), "discrete((0.1, 0.2))", SCHEDULES),
    (Discrete((0.1,)), "discrete((0.1,))", SCHEDULES),
    (VP(), "vp(0.1, 20)", SCHEDULES),
    (SubVP(), "sub_vp(0.1, 20)", SCHEDULES),
    (VE(), "ve(0.01, 50)", SCHEDULES),
    (Cosine(), "cosine(0.008)", SCHEDULES),
    (UnnormalizedCosine(), "unnormalized_cosine(0.008)", SCHEDULES),
    (ShiftedCosine(0.25), "shifted_cosine(0.25)", SCHEDULES),
    (Karras(), "karras(0.002, 80, 7)", SCHEDULES),
    (Straight(), "straight()", SCHEDULES),
    (Normalized(Karras()), "normalized(karras(0.002, 80, 7), 0.5)", SCHEDULES),
    (Timesteps(), "timesteps(1000)", CLOCKS),
    (Unit(), "unit(1)", CLOCKS),
    (Sigma(VE()), "sigma(ve(0.01, 50))", CLOCKS),
    (LogSigma(Karras()), "log_sigma(karras(0.002, 80, 7), 0.25, 1)", CLOCKS),
    (LogSNR(Cosine()), "log_snr(cosine(0.008))", CLOCKS),
    (Reversed(Unit()), "reversed(unit(1))", CLOCKS),
    (Shared(Timesteps()), "shared(timesteps(1000), 100, 5)", CLOCKS),
    (Shared(Timesteps(), 9, edges=(0, 5, 9)), "shared(timesteps(1000), 9, 2, (0, 5, 9))", CLOCKS),
    (eps, "eps", PARAMETERIZATIONS),
    (minus_eps, "minus_eps", PARAMETERIZATIONS),
    (x0, "x0", PARAMETERIZATIONS),
    (v, "v", PARAMETERIZATIONS),
    (velocity, "velocity", PARAMETERIZATIONS),
    (data_velocity, "data_velocity", PARAMETERIZATIONS),
    (score, "score", PARAMETERIZATIONS),
    (Edm(), "edm(0.5)", PARAMETERIZATIONS),
    (Consistency(), "consistency(0.5, 0.002)", PARAMETERIZATIONS),
]


def test_every_name_is_tested():
    for registry in (SCHEDULES, CLOCKS, PARAMETERIZATIONS):
        assert {text.partition("(")[0] for _, text, of in SPELLINGS if of is registry} == set(registry)


@pytest.mark.parametrize(("thing", "text", "registry"), SPELLINGS, ids=[text for _, text, _ in SPELLINGS])
def test_writing_and_reading(thing, text, registry):
    assert spell(thing) == text
    assert parse(text, registry) == thing
    assert spell(parse(text, registry)) == text


@pytest.mark.parametrize(
    ("text", "registry", "thing"),
    [
        ("linear", SCHEDULES, Linear()),
        (" linear ( ) ", SCHEDULES, Linear()),
        ("linear(timesteps=10, beta_end=0.5)", SCHEDULES, Linear(beta_end=0.5, timesteps=10)),
        ("zero_terminal_snr(of=scaled_linear)", SCHEDULES, ZeroTerminalSNR(ScaledLinear())),
        ("discrete([1e-1, .2])", SCHEDULES, Discrete((0.1, 0.2))),
        ("shared(timesteps, end=50)", CLOCKS, Shared(Timesteps(), 50)),
        (
            "shared(log_sigma(karras), +0.0, edges=(-1, -0.5, 0))",
            CLOCKS,
            Shared(LogSigma(Karras()), 0, 2, (-1, -0.5, 0)),
        ),
        ("edm", PARAMETERIZATIONS, Edm(0.5)),
    ],
)
def test_what_people_write(text, registry, thing):
    assert parse(text, registry) == thing


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300))
def test_numbers_survive_with_all_digits(shift, scale):
    for thing, registry in ((ShiftedCosine(shift), SCHEDULES), (LogSigma(ShiftedCosine(shift), scale), CLOCKS)):
        assert parse(spell(thing), registry) == thing


@pytest.mark.parametrize(
    ("text", "registry", "message"),
    [
        ("", SCHEDULES, "not a name with arguments; allowed names are linear, scaled_linear, quadratic"),
        ("linaer()", SCHEDULES, "got 'linaer' in .*; allowed names are linear, scaled_linear"),
        ("timesteps()", SCHEDULES, "got 'timesteps' in .*; allowed names are linear"),
        ("linear(1", SCHEDULES, "not a name with arguments"),
        ("1000", SCHEDULES, "not a name with arguments"),
        ("(1, 2)", SCHEDULES, "not a name with arguments"),
        ("linear()()", SCHEDULES, "only names, calls, finite numbers"),
        ("linear('a')", SCHEDULES, "only names, calls, finite numbers"),
        ("linear(True)", SCHEDULES, "only names, calls, finite numbers"),
        ("linear(1e999)", SCHEDULES, "only names, calls, finite numbers"),
        ("linear(1 + 1)", SCHEDULES, "only names, calls, finite numbers"),
        ("linear(*(1, 2))", SCHEDULES, "only names, calls, finite numbers"),
        ("linear(-vp)", SCHEDULES, "only names, calls, finite numbers"),
        ("linear(**vp)", SCHEDULES, "it is written linear\\(beta_start=0.0001, beta_end=0.02, timesteps=1000\\)"),
        ("linear(1, 2, 3, 4)", SCHEDULES, "too many positional arguments; it is written linear"),
        ("linear(beta=1)", SCHEDULES, "unexpected keyword argument 'beta'; it is written linear"),
        ("discrete", SCHEDULES, "missing a required argument: 'values'"),
        ("linear(1e-4, 0.02, 1000.0)", SCHEDULES, "got 1000.0 as timesteps .* takes a whole number there"),
        ("linear(vp)", SCHEDULES, "as beta_start .* takes a number there"),
        ("discrete(0.1)", SCHEDULES, "takes a tuple of numbers there"),
        ("discrete((0.1, vp))", SCHEDULES, "takes a tuple of numbers there"),
        ("zero_terminal_snr(vp)", SCHEDULES, "takes a schedule with a table there"),
        ("sigma(timesteps)", CLOCKS, "takes a schedule there"),
        ("shared(linear)", CLOCKS, "takes a clock there"),
        ("shared(timesteps, 100, 500)", CLOCKS, "got 500 blocks up to 100"),
        ("eps()", PARAMETERIZATIONS, "it takes none, so leave out the parentheses"),
        ("__import__('os').system('true')", SCHEDULES, "only names, calls"),
        ("linear(" + "(" * 500 + "1" + ")" * 500 + ")", SCHEDULES, "not a name with arguments"),
        ("linear(" + "-" * 50_000 + "1)", SCHEDULES, "."),
        ("linear(1" + "0" * 400 + ")", SCHEDULES, "not a name with arguments"),
        ("linear(\0)", SCHEDULES, "not a name with arguments"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_everything_else_is_refused_in_one_sentence(text, registry, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse(text, registry)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="linearvp(),.=-+[]{}'\"1e9_ \n" + string.ascii_lowercase, max_size=30))
def test_no_text_does_anything_but_name_or_be_refused(text):
    try:
        thing = parse(text, SCHEDULES)
    except UsageError:
        return
    assert isinstance(thing, tuple(SCHEDULES.values()))


@pytest.mark.parametrize("thing", [lambda schedule, t: (t, t), 3, Linear, None])
def test_things_without_a_name_are_refused(thing):
    with pytest.raises(UsageError, match="which has no name; allowed names are linear"):
        spell(thing)


@pytest.mark.parametrize("registry", [SCHEDULES, PARAMETERIZATIONS, CLOCKS], ids=["schedule", "prediction", "clock"])
def test_every_entry_says_what_it_is_and_who_uses_it(registry):
    found = dict(zip(registry, entries(registry), strict=True))
    for name, entry in found.items():
        assert entry.usage.partition("(")[0] == name
        assert len(entry.meaning) > 5
        assert entry.used.endswith(".")
        assert len(entry.used) > 5
        assert "In use" not in entry.meaning
        if "(" not in entry.usage or "=" in entry.usage.partition(",")[0] or entry.usage.endswith("()"):
            parse(entry.usage.partition("(")[0], registry)  # the defaults hold


def test_an_unknown_word_points_to_the_list():
    with pytest.raises(UsageError, match=r"squared_cosine, .*; see `lipdiag help conventions`$"):
        parse("cosin", SCHEDULES)


@pytest.mark.parametrize(
    ("registry", "theirs", "ours"),
    [
        (SCHEDULES, "rectified_flow", "straight"),
        (PARAMETERIZATIONS, "v_prediction", "v"),
        (CLOCKS, "index", "timesteps"),
    ],
)
def test_a_name_that_others_use_is_answered_with_ours(registry, theirs, ours):
    with pytest.raises(UsageError, match=rf"did you mean {ours}\?"):
        parse(theirs, registry)
    for other in (SCHEDULES, PARAMETERIZATIONS, CLOCKS):
        if ours not in other:
            with pytest.raises(UsageError) as refusal:
                parse(theirs, other)
            assert f"did you mean {ours}?" not in str(refusal.value)
