"""Splits a dataset into parts: evenly at random, or skewed by label."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from utils.errors import ConfigError


def partition(
    labels: NDArray[np.int64], parts: int, *, kind: Literal["iid", "dirichlet"], alpha: float, seed: int
) -> tuple[NDArray[np.int64], ...]:
    """Indices into `labels` (N,) for each of `parts` parts: sorted, none empty, every example in one part.

    iid: a random split, sizes differ by at most 1. dirichlet: for each class the shares of the parts are
    drawn from Dirichlet(alpha, ..., alpha), so a small alpha gives parts of few classes and uneven size
    (Yurochkin et al. 2019, https://arxiv.org/abs/1905.12022; Hsu et al. 2019,
    https://arxiv.org/abs/1909.06335). `alpha` has no meaning for iid.
    Raises ConfigError when there are more parts than examples.
    """
    if not 1 <= parts <= len(labels):
        raise ConfigError(
            f"{len(labels)} examples can't be split into {parts} parts; "
            f"use 1 to {len(labels)} learners or more examples"
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    if kind == "iid":
        return tuple(np.sort(part) for part in np.array_split(generator.permutation(len(labels)), parts))
    return _by_label(labels, parts, alpha, generator)


def _by_label(
    labels: NDArray[np.int64], parts: int, alpha: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], ...]:
    members = [generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    shares = generator.dirichlet(np.full(parts, alpha), size=len(members))  # (classes, parts)
    sizes = np.array([len(member) for member in members])
    edges = np.rint(np.cumsum(shares, axis=1) * sizes[:, None]).astype(np.int64)
    edges[:, -1] = sizes
    counts = _without_empty(np.diff(np.minimum(edges, sizes[:, None]), axis=1, prepend=0))
    pieces = [np.split(member, np.cumsum(row)[:-1]) for member, row in zip(members, counts, strict=True)]
    return tuple(np.sort(np.concatenate(part)) for part in zip(*pieces, strict=True))


def _without_empty(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """`counts` (classes, parts) with one example moved to each empty part.

    It comes from the class that the part with most examples has most of, so that the skew stays.
    """
    counts, totals = counts.copy(), counts.sum(axis=0)
    for empty in np.flatnonzero(totals == 0):
        donor = totals.argmax()
        label = counts[:, donor].argmax()
        counts[label, donor] -= 1
        counts[label, empty] += 1
        totals[donor] -= 1
        totals[empty] += 1
    return counts
