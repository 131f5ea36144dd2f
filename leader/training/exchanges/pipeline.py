"""One exchange over streams: each slice of the optimizer step is made as soon as its pieces are in.

Pieces of updates come up while others are still being computed; the new weights of a piece go down as soon as
all parts of the exchange have it. A step is a transaction: where a part has sent some pieces and does not
send the rest, the step begins anew without it, from what learners still hold, and ends in the same bits
as if it had not been there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from leader.aggregation.aggregate import Aggregate, Folded
from leader.aggregation.base import Contribution, Result
from leader.global_model.down_link import DownLink
from leader.state import RunState
from leader.training.exchanges.gradient_link import GradientLink, GradientLinks
from leader.training.server_step import ServerStep
from model.piece_files import PieceFiles
from protos import leader_pb2
from utils.errors import PayloadError
from utils.wire.framing import frames

_MOST_CHANGES = 3  # times that one learner may let an exchange begin anew by other bits of one part


#: A piece of the new weights: framed ModelChunk messages, none if there was no stream to send them to.
Slice = tuple[bytes, ...]


class Pipeline:
    """What one exchange has come to so far, and the streams that follow it.

    `fold` and `rest` do arithmetic, for one thread at a time; all else belongs to the event loop.
    """

    def __init__(
        self,
        round_: int,
        step: int,
        parts: Collection[str],
        aggregate: Aggregate,
        server_step: ServerStep,
        up: PieceFiles,
        down: DownLink,
        chunk_bytes: int,
    ) -> None:
        self.round = round_
        self.step = step
        self.attempt = 0
        self.parts = frozenset(parts)  # that a slice of the step is made of
        self.aggregate = aggregate
        self._server_step = server_step
        self._up = up
        self._down = down
        self._chunk_bytes = chunk_bytes
        self._slices: list[Slice] = []
        self._links: dict[GradientLink, set[str]] = {}  # and the work that came over each
        self._too_late: set[GradientLink] = set()  # links that came after slices that were not encoded
        self._changed: Counter[tuple[str, int]] = Counter()  # parts that came with other bits, and from whom

    # --- arithmetic ------------------------------------------------------------------------

    def fold(self, contribution: Contribution, number: int) -> tuple[Folded, list[Slice]]:
        """Add a piece to the sum, and make the slices that only waited for it.

        Raises PayloadError, LimitError or ValueRangeError; then nothing has changed.
        """
        values = self._up.decode(number, contribution.payload)
        folded = self.aggregate.fold(contribution, number, values)
        return folded, self._made((number,), self.parts) if folded is Folded.ADDED else []

    def rest(self, parts: Collection[str]) -> list[Slice]:
        """Make the slices of which all pieces are in, those of `parts`."""
        return self._made(self._numbers, parts)

    def finish(self) -> tuple[RunState, Result]:
        """The state after the step and what the exchange came to; all slices must be made."""
        result = self.aggregate.result(np.empty(0, np.float32))  # of each mean a slice has been made
        return self._server_step.finish(result), result

    def _made(self, numbers: Iterable[int], parts: Collection[str]) -> list[Slice]:
        waiting = (number for number in numbers if not self._server_step.made(number))
        return [self._make(number) for number in waiting if self.aggregate.ready(number, parts)]

    def _make(self, number: int) -> Slice:
        values = self._server_step.apply(number, self.aggregate.mean(number))
        file, public = self._down.encode(self._server_step.before, number, values)
        if public is not None:
            self._server_step.publish(number, public)
        if not self._links:
            return ()
        piece = leader_pb2.Piece(
            number=number, total_bytes=file.total_bytes, crc32=file.crc32, attempt=self.attempt
        )
        announced = leader_pb2.ModelChunk(piece=piece).SerializeToString()
        return (announced, *frames(file.header, file.body.data, self._chunk_bytes))

    @property
    def _numbers(self) -> range:
        """Of all pieces, last layers first, as learners make them."""
        return range(len(self._up.pieces) - 1, -1, -1)

    # --- streams ---------------------------------------------------------------------------

    def join(self, link: GradientLink, work_id: str) -> None:
        """A learner has begun to send its update over `link`: from now on it gets the new weights there.

        Raises StalledError for one that has not read the last ones yet.
        """
        if link not in self._links:
            link.check_read()
            if self.attempt:
                link.tell(self._redo())
            self._links[link] = set()
            if all(self._slices):
                for ready in self._slices:
                    link.weights(ready)
            else:
                self._too_late.add(link)
        self._links[link].add(work_id)

    def send(self, slices: Iterable[Slice]) -> None:
        """Let all streams have these slices."""
        for ready in slices:
            self._slices.append(ready)
            if not ready:
                self._too_late.update(self._links)
            for link in self._links.keys() - self._too_late:
                link.weights(ready)

    @property
    def followed(self) -> bool:
        """Whether any stream gets the new weights."""
        return bool(self._links)

    def begin_anew(self, parts: Collection[str]) -> None:
        """Drop what came in pieces, and go on with `parts` alone."""
        self.attempt += 1
        self.parts = frozenset(parts)
        self.aggregate.restart()
        self._server_step.restart()
        self._slices.clear()
        self._too_late.clear()
        for link in self._links:
            link.tell(self._redo())

    def note_change(self, part: str, learner: int) -> None:
        """A part came again with other bits; raises PayloadError if this learner has sent such too often."""
        self._changed[part, learner] += 1
        if self._changed[part, learner] > _MOST_CHANGES:
            raise PayloadError(
                f"the update of {part} came with other bits each time; send the same one again"
            )

    def end(self, version: int, counted: Collection[str]) -> None:
        """The exchange is over; `counted` are the ids of work that is in version `version`. 0: it was given up."""
        for link, sent in self._links.items():
            whole = 0 if link in self._too_late else version
            link.tell(_stepped(self.round, self.step, whole, sorted(sent.intersection(counted))))

    def _redo(self) -> bytes:
        redo = leader_pb2.Redo(round=self.round, step=self.step, attempt=self.attempt)
        return leader_pb2.ModelChunk(redo=redo).SerializeToString()


@dataclass
class PieceStreams:
    """What the streams of a run, which bring updates in pieces, have in common."""

    files: PieceFiles
    links: GradientLinks = field(default_factory=GradientLinks)
    open_now: Pipeline | None = None  # the exchange that takes pieces


def not_open(round_: int, step: int) -> bytes:
    """The answer to an update for an exchange that is not open."""
    return _stepped(round_, step, 0, [])


def _stepped(round_: int, step: int, version: int, counted: list[str]) -> bytes:
    stepped = leader_pb2.Stepped(round=round_, step=step, version=version, counted=counted)
    return leader_pb2.ModelChunk(stepped=stepped).SerializeToString()
