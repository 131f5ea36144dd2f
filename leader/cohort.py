"""Who takes part in a round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.seeds import derive_seed


def choose_cohort(parts: Sequence[str], size: int, *, seed: int, round_: int) -> tuple[str, ...]:
    """`size` of the parts, drawn uniformly without replacement (all if 0), in sorted order.

    The draw depends on the seed, the round and the set of parts alone.
    """
    ordered = sorted(parts)
    if not 0 < size < len(ordered):
        return tuple(ordered)
    draw = np.random.Generator(np.random.PCG64(derive_seed(seed, "cohort", round_)))
    return tuple(ordered[i] for i in sorted(draw.permutation(len(ordered))[:size]))
