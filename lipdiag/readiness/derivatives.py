"""What must hold before numbers mean anything, checked on every model at a few points before it is measured.

A network may answer differently each time, round its timestep, mix its samples, stop gradients, or hide an operation
that differentiates wrongly; each of these would give numbers without an error. So, of what was asked for: its answers
must be consistent, derivatives must be those of finite differences on the network's own inputs (after the clock, so
that a zero which a shared clock causes is no failure), <u, J v> must equal <J^T u, v>, and a difference quotient must
hardly change where x hardly does.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..design.arithmetic import Seen
from ..diffusion.continuous import along
from ..diffusion.predictor import NetworkPredictor, Predictor, RawOutput
from ..errors import CheckpointError
from ..linalg.linearize import METHODS, Linearization, linearize
from ..quantities.catalogue import recorded
from ..quantities.modules import verify_method
from ..quantities.point import Point
from ..quantities.quantity import dot, norms
from .answer import IN_TIME
from .consistency import Company, companies
from .rounding import noise, verify_quotients

AGREEMENT = 0.05
"""Largest relative difference of a derivative from its finite-difference probe."""

STEPS = (1.0, 1e-1, 1e-2, 1e-3)
"""Steps of the probe, in timesteps; the best one counts, since curvature spoils long steps and rounding short ones."""

SHORT_STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
"""Steps of the probe in float64, where those leave a doubt."""

ADJOINT_GAP = {"forward mode": 1e-3, "double backward": 1e-3, "finite differences": 3e-2}
"""Largest relative |<u, J v> - <J^T u, v>| by the way J v was computed."""

COARSE_GAP = 3e-2
"""The same largest difference for a network that computes in half precision, or the like, inside itself."""

WITHOUT_JACOBIAN = "measure without the Jacobian: --quantity time_difference --quantity loss"


@dataclass
class Findings:
    """What the checks found that does not forbid measuring.

    Attributes:
        method: By which forward products are computed.
        notes: What a reader of the numbers has to know.
        probe_difference: The largest relative difference of a time derivative from finite differences.
        company: What a batch may hold.
    """

    method: str = "none needed"
    notes: list[str] = field(default_factory=list)
    probe_difference: float | None = None
    company: Company = field(default_factory=Company)

    def computed(self, line: Linearization) -> None:
        """Take note of the method by which a linearization came about; the last one tried works for all of them."""
        self.method = max(self.method, line.method, key=(Findings.method, *METHODS).index)
        note = f"derivatives by {line.method}, because forward mode failed: {line.refusals.get('forward mode')}"
        if line.method != "forward mode" and note not in self.notes:
            self.notes.append(note)


def check(
    make: Callable[[Sequence[float], range], Point],
    timesteps: Sequence[float],
    draws: range,
    every: Sequence[float] = (),
) -> Findings:
    """Check a predictor at a few timesteps on a few draws.

    Args:
        make: Timesteps, draws -> their point.
        timesteps: The first and the last among them, since a model may have a network for each part of the range.
        draws: At least two.
        every: Timesteps at which the rounding of difference quotients is looked at, where these are asked for.

    Raises:
        CheckpointError: If its output has another shape, is not finite, or a derivative cannot be trusted.
    """
    company, points, answers = companies(make, timesteps, draws)
    findings = Findings(company=company)
    if company.why:
        findings.notes.append(company.why)
    if not any(torch.isfinite(answer.here).flatten(1).all(1).any() for answer in answers):
        raise CheckpointError(
            f"the model's output is not finite at timestep {timesteps[0]:g}; "
            "check the weights, and the schedule and clock that `lipdiag inspect` shows"
        )
    asked = set(points[0].quantities)
    if "time_difference" in asked:
        more = [k for k in every if k not in timesteps]
        findings.notes += verify_quotients(points, answers, make, more, company)
    reverse = recorded(asked)
    timeless = True
    for point in points:
        if asked & {*IN_TIME}:
            timeless &= not check_time_derivative(point, findings)
        if reverse or asked & {"trajectory_derivative", "sensitivity", "modules_x", "flipd", "log_density"}:
            check_jacobian(point, findings, reverse)
    verify_method(asked, findings.method)
    if timeless and asked & {*IN_TIME}:
        findings.notes.append("the network does not depend on its timestep")
    return findings


def check_time_derivative(point: Point, findings: Findings) -> bool:
    """Compare the derivative in the network's own time with central differences of several steps.

    Returns:
        Whether the network depends on its time.
    """
    probe = probe_time(point.predictor, point.x, point.t, STEPS)
    findings.computed(probe.line)
    differences = probe.difference
    if differences.max() > AGREEMENT:
        differences = finely(point, lambda predictor, x: probe_time(predictor, x, point.t, SHORT_STEPS), differences)
        if differences.max() <= AGREEMENT:
            findings.notes.append(
                "the network has kinks in its timestep, as ReLUs make them: its derivative is that of float64 "
                f"differences to {float(differences.max()):.1g}, but {float(probe.difference.max()):.0%} from those "
                "over steps that float32 resolves; time_derivative holds between two kinks alone, time_difference "
                "across them"
            )
    worst = int(differences.argmax())
    findings.probe_difference = max(findings.probe_difference or 0.0, float(differences.max()))
    if not probe.exact.any() and probe.moved.max() > 0:
        raise CheckpointError(
            "the derivative of the network in its own timestep is exactly 0, yet its output changes by "
            f"{probe.moved.max():.3g} over one step: it rounds its timestep or cuts the gradient{inside(point)}; "
            "measure the quotient alone: --quantity time_difference --quantity loss"
        )
    if differences.max() > AGREEMENT:
        timestep = float(point.predictor.clock(point.t)[worst])
        raise CheckpointError(
            f"the derivative in the timestep by {probe.line.method} differs from finite differences by "
            f"{differences.max():.1%} at timestep {timestep:g} (at most {AGREEMENT:.0%} is allowed): an operation of "
            f"this network differentiates wrongly or rounds{inside(point)}; measure the quotient alone: --quantity "
            "time_difference --quantity loss"
        )
    return bool(probe.exact.any())


def check_jacobian(point: Point, findings: Findings, reverse: bool) -> None:
    """Products must be those of differences in x and, where reverse ones are asked for, adjoint to each other."""
    v = point.start.reshape(point.x.shape)
    probe = probe_space(point.predictor, point.x, point.t, v)
    findings.computed(probe.line)
    differences, moved = probe.difference, probe.moved
    if differences.max() > AGREEMENT:
        differences = finely(point, lambda predictor, x: probe_space(predictor, x, point.t, v), differences)
    coarse = differences.max() > AGREEMENT
    if coarse or not probe.exact.any():
        # What computes more coarsely than x is given shows its slope over longer steps alone, where its rounding weighs
        # less by as much as they are longer, and a wrong derivative does not.
        lengths = 0.1 * noise(point.predictor, point.x, point.t), 0.1 * norms(point.x)
        longer = in_space(point.predictor, point.x, point.t, v, lengths)
        far = probed(probe.line, probe.exact, longer, 3 * probe.error)
        differences, moved = torch.fmin(differences, far.difference), torch.fmax(moved, far.moved)
    worst = int(differences.argmax())
    if not probe.exact.any() and moved.max() > 0:
        raise CheckpointError(
            "the Jacobian product of the network along a random direction is exactly 0, yet its output changes with x: "
            f"it stops gradients, rounds x, or has an operation without a derivative{inside(point)}; {WITHOUT_JACOBIAN}"
        )
    if differences.max() > AGREEMENT:
        raise CheckpointError(
            f"the Jacobian product by {probe.line.method} differs from finite differences in x by "
            f"{probe.difference[worst]:.1%} at timestep {point.timestep[worst]:g}, where {AGREEMENT:.0%} is allowed: "
            "the network stops gradients in a part of it, rounds x, or has an operation that differentiates wrongly"
            f"{inside(point)}; {WITHOUT_JACOBIAN}"
        )
    if not reverse:
        return
    gaps, allowed = adjoint(probe, v), COARSE_GAP if coarse else ADJOINT_GAP[probe.line.method]
    if (apart := float(gaps.max())) <= allowed:
        return
    double = finely(point, lambda p, x: (q := probe_space(p, x, point.t, v))._replace(difference=adjoint(q, v)), gaps)
    if double.max() > allowed:
        raise CheckpointError(
            f"reverse Jacobian products disagree by {apart:.1%} with forward ones, which are those of differences: the "
            f"network stops gradients on their way back, or an operation of it has a wrong backward{inside(point)}; "
            f"{WITHOUT_JACOBIAN}"
        )
    findings.notes.append(
        f"Jacobian products hold {apart:.1%} of rounding or more: answer and x nearly cancel; try --dtype float64"
    )


class Probe(NamedTuple):
    """A derivative beside finite differences.

    Attributes:
        line: By which it was computed.
        exact: The derivative, float64.
        difference: For each pair the relative distance of the best of the steps from it, beyond what rounding explains.
        moved: For each pair the norm of the largest difference quotient.
        error: For each pair the error of answers which would explain the last quotient's distance.
    """

    line: Linearization
    exact: Tensor
    difference: Tensor
    moved: Tensor
    error: Tensor


def adjoint(probe: Probe, v: Tensor) -> Float[Tensor, " batch"]:
    """For each pair the relative distance of <J v, J v> from <J^T J v, v>; 0 where it is not a number."""
    image = probe.exact.to(probe.line.output.dtype)
    ahead, back = dot(image, image), dot(probe.line.vjp(image), v.to(image.dtype))
    return ((ahead - back).abs() / ahead.clamp_min(1e-300)).nan_to_num(0.0)


def probed(
    line: Linearization, exact: Tensor, quotients: Iterable[tuple[Tensor, Tensor]], error: Tensor | None = None
) -> Probe:
    """A derivative beside difference quotients, each with its step, until one agrees; a derivative of 0 beside all."""
    exact = exact.double()
    rounding = error = 16 * torch.finfo(line.output.dtype).eps * norms(line.output) if error is None else error
    best = torch.full_like(rounding, torch.inf)
    best[~norms(exact).isfinite()] = 0.0  # which is seen in the numbers themselves
    moved = torch.zeros_like(best)
    for quotient, step in quotients:
        size = torch.maximum(norms(exact), norms(quotient))
        distance = norms(quotient - exact)
        excess = (distance - rounding / step).clamp_min(0) / size.clamp_min(1e-300)
        error = distance * step
        # a step may leave the range on which the network is finite
        best = torch.fmin(best, torch.where(size == 0, 0.0, excess))
        moved = torch.fmax(moved, norms(quotient))
        if best.max() <= AGREEMENT and exact.any():
            break
    return Probe(line, exact, best, moved, error)


def probe_time(predictor: Predictor, x: Tensor, t: Tensor, steps: tuple[float, ...]) -> Probe:
    """The derivative in the network's own time, a timestep, beside central differences; none leaves its times."""
    base, told = predictor.clock.base, predictor.clock(t).detach()
    near = torch.where(t > 1e-8, (t - 1e-3).clamp_min(1e-9), t + 1e-3)  # no farther than t is from the data, if it is
    unit = (base(near) - base(t)).abs()
    if predictor.clock.discrete:
        unit = torch.ones_like(told)

    def network(x: Tensor, timestep: Tensor) -> Tensor:
        return predictor.conditioned(x, t, timestep)

    ends = base(torch.tensor([0.0, 1.0], dtype=t.dtype, device=t.device))

    def quotients() -> Iterator[tuple[Tensor, Tensor]]:
        for step in steps:
            later, earlier = (told + sign * step * unit for sign in (1, -1))
            later, earlier = (k.clamp(ends.min(), ends.max()).to(x.dtype).double() for k in (later, earlier))
            with torch.no_grad():
                moved = network(x, later).double() - network(x, earlier).double()
            yield moved / along((later - earlier) / unit, x), torch.full_like(unit, step)

    line = linearize(network, x, told, record=False)
    return probed(line, line.jvp(dt=unit), quotients())


