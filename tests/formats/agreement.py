"""What every loaded model must obey: its derivatives are those of its values."""

import torch
from torch import Tensor

from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.linalg.linearize import linearize

STEPS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3)


def derivatives_agree(
    predictor: NetworkPredictor, t: Tensor, scale: float = 1.0, steps: tuple[float, ...] = STEPS
) -> None:
    """Forward-mode derivatives in the model's own time and in x equal finite differences to 1e-3, in float64.

    Some networks compute parts of themselves in float32 whatever their weights are, so several steps, fractions of the
    whole range, are tried, each extrapolated from two differences, and the best one counts.
    """
    predictor = predictor.double()
    generator = torch.Generator().manual_seed(3)
    x = scale * torch.randn(len(t), *predictor.shape, dtype=torch.float64, generator=generator)
    told = predictor.clock(t)
    v = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    first, last = predictor.clock(torch.tensor([0.001, 1.0], dtype=torch.float64))

    def network(x: Tensor, told: Tensor) -> Tensor:
        return predictor.conditioned(x, t, told)

    def error(exact: Tensor, along, step: float) -> float:
        near, far = ((along(h) - along(-h)) / (2 * h) for h in (step, 2 * step))
        return float((exact - (4 * near - far) / 3).norm() / exact.norm())

    line = linearize(network, x, told, record=False)
    assert line.method == "forward mode"
    with torch.no_grad():
        for exact, along, unit in (
            (line.jvp(dt=torch.ones_like(told)), lambda h: network(x, told + h), float((last - first).abs())),
            (line.jvp(dx=v), lambda h: network(x + h * v, told), 10 * scale),
        ):
            assert exact.norm() > 0
            errors = [error(exact, along, step * unit) for step in steps]
            assert min(errors) <= 1e-3, errors
