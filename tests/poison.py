"""Attacks to test robust rules against: what malicious learners send, or train on.

An attack on updates takes `own`, the (P,) float32 update that its learner would have sent honestly,
`honest`, the (m, P) such updates of all attackers together (they collude, and see no one else's),
and a generator. It gives the (P,) float32 update to send instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from utils.vector import Vector

Attack = Callable[[Vector, NDArray[np.float32], np.random.Generator], Vector]


@dataclass(frozen=True)
class SignFlip:
    """The honest update turned round (Li et al. 2019, "RSA", https://arxiv.org/abs/1811.03761)."""

    scale: float = 1.0

    def __call__(self, own: Vector, honest: NDArray[np.float32], rng: np.random.Generator) -> Vector:
        """-scale times the learner's own update."""
        return (own * np.float32(-self.scale)).astype(np.float32)


@dataclass(frozen=True)
class Scaled:
    """The honest update boosted to outweigh all others, which is how model replacement gets its way.

    Bagdasaryan et al. 2018, "How To Backdoor Federated Learning", https://arxiv.org/abs/1807.00459.
    """

    scale: float = 100.0

    def __call__(self, own: Vector, honest: NDArray[np.float32], rng: np.random.Generator) -> Vector:
        """`scale` times the learner's own update."""
        return (own * np.float32(self.scale)).astype(np.float32)


@dataclass(frozen=True)
class Gaussian:
    """Noise in place of the update (Blanchard et al. 2017, "Machine Learning with Adversaries", section 5)."""

    deviation: float = 200.0

    def __call__(self, own: Vector, honest: NDArray[np.float32], rng: np.random.Generator) -> Vector:
        """Normal values of mean 0."""
        return (self.deviation * rng.standard_normal(own.size)).astype(np.float32)


@dataclass(frozen=True)
class ALittleIsEnough:
    """A shift small enough to hide in the spread of the honest (Baruch et al. 2019, Algorithm 3).

    Each coordinate is mu - z sigma over the colluders' own honest updates. With n learners and m
    attackers, s = floor(n/2 + 1) - m honest ones must lie beyond the shift for attackers to be the
    majority: z is the standard normal quantile of (n - m - s) / (n - m).
    https://arxiv.org/abs/1902.06156
    """

    learners: int  # n: all that take part, attackers among them

    def __call__(self, own: Vector, honest: NDArray[np.float32], rng: np.random.Generator) -> Vector:
        """The same update for every colluder."""
        wide = honest.astype(np.float64)
        shifted: Vector = (wide.mean(axis=0) - self.shift(len(honest)) * wide.std(axis=0)).astype(np.float32)
        return shifted

    def shift(self, attackers: int) -> float:
        """z, in standard deviations, for so many attackers."""
        honest = self.learners - attackers
        supporters = self.learners // 2 + 1 - attackers
        return NormalDist().inv_cdf((honest - supporters) / honest)


def flip_labels(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Labels (N,) turned to classes - 1 - y: an attack on the data, the training on it is honest.

    Fang et al. 2020, "Local Model Poisoning Attacks", https://arxiv.org/abs/1911.11815; Tolpegin et al.
    2020, "Data Poisoning Attacks Against Federated Learning Systems", https://arxiv.org/abs/2007.08432.
    """
    return classes - 1 - labels