def probe_space(predictor: Predictor, x: Tensor, t: Tensor, v: Tensor) -> Probe:
    """The derivative along v, of length 1, beside a central difference where truncation and rounding balance."""
    line = linearize(predictor, x, t, record=False)
    length = torch.finfo(x.dtype).eps ** (1 / 3) * noise(predictor, x, t)
    return probed(line, line.jvp(dx=v.to(x.dtype)), in_space(predictor, x, t, v, (length,)))


def in_space(
    predictor: Predictor, x: Tensor, t: Tensor, v: Tensor, lengths: tuple[Tensor, ...]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Central differences along v over steps of these lengths, each with the length."""
    for length in lengths:
        step = (along(length, x) * v).to(x.dtype)
        with torch.no_grad():
            moved = predictor(x + step, t).double() - predictor(x - step, t).double()
        yield moved / along(2 * length, x), length


def finely(point: Point, probe: Callable[[Predictor, Tensor], Probe], differences: Tensor) -> Tensor:
    """The differences, or those in float64 where that is better: over steps so short that few kinks lie within."""
    if point.x.dtype != torch.float32 or point.x.device.type == "mps":
        return differences
    try:
        return torch.fmin(differences, probe(copy.deepcopy(point.predictor).double(), point.x.double()).difference)
    except Exception:  # a network with float32 written into it, or that cannot be copied
        return differences


def inside(point: Point) -> str:
    """What the network does that cuts a gradient or rounds, to be named in brackets."""
    bare = point.predictor.predictor if isinstance(point.predictor, RawOutput) else point.predictor
    if not isinstance(bare, NetworkPredictor):
        return ""
    told = bare.clock(point.t).detach()
    with Seen() as seen, torch.enable_grad():
        bare.output(point.x, told)
    return f" (inside it: {', '.join(sorted(seen.names))})" if seen.names else ""
