"""How often a panel can be measured, if it is to take no more than a share of a training's time."""

import math
import time
from dataclasses import dataclass, field

from ..printing import plain

MARGIN = 1.25


@dataclass
class Budget:
    """The time of a training, and what measuring took of it.

    Attributes:
        every: Steps from one panel to the next, at least.
        share: Of the training's time that panels may take; 1 for as much as they like.
        first: The step after which the clock was started.
        price: Of the next panel, in seconds; None where it is not known.
        start: Seconds it took to find that out, before the clock was started.
        began: When that was.
        spent: Seconds that panels took.
        panels: How many were measured.
    """

    every: int
    share: float
    first: int
    price: float | None = None
    start: float = 0.0
    began: float = field(default_factory=lambda: time.monotonic())
    spent: float = 0.0
    panels: int = 0

    @property
    def trained(self) -> float:
        """Seconds that the loop had for itself."""
        return time.monotonic() - self.began - self.spent

    @property
    def next(self) -> float:
        """Seconds that are put aside for the next panel, which may take longer than the one before."""
        return MARGIN * (self.price or 0)

    @property
    def affordable(self) -> bool:
        """Whether another panel keeps to the share."""
        return self.share == 1 or self.spent + self.next <= self.share * self.trained

    def due(self, step: int) -> int:
        """The step after this one at which a panel can be afforded, a multiple of `every`."""
        needed = self.steps(step, (self.spent + self.next) / self.share - self.trained)
        return self.every * max(step // self.every + 1, math.ceil((step + needed) / self.every))

    def pace(self, step: int) -> int:
        """Steps from one panel to the next in the long run."""
        return self.every * max(1, math.ceil(self.steps(step, (self.price or 0) / self.share) / self.every))

    def steps(self, step: int, seconds: float) -> float:
        """The steps that are made in so many seconds; none where that does not matter, or is not known yet."""
        if self.share == 1 or step <= self.first or self.trained <= 0:
            return 0
        return seconds * (step - self.first) / self.trained

    def __str__(self) -> str:
        share = plain(100 * self.spent / max(self.trained, 1e-9))
        spent, trained = plain(self.spent), plain(self.trained)
        began = f", besides {plain(self.start)} s to begin with"
        return f"{self.panels} panels took {spent} s, {share} % of the training's {trained} s{began}"
