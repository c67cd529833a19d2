"""What every loaded model must obey: its derivatives are those of its values."""

import torch
from torch import Tensor

from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.linalg.linearize import linearize


def derivatives_agree(predictor: NetworkPredictor, t: Tensor, scale: float = 1.0, fraction: float = 1e-4) -> None:
    """Forward-mode derivatives in the model's own time and in x equal central differences to 1e-3, in float64.

    Networks embed their time in float32 whatever their weights are, so its step is a fraction of the whole range, and
    two steps are extrapolated.
    """
    predictor = predictor.double()
    generator = torch.Generator().manual_seed(3)
    x = scale * torch.randn(len(t), *predictor.shape, dtype=torch.float64, generator=generator)
    told = predictor.clock(t)
    v = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    ends = predictor.clock(torch.tensor([0.001, 1.0], dtype=torch.float64))
    step = fraction * float((ends[1] - ends[0]).abs())

    def network(x: Tensor, told: Tensor) -> Tensor:
        return predictor.conditioned(x, t, told)

    line = linearize(network, x, told, record=False)
    assert line.method == "forward mode"
    with torch.no_grad():
        near, far = ((network(x, told + h) - network(x, told - h)) / (2 * h) for h in (step, 2 * step))
        in_time = (4 * near - far) / 3
        in_x = (network(x + 1e-5 * v, told) - network(x - 1e-5 * v, told)) / 2e-5
    for exact, probe in ((line.jvp(dt=torch.ones_like(told)), in_time), (line.jvp(dx=v), in_x)):
        assert exact.norm() > 0
        assert (exact - probe).norm() <= 1e-3 * exact.norm()
