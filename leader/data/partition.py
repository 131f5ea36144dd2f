"""Splits a dataset into parts: at random, skewed by label or by size, or by natural groups."""

from __future__ import annotations

import heapq
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from utils.errors import ConfigError

Kind = Literal["iid", "dirichlet", "classes", "quantity", "groups"]
_Owners = NDArray[np.int64]  # (N,): the part of each example


def partition(
    labels: NDArray[np.int64],
    parts: int,
    *,
    kind: Kind,
    alpha: float,
    seed: int,
    classes_per_shard: int = 2,
    groups: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], ...]:
    """Indices into `labels` (N,) for each of `parts` parts: sorted, none empty, every example in one part.

    - iid: a random split, sizes differ by at most 1.
    - dirichlet: the shares of the parts in each class are drawn from Dirichlet(alpha, ..., alpha), so a
      small alpha gives parts of few classes and uneven size (Yurochkin et al. 2019,
      https://arxiv.org/abs/1905.12022; Hsu et al. 2019, https://arxiv.org/abs/1909.06335).
    - classes: sorted by label, cut into parts * classes_per_shard equal pieces, and each part gets
      classes_per_shard of them at random (McMahan et al. 2017, section 3,
      https://arxiv.org/abs/1602.05629).
    - quantity: random labels; the sizes' shares are drawn from Dirichlet(alpha, ..., alpha) (Li et al. 2022,
      https://arxiv.org/abs/2102.02079).
    - groups: each of `groups` (N,) is a part, in order; fewer `parts` get whole groups each, 0 = one a group.

    The bits depend on the arguments alone, not on NumPy's release. Raises ConfigError for too few examples.
    """
    if kind == "groups":
        return _indices(_whole_groups(groups, parts))
    if not 1 <= parts <= len(labels):
        raise ConfigError(
            f"{len(labels)} examples can't be split into {parts} parts; "
            f"use 1 to {len(labels)} learners or more examples"
        )
    draws = Draws(seed)
    if kind == "iid":
        return _indices(_evenly(len(labels), parts, draws))
    if kind == "quantity":
        return _indices(_by_size(len(labels), parts, alpha, draws))
    if kind == "classes":
        return _indices(_pieces(labels, parts, classes_per_shard, draws))
    return _indices(_by_label(labels, parts, alpha, draws))


def _indices(owners: _Owners) -> tuple[NDArray[np.int64], ...]:
    # The sort is stable, so the indices of each part ascend.
    return tuple(np.split(np.argsort(owners, kind="stable"), np.cumsum(np.bincount(owners))[:-1]))


def _evenly(examples: int, parts: int, draws: Draws) -> _Owners:
    return draws.permutation(examples) % parts


def _by_size(examples: int, parts: int, alpha: float, draws: Draws) -> _Owners:
    # One example for each part first, so that none is empty; its place in the urns' order is random.
    rest = draws.urns(np.array([examples - parts]), parts, alpha)
    return np.concatenate([np.arange(parts), rest])[draws.permutation(examples)]


def _pieces(labels: NDArray[np.int64], parts: int, each: int, draws: Draws) -> _Owners:
    pieces = parts * each
    if pieces > len(labels):
        raise ConfigError(
            f"{len(labels)} examples can't be cut into {parts} x {each} pieces; "
            "use fewer parts or a smaller data.classes_per_shard"
        )
    shuffled = draws.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    owners = np.empty(len(labels), np.int64)
    owners[by_label] = (draws.permutation(pieces) % parts)[np.arange(len(labels)) * pieces // len(labels)]
    return owners


def _by_label(labels: NDArray[np.int64], parts: int, alpha: float, draws: Draws) -> _Owners:
    sizes = np.unique(labels, return_counts=True)[1]
    owners = np.empty(len(labels), np.int64)
    owners[np.argsort(labels, kind="stable")] = draws.urns(sizes, parts, alpha)
    return _without_empty(owners, parts, draws)


def _without_empty(owners: _Owners, parts: int, draws: Draws) -> _Owners:
    """`owners` with one example moved to each empty part: a random one of the part that then has most."""
    owners, sizes = owners.copy(), np.bincount(owners, minlength=parts)
    shuffled = draws.permutation(len(owners))
    members = shuffled[np.argsort(owners[shuffled], kind="stable")]  # part after part
    starts = np.cumsum(sizes) - sizes
    largest = [(-size, part) for part, size in enumerate(sizes.tolist())]
    heapq.heapify(largest)
    for empty in np.flatnonzero(sizes == 0):
        size, donor = largest[0]
        owners[members[starts[donor] - size - 1]] = empty
        heapq.heapreplace(largest, (size + 1, donor))
    return owners


def _whole_groups(groups: NDArray[np.int64] | None, parts: int) -> _Owners:
    """Each group is a part; where there are more groups than parts, the largest go to the smallest first."""
    if groups is None or len(groups) == 0:
        raise ConfigError(
            "the data has no groups to split it by; partition=groups needs a folder with "
            "GROUP/CLASS/IMAGE.png in it, such as clinic-1/healthy/1.png, clinic-2/healthy/1.png"
        )
    present, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if not 0 <= parts <= len(present):
        raise ConfigError(
            f"{len(present)} groups can't fill {parts} parts, as a group is never split; "
            f"use at most {len(present)} (data.shards=0: one a group)"
        )
    if parts in (0, len(present)):
        return group_of
    part_of = np.empty(len(present), np.int64)
    smallest = [(0, part) for part in range(parts)]
    for group in np.argsort(-sizes, kind="stable"):
        size, part = smallest[0]
        part_of[group] = part
        heapq.heapreplace(smallest, (size + int(sizes[group]), part))
    return part_of[group_of]


class Draws:
    """Choices from the raw 64-bit numbers of PCG64, which NumPy keeps the same for ever.

    Nothing but comparisons and IEEE arithmetic is done with them: no logarithm or power, whose last
    bit differs between libraries.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def permutation(self, count: int) -> NDArray[np.int64]:
        """0..count-1 in random order."""
        return np.argsort(self._bits.random_raw(count), kind="stable")

    def below(self, bound: int | NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """`count` integers, each from 0 to its `bound` - 1."""
        return (self._bits.random_raw(count) % np.asarray(bound, np.uint64)).astype(np.int64)

    def urns(self, sizes: NDArray[np.int64], parts: int, alpha: float) -> NDArray[np.int64]:
        """A part for each of `sizes.sum()` examples, shares within each run of `sizes` by Dirichlet(alpha).

        Pólya's urn (Blackwell and MacQueen 1973, https://doi.org/10.1214/aos/1176342372): an example with n
        before it in its run takes the part of one of them with probability n / (n + parts * alpha), else any
        part. That is the same as to draw the shares of the parts from Dirichlet(alpha, ..., alpha) and then a
        part for each example by these shares, in any order; and it works for any alpha > 0, where gamma
        variates would underflow.
        """
        place = np.arange(sizes.sum())
        before = place - np.repeat(np.cumsum(sizes) - sizes, sizes)
        unit = ((self._bits.random_raw(len(place)) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        with np.errstate(over="ignore"):  # infinity says "never" just as well
            fresh = unit * (before / (parts * alpha)) < 1 - unit
        choice = self.below(parts, len(place))
        copied = place - 1 - self.below(np.maximum(before, 1), len(place))
        source = np.where(fresh, place, copied)
        # Whoever is copied may be a copy too: each pass doubles the steps towards the first of the chain.
        while not np.array_equal(source, further := source[source]):
            source = further
        return choice[source]
