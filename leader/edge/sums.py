"""What an edge has added: which updates are in its sum, which wait to be judged, and what a parent gets of it.

No sockets and no clock. An update is added as soon as it is here, and can be made again until its parent has judged it:
then it is let go, or taken out of the sum again. From `close` until the sum is given nothing else goes in.

    add -> in the sum, waiting --counts--> in the sum --close, given--> the parent's
                   |    \\--refused--> out again
                   \\--close without it--> aside --counts--> in the next sum, --refused--> let go
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.base import Contribution, Mergeable
from utils.errors import LimitError, NotReadyError, PayloadError, WireError

#: The update as it is added, the same each time; what it is made of takes less room.
Make = Callable[[], Contribution]


class EdgeSum:
    """One exchange's sum at an edge, of updates by uid; contributions have that in `elsewhere`."""

    def __init__(self, begin: Callable[[], Mergeable]) -> None:
        """`begin` makes an empty sum."""
        self._begin = begin
        self._sum = begin()
        self._waiting: dict[bytes, Make] = {}  # in the sum, not judged
        self._aside: dict[bytes, Make] = {}  # not in the sum
        self._due: set[bytes] = set()  # of these, what counts
        self._counted: set[bytes] = set()  # in the sum
        self._closing = 0  # attempt whose sum is to be given; 0 = none is

    @property
    def size(self) -> int:
        """Bytes of a sum."""
        return self._sum.sum_bytes

    def add(self, make: Make) -> Contribution:
        """Take an update in; raises the WireError that it is refused with, and nothing has changed.

        Updates that were sent again are in the sum as often, until the parent refuses all but one: where that leaves
        no room, NotReadyError sends the update elsewhere.
        """
        contribution = make()
        # What is being given may not change; an empty sum refuses the same.
        into, kept = (self._begin(), self._aside) if self._closing else (self._sum, self._waiting)
        try:
            into.add(contribution)
        except LimitError as error:
            if not kept:
                raise
            self._begin().add(contribution)  # an empty sum refuses what is too much by itself
            raise NotReadyError(
                f"no room beside updates that wait to be judged ({error}); go elsewhere"
            ) from None
        kept[uid_of(contribution)] = make
        return contribution

    def counts(self, uid: bytes) -> None:
        """The parent counts it."""
        if self._waiting.pop(uid, None):
            self._counted.add(uid)
        elif uid in self._aside:
            self._due.add(uid)
            self._add_due()

    def refused(self, uid: bytes) -> None:
        """The parent does not count it."""
        if make := self._waiting.pop(uid, None):
            self._sum.withdraw(make())
        self._aside.pop(uid, None)

    def close(self, attempt: int, asked: frozenset[bytes]) -> None:
        """The sum over exactly these is to be given, once it lacks none of them.

        What is asked for counts, and soon that is said too. Raises PayloadError where what counts is left out.
        """
        if self._closing and asked.isdisjoint(self._counted):
            self.given(self._closing)  # or it would be asked for again; the answer that says so is on its way
        if not self._counted <= asked:
            raise PayloadError("the parent leaves out updates that it has counted")
        self._closing = attempt
        for uid in [uid for uid in self._waiting if uid not in asked]:
            self._aside[uid] = self._waiting.pop(uid)
            self._sum.withdraw(self._aside[uid]())
        self._counted |= asked & self._waiting.keys()
        self._waiting = {}
        self._add(asked & self._aside.keys())

    def lacks(self, asked: frozenset[bytes]) -> frozenset[bytes]:
        """Those that are not in the sum; what is below must be merged."""
        return asked - self._counted

    def merge(
        self, below: Collection[Contribution], weights: tuple[int, ...], data: NDArray[np.uint8]
    ) -> None:
        """Add the sum of an edge below; raises the WireError that it is refused with, and nothing has changed."""
        parts = frozenset(one.part for one in below)
        try:
            for one in below:
                self._sum.count(one)
            self._sum.merge(parts, weights, data)
        except WireError:
            self._sum.forget(parts)
            raise
        self._counted.update(uid_of(one) for one in below)

    def summed(self) -> tuple[tuple[int, ...], list[NDArray[np.generic]]]:
        """Weights and arrays of the sum."""
        return self._sum.summed()

    def given(self, attempt: int) -> None:
        """The parent has the sum of this attempt; another one begins, unless it has already."""
        if attempt == self._closing:
            self._sum, self._counted, self._closing = self._begin(), set(), 0
            self._add_due()

    def _add_due(self) -> None:
        if not self._closing:
            self._add(self._due & self._aside.keys())

    def _add(self, uids: Collection[bytes]) -> None:
        """Add what is aside and counts."""
        for uid in uids:
            self._sum.add(self._aside.pop(uid)())
            self._counted.add(uid)
        self._due.difference_update(uids)


def uid_of(contribution: Contribution) -> bytes:
    """The uid of an update that is added at an edge."""
    assert contribution.elsewhere is not None
    return contribution.elsewhere.uid
