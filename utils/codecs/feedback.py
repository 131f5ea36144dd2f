"""Error feedback: what an encoding loses is kept, and added to the next values."""

from __future__ import annotations

import numpy as np

from utils.vector import Vector

#: Sums are held to this magnitude, far beyond any useful value, so that a run that diverges gives large
#: numbers, which the leader refuses, and neither infinities nor NaN.
LIMIT = 2.0**96


def add(kept: Vector, values: Vector) -> Vector:
    """kept + values, (n,) float32, new memory, with magnitudes of at most LIMIT; `kept` must be so too."""
    total = kept + values
    return np.clip(total, -LIMIT, LIMIT, out=total)
