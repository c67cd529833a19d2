"""Whether a model answers at all, asked once before anything else is done with it, and what must be said of how."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch.nn.parameter import is_lazy

from ..breakdown import of_the_device
from ..design.arithmetic import Autocast, failure, few, middle, precisions
from ..design.plan import Plan, resolve_timesteps
from ..diffusion.predictor import NetworkPredictor, Predictor, RawOutput, device_of
from ..errors import CheckpointError, LipdiagError, UsageError
from ..files import shown
from ..linalg.linearize import ReverseError

IN_TIME = ("time_derivative", "trajectory_derivative", "modules")
"""Quantities that are derivatives in the timestep."""


def verify_weights(predictor: Predictor) -> None:
    """Refuse a model some of whose weights have no values.

    Raises:
        CheckpointError: With the first of them.
    """
    for path, weight in [*predictor.named_parameters(), *predictor.named_buffers()]:
        name = path.removeprefix("network.")
        if is_lazy(weight):
            raise CheckpointError(
                f"the network's {name} has no values yet, as a lazy module's until it is called: call the network "
                "once, load its weights, and measure it then"
            )
        if weight.is_meta:
            raise CheckpointError(
                f"the network's {name} is not in memory (device meta): it was offloaded, or never loaded; load the "
                "network whole, without device_map or cpu_offload, or put it back by "
                "accelerate.hooks.remove_hook_from_module(network, recurse=True)"
            )


def answered(predictor: Predictor, plan: Plan) -> tuple[Plan, list[str]]:
    """The plan as the model allows it, with notes, after a first question to it.

    Raises:
        UsageError: If a card was used before in a way that keeps its products from repeating their bits, as asked.
        CheckpointError: If it fails whatever it is asked, rounds by autocast inside itself, or was asked for what it
            does not have.
    """
    home = device_of(predictor)
    with Autocast(home) as autocast:
        error = failure(predictor, plan.torch_dtype)
    if error is not None:
        if of_the_device(error):
            raise error
        if "CUBLAS_WORKSPACE_CONFIG" in str(error):
            raise UsageError(
                "this process has made a product on the card before, without CUBLAS_WORKSPACE_CONFIG=:4096:8 in its "
                "environment, so that none of its products repeats its bits: set that before Python starts, or leave "
                "--deterministic out"
            ) from error
        batch = (few(predictor.shape), *predictor.shape)
        when = f"on a batch of shape {batch} in {plan.dtype}"
        raise CheckpointError(failing(error, when, predictor, plan)) from error
    if autocast.dtype is not None and plan.dtype != "float64":
        raise CheckpointError(
            f"the network switches autocast to {str(autocast.dtype).removeprefix('torch.')} on inside itself, and what "
            "it rounds has no derivative: measure it in float64, which autocast leaves alone (--dtype float64), or "
            "switch autocast off in it"
        )
    bare = predictor.predictor if isinstance(predictor, RawOutput) else predictor
    notes = []
    if len(kinds := precisions(bare)) > 1:
        notes.append(f"the network's weights are {names(kinds)} and stay so: numbers hold to the coarsest of these")
    if getattr(bare, "integers", None):
        plan, note = of_integers(predictor, plan)
        notes.append(note)
    return plan, notes


@contextmanager
def in_a_sentence(predictor: Predictor, plan: Plan) -> Iterator[None]:
    """Say in one sentence what a model raises that answers, and fails in a way of being asked that comes later.

    Raises:
        CheckpointError: In the place of whatever else is raised that does not speak of the device.
    """
    try:
        yield
    except LipdiagError:
        raise
    except ReverseError as error:
        raise CheckpointError(
            f"reverse mode, which Jacobians take, fails on this network with {shown(error)}; measure without them "
            "(--quantity time_derivative --quantity time_difference --quantity loss), or take out of it what has no "
            "such derivative: checkpoints with use_reentrant=True, writes in place, kernels for inference"
        ) from error
    except Exception as error:  # a stranger's network may raise anything
        if of_the_device(error):
            raise
        raise CheckpointError(failing(error, "when it is checked", predictor, plan)) from error


def failing(error: Exception, when: str, predictor: Predictor, plan: Plan) -> str:
    """That a network fails, what it says of it, and what to do."""
    if "legacy and new APIs" in str(error):
        return (
            f"the network fails {when}, since it reads an older setting of torch's precision, as "
            "torch.backends.cudnn.flags does, which torch refuses while the newer ones keep float32 whole: take that "
            "out of its forward pass"
        )
    return f"the network fails {when} with {type(error).__name__}: {shown(error)}; {remedy(predictor, plan)}"


def remedy(predictor: Predictor, plan: Plan) -> str:
    """What to do about a network that fails: it may want its timesteps as a column, or be of several precisions."""
    bare = predictor.predictor if isinstance(predictor, RawOutput) else predictor
    if not isinstance(bare, NetworkPredictor):
        return "check its shape, or see where with --debug"
    weight = next(bare.parameters(), torch.empty(0, device="cpu"))
    t = middle(bare, few(bare.shape)).to(weight.device)
    x = torch.zeros(len(t), *bare.shape, dtype=plan.torch_dtype, device=weight.device)
    with suppress(Exception), torch.no_grad():
        bare.network(x.long(), bare.clock(t).to(x.dtype), **bare.conditioning)
        return "it takes whole numbers as x: it is a model of tokens, and what is measured holds for continuous x"
    with suppress(Exception), torch.no_grad():
        bare.network(x, **bare.conditioning)
        return "it takes x and no timestep: it is no diffusion model, but a generator or a classifier"
    with suppress(Exception), torch.no_grad():
        y = bare.network(x, bare.clock(t).to(x.dtype)[:, None], **bare.conditioning)
        if isinstance(y, torch.Tensor) and y.shape == x.shape:
            return "it answers where the timesteps have shape (n, 1): wrap it, lambda x, t: network(x, t[:, None])"
    kinds = precisions(bare)
    if len(kinds) > 1:
        return f"its weights are {names(kinds)}, which only it can fit together: give it one of these throughout"
    return (
        "check --shape, --dtype and --conditioning (a tensor of leading dimension 1 for each further argument, such as "
        "class_labels), or see where with --debug"
    )


def names(kinds: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))


def of_integers(predictor: Predictor, plan: Plan) -> tuple[Plan, str]:
    """The plan without derivatives in a timestep that is looked up, and a note; what was asked for by name is refused.

    Raises:
        CheckpointError: If a derivative or a timestep between two integers was asked for.
    """
    why = "the network takes integer timesteps alone, to look them up"
    clock = predictor.clock.base
    times = torch.from_numpy(resolve_timesteps(plan.timesteps, predictor.clock))
    fractions = times[(times - times.round()).abs() > 1e-6].tolist()
    if plan.step is not None and plan.step != round(plan.step):
        fractions.append(plan.step)
    if fractions or not clock.discrete:
        what = f"{fractions[0]:g} is none" if fractions else f"a {clock.unit} is none"
        raise CheckpointError(f"{why}, and {what}: give --clock timesteps(N), and whole --timesteps and --step")
    lost = [name for name in plan.quantities if name in IN_TIME]
    if lost and plan.quantities != Plan().quantities:
        raise CheckpointError(
            f"{why}, so that it has no {' and no '.join(lost)}: measure the quotient, --quantity time_difference"
        )
    left = tuple(name for name in plan.quantities if name not in lost)
    return plan.replace(quantities=left), f"{why}: {' and '.join(lost)} is left out" if lost else why
