"""Learning-rate schedules over a whole run, as a function of the fraction done."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from utils.errors import ConfigError

KINDS = ("constant", "cosine", "onecycle")


@dataclass(frozen=True)
class Schedule:
    """Learning rate at a fraction of the run.

    constant: `lr` throughout. cosine: linear warm-up, then half a cosine to zero (Loshchilov &
    Hutter 2017, eq. 5, one period). onecycle: linear up from lr/10, linear down to lr/100
    (after Smith & Topin 2018).
    """

    kind: str
    lr: float
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"train.schedule is {self.kind!r}; allowed: {', '.join(KINDS)}")

    def at(self, progress: float) -> float:
        """Learning rate when `progress` (0..1) of the run is done."""
        if self.kind == "constant":
            return self.lr
        low = 0.1 if self.kind == "onecycle" else 0.0
        if progress < self.warmup:
            return self.lr * (low + (1 - low) * progress / self.warmup)
        rest = (progress - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 1.0
        if self.kind == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
        return self.lr * (1 - 0.99 * min(rest, 1.0))


def carried(rates: Iterable[float], momentum: float, nesterov: bool) -> float:
    """How far steps of SGD at these learning rates carry a constant gradient of one, from no velocity.

    The sum of the rates without momentum; with it what FedNova (Wang et al. 2020, eq. 6) calls ||a||_1, with
    each step's own rate and momentum as torch.optim.SGD has it.
    """
    distances, velocity = [], 0.0
    for rate in rates:
        velocity = momentum * velocity + 1
        distances.append(rate * (1 + momentum * velocity if nesterov else velocity))
    return math.fsum(distances)
