"""The best prediction under a shared clock, in closed form.

Sharing timesteps makes the best prediction an average over the block, weighed by p(t | x):
    eps^ = E_p[eps*_t],    J^ = E_p[J_t] - Cov_p(eps*_t, eps*_t / sigma_t).
"""

import itertools
import math

import torch
from torch import Tensor

from .clock import Shared
from .exact import ExactPredictor, weighted_covariance


class SharedOptimum(ExactPredictor):
    """The best a model can do that is told only the block of its timestep: E[eps | x, timestep in block].

    Within a block all its integer timesteps are equally likely beforehand, and x says more; from the clock's end on it
    is the exact predictor.

    Args:
        predictor: The exact predictor with a clock of its own time; that clock is not used.
        clock: The shared clock of an index.
    """

    times: Tensor
    log_weights: Tensor

    def __init__(self, predictor: ExactPredictor, clock: Shared):
        super().__init__(predictor.schedule, clock, predictor.shape)
        self.shared = clock
        if not clock.discrete:
            raise ValueError(
                f"got {clock}; a block has timesteps to average over only with an index clock, so give such a one"
            )
        self.predictor = predictor
        edges = [0, *map(round, clock.bounds[1:])]  # what lies before the first edge belongs to the first block
        blocks = [torch.arange(a, b, dtype=torch.float64, device="cpu") for a, b in itertools.pairwise(edges)]
        longest = max(map(len, blocks))
        # Shorter blocks are filled up with copies of their last timestep, which weigh nothing.
        filled = [torch.cat([k, k[-1:].expand(longest - len(k))]) for k in blocks]
        weighed = [
            torch.where(torch.arange(longest, device="cpu") < len(k), -math.log(len(k)), -math.inf) for k in blocks
        ]
        self.register_buffer("times", clock.time(torch.stack(filled)))
        self.register_buffer("log_weights", torch.stack(weighed).to(torch.float64))

    def _block(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x and the times of its block, one row per pair, and the log density of each.

        Outside the blocks all times are t, so that the average is the exact predictor.
        """
        clock = self.shared
        block = clock.block(clock.base(t))
        inside = (block < clock.blocks)[:, None]
        row = block.clamp(max=clock.blocks - 1)
        times = torch.where(inside, self.times.index_select(0, row), t[:, None])
        log_weights = torch.where(inside, self.log_weights.index_select(0, row), -math.log(times.shape[1]))
        each = x[:, None].expand(-1, times.shape[1], -1).reshape(-1, x.shape[-1]), times.reshape(-1)
        return *each, self.predictor._log_density(*each).reshape(times.shape) + log_weights

    def _noise(self, x, t):
        each_x, each_t, log = self._block(x, t)
        noise = self.predictor._noise(each_x, each_t).reshape(*log.shape, -1)
        return (log.softmax(-1)[..., None] * noise).sum(1)

    def _noise_rate(self, x, t):
        # Only from the clock's end on: inside the blocks the rate of the told time, which multiplies this, is 0.
        return self.predictor._noise_rate(x, t)

    def _noise_jacobian(self, x, t):
        each_x, each_t, log = self._block(x, t)
        noise = self.predictor._noise(each_x, each_t).reshape(*log.shape, -1)
        jacobian = self.predictor._noise_jacobian(each_x, each_t).reshape(*log.shape, x.shape[-1], x.shape[-1])
        _, sigma = self.schedule(each_t)
        w = log.softmax(-1)
        return torch.einsum("bk,bkij->bij", w, jacobian) - weighted_covariance(
            w, noise, noise / sigma.reshape(*log.shape, 1)
        )

    def _log_density(self, x, t):
        return self._block(x, t)[2].logsumexp(-1)

    def _draw(self, n, generator):
        return self.predictor._draw(n, generator)
