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
    # NumPy keeps the raw draws of a bit generator the same for ever, but not Generator.permutation.
    draws = np.random.PCG64(derive_seed(seed, "cohort", round_)).random_raw(len(ordered))
    return tuple(ordered[i] for i in sorted(np.argsort(draws, kind="stable")[:size]))
