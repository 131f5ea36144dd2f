"""The partitions of Flower's NIID baseline and NVFlare's examples, by their draws: of the same labels, the same parts.

`leader.data.partition` splits otherwise: its Dirichlet parts differ more in size (here one that has its even share
gets no more labels), and its parts of few classes are pieces of equal size, of which two may be of one class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leader.data.partition import Kind
from scripts.partition import Split
from utils.datasets import Dataset

PARTS = 10
SEED = 42  # the baseline's, whatever the seed of a run
NVFLARE_PARTS = 8
NVFLARE_SEED = 0  # likewise, of NumPy's old generator
_LEAST = 10  # examples of a part
_LABELS = 10

_Owners = NDArray[np.int64]  # (N,): the part of each example


def niid_split(data: Dataset, kind: Kind, classes: int | None) -> Split:
    """`data` in ten parts: iid, dirichlet (0.5) or of so many `classes` each."""
    rng = np.random.default_rng(SEED)
    if classes is not None:
        owners = _few_labels(data.labels, classes, rng)
    elif kind == "dirichlet":
        owners = _dirichlet(data.labels, 0.5, PARTS, rng)
    else:
        owners = np.empty(len(data), np.int64)
        for part, taken in enumerate(np.array_split(rng.choice(len(data), len(data), replace=False), PARTS)):
            owners[taken] = part
    return Split(data, kind, 0.5 if kind == "dirichlet" else None, classes, SEED, _parts(owners, PARTS))


def nvflare_split(data: Dataset, alpha: float) -> Split:
    """`data` in eight parts, by Dirichlet(`alpha`)."""
    owners = _dirichlet(data.labels, alpha, NVFLARE_PARTS, np.random.RandomState(NVFLARE_SEED))
    return Split(data, "dirichlet", alpha, None, NVFLARE_SEED, _parts(owners, NVFLARE_PARTS))


def _parts(owners: _Owners, parts: int) -> tuple[NDArray[np.int64], ...]:
    return tuple(np.flatnonzero(owners == part) for part in range(parts))


def _few_labels(labels: NDArray[np.int64], each: int, rng: np.random.Generator) -> _Owners:
    """Part i has label i and `each` - 1 drawn ones; those who have a label share its examples evenly."""
    held = []
    for part in range(PARTS):
        own = {part}
        while len(own) < each:
            own.add(int(rng.choice(PARTS, 1)[0]))
        held.append(own)
    owners = np.empty(len(labels), np.int64)
    for label in range(_LABELS):
        members = np.flatnonzero(labels == label)
        rng.shuffle(members)
        holders = [part for part in range(PARTS) if label in held[part]]
        for part, share in zip(holders, np.array_split(members, len(holders)), strict=True):
            owners[share] = part
    return owners


def _dirichlet(
    labels: NDArray[np.int64], alpha: float, parts: int, rng: np.random.Generator | np.random.RandomState
) -> _Owners:
    """Shares of each label by Dirichlet(alpha) among the parts that are below an even share; none nearly empty."""
    owners, sizes = np.empty(len(labels), np.int64), np.zeros(parts, np.int64)
    while sizes.min() < _LEAST:
        sizes[:] = 0
        for label in range(_LABELS):
            members = np.flatnonzero(labels == label)
            rng.shuffle(members)
            shares = rng.dirichlet(np.repeat(alpha, parts)) * (sizes < len(labels) / parts)
            cuts = (np.cumsum(shares / shares.sum()) * len(members)).astype(int)[:-1]
            for part, taken in enumerate(np.split(members, cuts)):
                owners[taken] = part
                sizes[part] += len(taken)
    return owners
