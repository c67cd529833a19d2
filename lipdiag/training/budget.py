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

    def wait(self, step: int) -> int:
        """Steps from this one to the next at which a panel can be afforded, a multiple of `every`."""
        return self.rounded(step, (self.spent + self.next) / self.share - self.trained)

    def pace(self, step: int) -> int:
        """Steps from one panel to the next in the long run."""
        return self.rounded(step, (self.price or 0) / self.share)

    def rounded(self, step: int, seconds: float) -> int:
        """The steps that are made in so many seconds, as the next multiple of `every`."""
        if self.share == 1 or step <= self.first or self.trained <= 0:
            return self.every
        return self.every * max(1, math.ceil(seconds * (step - self.first) / self.trained / self.every))

    def __str__(self) -> str:
        share = plain(100 * self.spent / max(self.trained, 1e-9))
        spent, trained = plain(self.spent), plain(self.trained)
        began = f", besides {plain(self.start)} s to begin with"
        return f"{self.panels} panels took {spent} s, {share} % of the training's {trained} s{began}"
