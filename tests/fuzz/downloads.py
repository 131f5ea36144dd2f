"""What comes down an ExchangeGradients stream, and learners that listen to it, or don't."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence

from protos import leader_pb2
from tests.fuzz.channel import Context
from utils.wire.rpc import parse_down


class Download:
    """What came down a stream: slices of new weights, then what the step came to."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.slices: list[tuple[leader_pb2.Piece, bytes]] = []
        self.stepped: list[leader_pb2.Stepped] = []
        self.redone: list[leader_pb2.Redo] = []
        arriving, announced = bytearray(), leader_pb2.Piece()
        for message in messages:
            parsed = parse_down(message)
            if isinstance(parsed, memoryview):
                arriving += parsed
                if len(arriving) == announced.total_bytes:
                    self.slices.append((announced, bytes(arriving)))
                    arriving.clear()
                continue
            assert not arriving, "a slice of weights stops half way"
            if parsed.HasField("piece"):
                announced = parsed.piece
            elif parsed.HasField("redo"):
                self.redone.append(parsed.redo)
            else:
                self.stepped.append(parsed.stepped)
        for piece, file in self.slices:
            assert zlib.crc32(file) == piece.crc32


class Listener(Context):
    """A context that notes when the step is over."""

    def __init__(self, peer: str) -> None:
        super().__init__(peer)
        self.stepped = asyncio.Event()

    async def write(self, message: bytes) -> None:
        await super().write(message)
        parsed = parse_down(message)
        if isinstance(parsed, leader_pb2.ModelChunk) and parsed.HasField("stepped"):
            self.stepped.set()


class Deaf(Context):
    """The context of a learner that reads nothing."""

    async def write(self, message: bytes) -> None:
        await asyncio.Event().wait()
