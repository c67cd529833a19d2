"""What must hold before numbers mean anything, checked on every model at a few points before it is measured.

A network may round its timestep, mix its samples, stop gradients, or hide an operation that differentiates wrongly;
each of these would give numbers without an error. So: one forward-mode derivative is compared with finite differences
on the network's own input (after the clock, so that a zero which a shared clock causes is no failure), one tangent in
half of the batch must leave the other half alone, and <u, J v> must equal <J^T u, v>.
"""

import copy
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.predictor import Predictor
from ..errors import CheckpointError
from ..linalg.linearize import Linearization, linearize
from .point import Point
from .quantity import QUANTITIES, dot, norms

AGREEMENT = 0.05
"""Largest relative difference of a derivative from its finite-difference probe."""

STEPS = (1.0, 1e-1, 1e-2, 1e-3)
"""Steps of the probe, in timesteps; the best one counts, since curvature spoils long steps and rounding short ones."""

SHORT_STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
"""Steps of the probe in float64, where those leave a doubt."""

ADJOINT_GAP = {"forward mode": 1e-3, "double backward": 1e-3, "finite differences": 3e-2}
"""Largest relative |<u, J v> - <J^T u, v>| by the way J v was computed."""


@dataclass
class Findings:
    """What the checks found that does not forbid measuring."""

    method: str = "none needed"
    notes: list[str] = field(default_factory=list)
    probe_difference: float | None = None


def check(point: Point) -> Findings:
    """Check a predictor at a few pairs; at least two, the first half at the same timestep or not.

    Raises:
        CheckpointError: If its output has another shape, is not finite, or a derivative cannot be trusted.
    """
    findings = Findings()
    with torch.no_grad():
        output = point.predictor(point.x, point.t)
    if output.shape != point.x.shape:
        raise CheckpointError(
            f"the model's output has shape {tuple(output.shape[1:])} for an input of shape {tuple(point.x.shape[1:])}; "
            f"a noise prediction has the shape of its input"
        )
    finite = torch.isfinite(output).flatten(1).all(1)
    if not finite.any():
        raise CheckpointError(
            f"the model's output is not finite at timestep {point.timestep[0].item():g}; "
            "check the weights, and the schedule and clock that `lipdiag inspect` shows"
        )
    asked = set(point.plan.quantities)
    if asked & {"time_derivative", "trajectory_derivative"}:
        check_time_derivative(point, findings)
    if any(QUANTITIES[name].needs for name in asked) or asked & {"trajectory_derivative", "sensitivity"}:
        check_jacobian(point, findings)
    return findings


def check_time_derivative(point: Point, findings: Findings) -> None:
    """Compare the derivative in the network's own time with central differences of several steps."""
    line, exact, differences, moved = probe_time(point.predictor, point.x, point.t, STEPS)
    findings.method = line.method
    if line.method != "forward mode":
        findings.notes.append(
            f"derivatives by {line.method}, because forward mode failed: {line.refusals['forward mode']}"
        )
    if differences.max() > AGREEMENT and point.x.dtype == torch.float32 and point.x.device.type != "mps":
        coarse, differences = float(differences.max()), torch.fmin(differences, probe_finely(point))
        if differences.max() <= AGREEMENT:
            findings.notes.append(
                "the network has kinks in its timestep, as ReLUs make them: its derivative is that of float64 "
                f"differences to {float(differences.max()):.1g}, but {coarse:.0%} from those over steps that float32 "
                "resolves; time_derivative holds between two kinks alone, time_difference across them"
            )
    worst = int(differences.argmax())
    findings.probe_difference = float(differences.max())
    if not exact.any() and moved.max() > 0:
        raise CheckpointError(
            "the derivative of the network in its own timestep is exactly 0, yet its output changes by "
            f"{moved.max():.3g} over one step: it rounds its timestep or cuts the gradient; measure the quotient "
            "alone: --quantity time_difference --quantity loss"
        )
    if not exact.any():
        findings.notes.append("the network does not depend on its timestep")
    if differences.max() > AGREEMENT:
        timestep = float(point.predictor.clock(point.t)[worst])
        raise CheckpointError(
            f"the derivative in the timestep by {line.method} differs from finite differences by "
            f"{differences.max():.1%} at timestep {timestep:g} (at most {AGREEMENT:.0%} is allowed): an operation of "
            "this network differentiates wrongly or rounds; measure the quotient alone: --quantity time_difference "
            "--quantity loss"
        )


