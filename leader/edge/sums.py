"""What an edge has added: which updates are in its sum, which wait to be judged, and what a parent gets of it.

No sockets and no clock. An update is added as soon as it is here, and kept until its parent has judged it: then it is
let go, or taken out of the sum again.

    add -> in the sum, waiting --counts--> in the sum --close--> given
                   |    \\--refused--> out again
                   \\--close without it--> aside --counts--> in the next sum, --refused--> let go
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.base import Contribution, Mergeable
from utils.errors import PayloadError
from utils.wire.payload import Payload

_EMPTY = np.empty(0, np.uint8)


class EdgeSum:
    """One exchange's sum at an edge, of updates by uid; contributions have that in `elsewhere`."""

    def __init__(self, begin: Callable[[], Mergeable]) -> None:
        """`begin` makes an empty sum."""
        self._begin = begin
        self._sum = begin()
        self._waiting: dict[bytes, Contribution] = {}  # in the sum, not judged
        self._aside: dict[bytes, Contribution] = {}  # not judged, and not in the sum
        self._counted: set[bytes] = set()  # in the sum

    @property
    def size(self) -> int:
        """Bytes of a sum."""
        return self._sum.sum_bytes

    def add(self, contribution: Contribution) -> None:
        """Take an update in, decoded; raises the WireError that it is refused with, and nothing has changed."""
        uid = _uid(contribution)
        self._sum.add(contribution)
        self._waiting[uid] = contribution

    def counts(self, uid: bytes) -> None:
        """The parent counts it."""
        if uid in self._waiting:
            del self._waiting[uid]
            self._counted.add(uid)
        elif uid in self._aside:
            self._sum.add(self._aside.pop(uid))
            self._counted.add(uid)

    def refused(self, uid: bytes) -> None:
        """The parent does not count it."""
        if uid in self._waiting:
            self._sum.withdraw(self._waiting.pop(uid))
        self._aside.pop(uid, None)

    def close(self, uids: Collection[bytes], below: Mapping[bytes, Contribution]) -> Closing:
        """The sum over exactly these, to which what is `below` is to be merged; another one begins.

        Raises PayloadError where it can't be made: the parent and this edge mean different things.
        """
        own = set(uids).difference(below)
        if not own <= self._counted | self._waiting.keys():
            raise PayloadError("the parent asks for updates that are not here")
        if not self._counted <= own:
            raise PayloadError("the parent leaves out updates that it has counted")
        for uid in [uid for uid in self._waiting if uid not in own]:
            self._aside[uid] = self._waiting.pop(uid)
            self._sum.withdraw(self._aside[uid])
        self._waiting.clear()  # what is asked for counts, and soon that is said too
        self._counted.clear()
        closing, self._sum = Closing(self._sum, below), self._begin()
        return closing


class Closing:
    """A sum that takes in those of edges below, and is then given to the parent."""

    def __init__(self, total: Mergeable, below: Mapping[bytes, Contribution]) -> None:
        self._sum = total
        self._below = below

    def merge(self, uids: Collection[bytes], weights: tuple[int, ...], data: NDArray[np.uint8]) -> None:
        """Add the sum of an edge below; raises PayloadError for one that can't be over these."""
        for uid in uids:
            self._sum.count(self._below[uid])
        parts = frozenset(self._below[uid].part for uid in uids)
        try:
            self._sum.merge(parts, weights, data)
        except PayloadError:
            self._sum.forget(parts)
            raise

    def given(self) -> tuple[tuple[int, ...], list[NDArray[np.generic]]]:
        """Weights and arrays of the whole."""
        return self._sum.summed()


def as_receipt(contribution: Contribution) -> Contribution:
    """The contribution without its values."""
    payload = contribution.payload
    return replace(contribution, payload=Payload(payload.manifest, _EMPTY, payload.crc32))


def _uid(contribution: Contribution) -> bytes:
    assert contribution.elsewhere is not None
    return contribution.elsewhere.uid
