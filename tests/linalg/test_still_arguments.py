"""Recorded products of operations where some tensors move and the others stand still, or are not given at all.

Torch stands a tensor without memory for the tangent of what does not move, and a kernel that reads it kills the
process. So all recordings are made in one process of their own, and what it was at when it died is what fails.
"""

import itertools
import multiprocessing
import signal

import pytest
import torch
from torch.nn import functional

from lipdiag.linalg.forward_mode import push_forward
from lipdiag.linalg.replay import record
from tests.linalg.networks import randn
from tests.linalg.reference import relative

SQUARE, ROW, STACK, IMAGE, SIGNAL = (4, 4), (4,), (3, 4, 4), (2, 4, 6, 6), (2, 4, 6)
FACTORS = {"beta": (0, 0.5, 1), "alpha": (0.35, 1)}


def scaled(function, names, *shapes):
    """The cases of one operation, for every choice of its factors: None for those not given."""
    choices = itertools.product(*((None, *FACTORS.get(name, (0.35, 0))) for name in names))
    for values in choices:
        given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        label = ", ".join(f"{name}={value}" for name, value in given.items())
        yield f"{function.__name__}({label})", (lambda *z, given=given: function(*z, **given)), shapes


def optional(name, function, *shapes):
    """The cases of one operation, for every choice of the tensors after the first that are left out."""
    for given in itertools.product((True, False), repeat=len(shapes) - 1):
        kept = [shape for shape, here in zip(shapes, (True, *given), strict=True) if here]

        def called(*z, given=given):
            rest = iter(z)
            return function(*(next(rest) if here else None for here in (True, *given)))

        yield f"{name}, {1 + sum(given)} of {len(shapes)} tensors {given}", called, kept


OPERATIONS = [
    *scaled(torch.addmm, ("beta", "alpha"), SQUARE, SQUARE, SQUARE),
    *scaled(torch.addmv, ("beta", "alpha"), ROW, SQUARE, ROW),
    *scaled(torch.addr, ("beta", "alpha"), SQUARE, ROW, ROW),
    *scaled(torch.addbmm, ("beta", "alpha"), SQUARE, STACK, STACK),
    *scaled(torch.baddbmm, ("beta", "alpha"), STACK, STACK, STACK),
    *scaled(torch.addcmul, ("value",), SQUARE, SQUARE, SQUARE),
    *scaled(torch.addcdiv, ("value",), SQUARE, SQUARE, SQUARE),
    *scaled(torch.add, ("alpha",), SQUARE, SQUARE),
    *scaled(torch.sub, ("alpha",), SQUARE, SQUARE),
    *scaled(torch.rsub, ("alpha",), SQUARE, SQUARE),
    *scaled(torch.nan_to_num, ("nan",), SQUARE),
    *(
        (f.__name__, f, (SQUARE, SQUARE))
        for f in (torch.atan2, torch.hypot, torch.logaddexp, torch.maximum, torch.ldexp, torch.copysign, torch.kron)
    ),
    *((f.__name__, f, (SQUARE, SQUARE)) for f in (torch.inner, torch.dist, torch.linalg.solve, torch.fmod)),
    ("index_add", lambda x, y: x.index_add(0, torch.tensor([1, 0, 2, 1]), y, alpha=0.5), (SQUARE, SQUARE)),
    ("index_copy", lambda x, y: x.index_copy(0, torch.tensor([1, 0]), y[:2]), (SQUARE, SQUARE)),
    ("scatter_reduce", lambda x, y: x.scatter_reduce(0, torch.zeros(4, 4).long(), y, "sum"), (SQUARE, SQUARE)),
    ("masked_scatter", lambda x, y: x.masked_scatter(torch.eye(4).bool(), y), (SQUARE, SQUARE)),
    ("masked_fill", lambda x, y: x.masked_fill(torch.eye(4).bool(), y.sum()), (SQUARE, SQUARE)),
    ("where", lambda x, y: torch.where(torch.eye(4).bool(), x, y), (SQUARE, SQUARE)),
    ("lerp", torch.lerp, (SQUARE, SQUARE, SQUARE)),
    ("cross", lambda x, y: torch.linalg.cross(x[:3], y[:3], dim=0), (SQUARE, SQUARE)),
    ("cat and stack", lambda x, y: torch.cat([torch.stack([x, y]), x[None]]), (SQUARE, SQUARE)),
    ("in place", lambda x, y: x.clone().addcmul_(y, y.detach(), value=0.5).baddbmm_(x, y, beta=0.5), (STACK, STACK)),
    *optional("linear", lambda x, b: functional.linear(x, torch.ones(4, 4).to(x), b), SQUARE, ROW),
    *optional("conv1d", lambda x, b: functional.conv1d(x, torch.ones(4, 4, 3).to(x), b), SIGNAL, ROW),
    ("conv2d", functional.conv2d, (IMAGE, (4, 4, 3, 3), ROW)),
    ("conv_transpose2d", functional.conv_transpose2d, (IMAGE, (4, 4, 3, 3), ROW)),
    *optional("bilinear", lambda x, b: functional.bilinear(x, x, torch.ones(*STACK).to(x), b), SQUARE, (3,)),
    *optional("group_norm", lambda x, w, b: functional.group_norm(x, 2, w, b), IMAGE, ROW, ROW),
    *optional("layer_norm", lambda x, w, b: functional.layer_norm(x, (4,), w, b), SQUARE, ROW, ROW),
    *optional("rms_norm", lambda x, w: functional.rms_norm(x, (4,), w), SQUARE, ROW),
    *optional("instance_norm", lambda x, w, b: functional.instance_norm(x, None, None, w, b), IMAGE, ROW, ROW),
    *optional(
        "batch_norm",
        lambda x, w, b: functional.batch_norm(x, torch.zeros(4).to(x), torch.ones(4).to(x), w, b),
        *(IMAGE, ROW, ROW),
    ),
    *optional("clamp", lambda x, low, high: x if low is high else torch.clamp(x, low, high), SQUARE, SQUARE, SQUARE),
    *optional("prelu", lambda x, w: functional.leaky_relu(x) if w is None else functional.prelu(x, w), SQUARE, ROW),
    *optional(
        "attention", lambda q, mask: functional.scaled_dot_product_attention(q, 2 * q, q.sin(), mask), STACK, SQUARE
    ),
]
CASES = [
    (f"{name}: {', '.join(map(str, moving))} of {len(shapes)} move", f, shapes, moving)
    for name, f, shapes in OPERATIONS
    for count in range(1, len(shapes) + 1)
    for moving in itertools.combinations(range(len(shapes)), count)
]


