"""Model versions: encoded once, served to every learner from the same buffers."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from leader.condition import Signal
from model.layout import Layout
from model.weights_file import model_header
from utils.codecs.files import File
from utils.errors import LateUpdateError, NotReadyError
from utils.wire.framing import frames
from utils.wire.rpc import INLINE_BYTES


@dataclass(frozen=True, eq=False)
class Change:
    """What a learner that has version `base` gets in place of the next one."""

    base: int
    messages: tuple[bytes, ...]  # framed ModelChunk messages


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """One state of the global model; encoded when it is first asked for, once for everybody."""

    number: int  # opaque: equal numbers mean equal weights
    file: File
    chunk_bytes: int
    change: Change | None = None

    @cached_property
    def messages(self) -> tuple[bytes, ...]:
        """Framed ModelChunk messages of the whole model."""
        return tuple(frames(self.file.header, self.file.body.data, self.chunk_bytes))

    @cached_property
    def inline(self) -> bytes:
        """The file of the whole model if it is small enough to go with work orders, and no change goes in its place."""
        small = self.change is None and self.file.total_bytes <= INLINE_BYTES
        return self.file.header + self.file.body.tobytes() if small else b""

    def prepared(self) -> ModelVersion:
        """This version, encoded now and not on the event loop of who asks first."""
        _ = self.messages
        return self

    def messages_for(self, have: int | None) -> tuple[bytes, ...]:
        """What to send to a learner that has version `have`."""
        return self.change.messages if self.change is not None and self.change.base == have else self.messages


def next_version(number: int, digest: str) -> int:
    """The version after `number` when an exchange with this digest is applied to it."""
    return int.from_bytes(hashlib.sha256(f"{number}:{digest}".encode()).digest()[:8]) >> 1


class VersionStore:
    """The version that is served now, and `older` ones: in asynchronous runs work goes on from them.

    Without any the one before the newest goes on to those that are downloading it, and its memory with them.
    """

    def __init__(self, layout: Layout, chunk_bytes: int, older: int = 0) -> None:
        self._layout = layout
        self._chunk_bytes = chunk_bytes
        self._serves_old = older > 0
        self._most = older + 1
        self._kept: deque[ModelVersion] = deque()  # newest last
        self._going: Callable[[], ModelVersion | None] = lambda: None
        self.changed = Signal()

    def encode(
        self,
        number: int,
        vector: NDArray[np.float32],
        control: NDArray[np.float32] | None = None,
        change: tuple[int, File] | None = None,
    ) -> ModelVersion:
        """The version, with SCAFFOLD's control variate (P,) if given; any thread may call it.

        `change` is the file that makes it of another version, and that one's number.
        """
        metadata = {"format": "pt", "version": str(number)}
        header = model_header(self._layout, metadata, control=control is not None)
        values = vector if control is None else np.concatenate([vector, control])
        file = File(header, np.ascontiguousarray(values).view(np.uint8))
        return ModelVersion(number, file, self._chunk_bytes, self._change(change))

    def _change(self, change: tuple[int, File] | None) -> Change | None:
        if change is None:
            return None
        base, file = change
        return Change(base, tuple(frames(file.header, file.body.data, self._chunk_bytes)))

    def publish(self, version: ModelVersion) -> None:
        """Serve `version` from now on."""
        self._kept.append(version)
        while len(self._kept) > self._most:
            gone = self._kept.popleft()
            self._going = self._going if self._serves_old else ref(gone)
        self.changed.notify()

    def recall(self, version: ModelVersion, most_bytes: int) -> None:
        """Serve one that is older than all; beyond the usual number only if they come to `most_bytes` at most.

        At a restart much may start from older ones, and learners may have lost them.
        """
        together = version.file.body.nbytes * (len(self._kept) + 1)
        if len(self._kept) < self._most or together <= most_bytes:
            self._kept.appendleft(version)

    @property
    def number(self) -> int | None:
        """Number of the version served now."""
        return self._kept[-1].number if self._kept else None

    def get(self, number: int | None) -> ModelVersion:
        """The version asked for, or the newest; raises NotReadyError or LateUpdateError."""
        if not self._kept:
            raise NotReadyError("the model is not ready yet; try again")
        if number is None:
            return self._kept[-1]
        for version in self._kept if self._serves_old else (self._kept[-1],):
            if version.number == number:
                return version
        raise LateUpdateError(f"model version {number} is no longer served; fetch new work")

    def stream(self, version: ModelVersion, have: int | None = None) -> Iterator[bytes]:
        """The messages of `version` for a learner that has version `have`.

        Raises LateUpdateError once it is no longer kept: a slow learner thus keeps nothing in memory that
        would not be there anyway.
        """
        for message in version.messages_for(have):
            if version not in self._kept and version is not self._going():
                raise LateUpdateError("this model version was replaced during the download; fetch new work")
            yield message
