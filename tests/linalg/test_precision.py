"""What torch was told of the precision of float32, in every pair of ways, and what holds while lipdiag computes."""

import itertools
import warnings
from threading import Event, Thread

import pytest
import torch

from lipdiag.linalg.linearize import linearize
from lipdiag.linalg.precision import BACKENDS, GENERIC, OTHERS, PRODUCTS, full_precision, steady
from tests.linalg.networks import randn

PLACES = (GENERIC, *BACKENDS, *PRODUCTS, *OTHERS)
OPERATIONS = (*PRODUCTS, *OTHERS)
read, write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter


def newer(place, precision):
    return lambda: write(*place, precision)


def older(backend, allowed):
    return lambda: setattr(backend, "allow_tf32", allowed)


WAYS = {
    **{
        f"{'/'.join(place)}={precision}": newer(place, precision)
        for place in PLACES
        for precision in ("none", "ieee", "tf32", "bf16")
        if precision != "bf16" or place[0] != "cuda"
    },
    **{f"matmul.allow_tf32={allowed}": older(torch.backends.cuda.matmul, allowed) for allowed in (True, False)},
    **{f"cudnn.allow_tf32={allowed}": older(torch.backends.cudnn, allowed) for allowed in (True, False)},
    **{name: lambda name=name: torch.set_float32_matmul_precision(name) for name in ("highest", "high", "medium")},
}


def older_flags():
    found = []
    flags = (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.backends.cudnn.allow_tf32,
    )
    for flag in flags:
        try:
            found.append(flag())
        except RuntimeError:  # other than what the newer ones say
            found.append("refused")
    return found


def seen():
    """All that can be read, now and under each generic precision: where a precision was set shows in what follows."""
    generic, found = read(*GENERIC), []
    for precision in (generic, "ieee", "tf32", "bf16", "none"):
        write(*GENERIC, precision)
        found.append(([read(*place) for place in PLACES], older_flags()))
    write(*GENERIC, generic)
    return found


@pytest.fixture(autouse=True)
def untouched():
    """Nothing of these tests is left; the default of convolutions cannot be set, so it is made to look so."""
    yield
    for place in PLACES:
        write(*place, "none")
    torch.set_float32_matmul_precision("highest")
    for place in PRODUCTS:
        write(*place, "none")
    torch.backends.cudnn.allow_tf32 = True


def test_every_pair_of_ways_to_tell_it_is_set_aside_and_restored():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = seen()  # as torch is imported, which the first ways below end for good
        with full_precision():
            assert {read(*place) for place in OPERATIONS} == {"ieee"}
        assert seen() == before
        for first, second in itertools.permutations(WAYS, 2):
            WAYS[first]()
            WAYS[second]()
            before = seen()
            with full_precision(), full_precision():
                assert {read(*place) for place in OPERATIONS} == {"ieee"}, (first, second)
                assert older_flags()[:2] == ["highest", False], (first, second)
            assert seen() == before, (first, second)


def test_it_holds_until_the_last_thread_that_wants_it_is_done():
    """Another thread enters first and leaves first: what it found is restored by this one."""
    before, cudnn, entered, leave = seen(), torch.backends.cudnn, Event(), Event()
    held = lambda: ({read(*place) for place in OPERATIONS}, cudnn.benchmark, cudnn.deterministic)  # noqa: E731

    def first():
        with full_precision(), steady():
            entered.set()
            leave.wait()

    cudnn.benchmark = True
    try:
        thread = Thread(target=first)
        thread.start()
        entered.wait()
        with full_precision(), steady():
            leave.set()
            thread.join()
            assert held() == ({"ieee"}, False, True)
        assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
    finally:
        cudnn.benchmark = False
    assert seen() == before


@pytest.mark.parametrize("way", WAYS)
def test_products_are_computed_in_it_whoever_asks(way):
    WAYS[way]()
    before, heard = seen(), []

    def f(x):
        heard.append({read(*place) for place in OPERATIONS})
        return x.sin()

    for record in (True, False):
        line = linearize(f, randn(2, 3), record=record)
        line.jacobian.vm(line.jvp(randn(2, 3)))
        assert (line.output == randn(2, 3).sin()).all()
    assert len(heard) == 4
    assert all(precisions == {"ieee"} for precisions in heard)
    assert seen() == before


@pytest.mark.parametrize("enabled", [True, False])
def test_no_transformer_layer_is_fused_meanwhile(enabled):
    """Without gradients torch's would be, with another gelu on a graphics processor: 4e-5 apart in float64."""
    mha, fused = torch.backends.mha, []
    mha.set_fastpath_enabled(enabled)
    try:
        line = linearize(lambda x: (fused.append(mha.get_fastpath_enabled()), x.sin())[1], randn(2, 3))
        line.jacobian.vm(line.jvp(randn(2, 3)))
        assert line.output.shape == (2, 3)
        assert fused
        assert not any(fused)
        assert mha.get_fastpath_enabled() == enabled
    finally:
        mha.set_fastpath_enabled(True)