def judged(f, shapes, moving) -> str | None:
    """What is wrong with the recorded product, or that neither way knows it; None where it is the pass's."""
    z = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
    x, v, w = ([randn(*shapes[i], seed=seed + i) for i in moving] for seed in (0, 10, 20))

    def moved(*inputs):
        whole = [a.clone() for a in z]
        for i, a in zip(moving, inputs, strict=True):
            whole[i] = a
        return f(*whole)

    expected = push_forward(moved, x, w)[1]
    found = record(moved, x, v)[2](*w)
    if expected is None or found is None:
        zero = all(product is None or not product.any() for product in (expected, found))
        return None if zero else "one of the two is zero"
    return None if relative(found, expected) < 1e-12 or not (found - expected).any() else "another product"


def recordings(results) -> None:
    """Every case in turn, each announced before it is begun."""
    torch.set_num_threads(1)
    for name, *case in CASES:
        results.send((name, "begun"))
        try:
            results.send((name, judged(*case)))
        except Exception as error:
            results.send((name, f"{type(error).__name__}: {error}"))
    results.close()


@pytest.fixture(scope="module")
def found():
    """What became of every case, and of the process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=recordings, args=(sender,))
    process.start()
    sender.close()
    became = {}
    while True:
        try:
            name, what = receiver.recv()
        except EOFError:
            break
        became[name] = what
    process.join()
    for name in [name for name, what in became.items() if what == "begun"]:
        became[name] = f"died of {signal.Signals(-process.exitcode).name}"
    return became


def test_no_operation_kills_the_process_or_gives_another_product_where_an_argument_stands_still(found):
    assert {name: what for name, what in found.items() if what is not None} == {}
    assert len(found) == len({name for name, *_ in CASES}) == len(CASES)
