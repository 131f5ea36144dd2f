"""A pipelined step as it must be: worked out from what was taken, without any code that adds or steps."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum, auto

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from leader.rounds.protocol import Reopen, RoundEvent
from tests.fuzz.files import LAYOUT
from tests.fuzz.oracle import ExpectedSum


class Added(Enum):
    """What became of an update, or of a piece of one."""

    COUNTED = auto()  # all of the update is in the sum
    WAITING = auto()  # more pieces are to come, or this one was of no use
    ANEW = auto()  # all of it is in the sum, which has begun anew for it
    DROPPED = auto()  # the sum has begun anew, without it

    @classmethod
    def of(cls, event: RoundEvent | None, *, whole: bool) -> Added:
        """What the round machine is told says the same."""
        match event:
            case Reopen():
                return cls.ANEW if whole else cls.DROPPED
            case None:
                return cls.WAITING
            case _:
                return cls.COUNTED


class ExpectedStep:
    """What one exchange has come to: whole updates, and updates in `count` pieces, by work id.

    `plain` makes the float32 file of a piece of an encoded one.

    Each `take` says what must have become of the update or piece.
    """

    def __init__(self, fraction_bits: int, count: int, plain: Callable[[int, bytes], bytes]) -> None:
        self.attempt = 0
        self._fraction_bits = fraction_bits
        self._count = count
        self._plain = plain
        self._whole: dict[str, tuple[int, bytes]] = {}  # weight, file
        self._weights: dict[str, int] = {}  # of those that come in pieces
        self._pieces: dict[str, dict[int, bytes]] = {}  # their files by number

    def weight(self, work_id: str) -> int | None:
        """Of what is there of an update in pieces; None if nothing is."""
        return self._weights.get(work_id)

    def pieces(self, work_id: str) -> Collection[int]:
        """Numbers of the pieces of an update that are there."""
        return self._pieces.get(work_id, {}).keys()

    def complete(self, work_id: str) -> bool:
        """Whether all of an update is there."""
        return work_id in self._whole or len(self.pieces(work_id)) == self._count

    def take_whole(self, work_id: str, weight: int, file: bytes) -> Added:
        """Take a whole update; pieces of it that are there make the step begin anew."""
        self._whole[work_id] = (weight, file)
        return self._begin_anew(Added.ANEW) if work_id in self._pieces else Added.COUNTED

    def take_piece(self, work_id: str, weight: int, number: int, attempt: int, file: bytes) -> Added:
        """Take a piece; one of another attempt is ignored, one that differs makes the step begin anew."""
        if attempt != self.attempt:
            return Added.WAITING
        same_weight = self._weights.get(work_id, weight) == weight
        if not same_weight or self._pieces.get(work_id, {}).get(number, file) != file:
            return self._begin_anew(Added.DROPPED)
        self._weights[work_id] = weight
        self._pieces.setdefault(work_id, {})[number] = file
        return Added.COUNTED if self.complete(work_id) else Added.WAITING

    def mean(self) -> NDArray[np.float32]:
        """The weighted mean of all that is there, (total,); no update may be there in part."""
        total = ExpectedSum(self._fraction_bits)
        for weight, file in self._whole.values():
            total.add(file, weight)
        for work_id, pieces in self._pieces.items():
            assert len(pieces) == self._count
            parts: dict[str, list[NDArray[np.float32]]] = {}  # of tensors, which may lie in several pieces
            for number, file in sorted(pieces.items()):
                for name, part in safetensors.numpy.load(self._plain(number, file)).items():
                    parts.setdefault(name, []).append(part.ravel())
            assert parts.keys() == {entry.name for entry in LAYOUT.entries}
            arrays = {name: np.concatenate(own) for name, own in parts.items()}
            total.add(safetensors.numpy.save(arrays), self._weights[work_id])
        return total.mean()

    def _begin_anew(self, added: Added) -> Added:
        self.attempt += 1
        self._weights.clear()
        self._pieces.clear()
        return added