def probe_time(
    predictor: Predictor, x: Tensor, t: Tensor, steps: tuple[float, ...]
) -> tuple[Linearization, Tensor, Tensor, Tensor]:
    """The derivative in the network's own time, how far the nearest difference is from it, and the largest difference.

    Returns:
        The linearization; its derivative a timestep; for each pair the relative distance of the best of the steps from
        it, beyond what rounding explains; for each pair the norm of the largest central difference.
    """
    told = predictor.clock(t).detach()
    near = torch.where(t > 1e-8, (t - 1e-3).clamp_min(1e-9), t + 1e-3)  # no farther than t is from the data, if it is
    unit = (predictor.clock.base(near) - predictor.clock.base(t)).abs()
    if predictor.clock.discrete:
        unit = torch.ones_like(told)

    def network(x: Tensor, timestep: Tensor) -> Tensor:
        return predictor.conditioned(x, t, timestep)

    line = linearize(network, x, told, record=False)
    exact = line.jvp(dt=unit).double()
    best = torch.full_like(told, torch.inf)
    rounding = 16 * torch.finfo(x.dtype).eps * norms(line.output)
    moved = torch.zeros_like(told)
    with torch.no_grad():
        for step in steps:
            later, earlier = ((told + sign * step * unit).to(x.dtype).double() for sign in (1, -1))
            distance = ((later - earlier) / unit).view(-1, *[1] * (x.ndim - 1))
            probe = (network(x, later).double() - network(x, earlier).double()) / distance
            size = torch.maximum(norms(exact), norms(probe))
            excess = (norms(probe - exact) - rounding / step).clamp_min(0) / size.clamp_min(1e-300)
            # a step may leave the range of times on which the network is finite
            best = torch.fmin(best, torch.where(size == 0, 0.0, excess))
            moved = torch.fmax(moved, norms(probe))
    return line, exact, best, moved


def probe_finely(point: Point) -> Tensor:
    """The differences again, over steps so short that few kinks lie within, which takes float64."""
    predictor = copy.deepcopy(point.predictor).double()
    try:
        return probe_time(predictor, point.x.double(), point.t, SHORT_STEPS)[2]
    except RuntimeError:  # a network with float32 written into it
        return torch.full_like(point.t, torch.inf)


def check_jacobian(point: Point, findings: Findings) -> None:
    """Samples must not see each other, and forward and reverse products must be adjoint."""
    line = linearize(point.predictor, point.x, point.t, record=False)
    findings.method = line.method
    half = point.x.shape[0] // 2
    v: Float[Tensor, batch * event] = point.start.reshape(point.x.shape).to(point.x.dtype).clone()
    v[half:] = 0
    image = line.jvp(dx=v)
    leak = norms(image[half:]).max() / norms(image[:half]).max().clamp_min(1e-300) if half else torch.zeros(())
    tolerance = 1e-6 if line.method != "finite differences" else 1e-2
    if leak > tolerance:
        raise CheckpointError(
            f"the model's samples see each other: a change in half of a batch moves the other half by {leak:.1%}; "
            "take out of it what joins samples: guidance, or batch normalisation that keeps no running statistics"
        )
    v = point.start.reshape(point.x.shape).to(point.x.dtype)
    image = line.jvp(dx=v)
    forward, reverse = dot(image, image), dot(line.vjp(image), v)
    gap = ((forward - reverse).abs() / forward.clamp_min(1e-300)).max()
    if gap > ADJOINT_GAP[line.method]:
        raise CheckpointError(
            f"forward and reverse Jacobian products disagree by {gap:.1%}: the model stops gradients (torch.no_grad, "
            "detach or .data inside it) or draws random numbers; measure without the Jacobian: "
            "--quantity time_difference"
        )
