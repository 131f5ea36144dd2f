"""Model versions: encoded once, served to every learner from the same buffers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leader.signal import Signal
from model.flat import Layout
from utils.errors import LateUpdateError, NotReadyError
from utils.framing import frames
from utils.payload import encode_header


@dataclass(frozen=True)
class ModelVersion:
    """One state of the global model, ready to send."""

    number: int  # opaque: equal numbers mean equal weights
    messages: tuple[bytes, ...]  # framed ModelChunk messages


def next_version(number: int, digest: str) -> int:
    """The version after `number` when an exchange with this digest is applied to it."""
    return int.from_bytes(hashlib.sha256(f"{number}:{digest}".encode()).digest()[:8]) >> 1


def model_header(layout: Layout, metadata: dict[str, str]) -> bytes:
    """Header of the safetensors file that holds the flat vector under the layout's names."""
    return encode_header(((entry.name, "F32", entry.shape) for entry in layout.entries), metadata)


class VersionStore:
    """The version that is served now, and the one before it for downloads under way."""

    def __init__(self, layout: Layout, chunk_bytes: int) -> None:
        self._layout = layout
        self._chunk_bytes = chunk_bytes
        self._current: ModelVersion | None = None
        self._previous: ModelVersion | None = None
        self.changed = Signal()

    def encode(self, number: int, vector: NDArray[np.float32]) -> ModelVersion:
        """The version's messages; safe to call from another thread."""
        header = model_header(self._layout, {"format": "pt", "version": str(number)})
        body = np.ascontiguousarray(vector).data.cast("B")
        return ModelVersion(number, tuple(frames(header, body, self._chunk_bytes)))

    def publish(self, version: ModelVersion) -> None:
        """Serve `version` from now on."""
        self._previous, self._current = self._current, version
        self.changed.notify()

    @property
    def number(self) -> int | None:
        """Number of the version served now."""
        return self._current.number if self._current else None

    def get(self, number: int | None) -> ModelVersion:
        """The version asked for, or the newest; raises NotReadyError or LateUpdateError."""
        if self._current is None:
            raise NotReadyError("the model is not ready yet; try again")
        if number is None or number == self._current.number:
            return self._current
        raise LateUpdateError(f"model version {number} is no longer served; fetch new work")

    def stream(self, version: ModelVersion) -> Iterator[bytes]:
        """The messages of `version`; raises LateUpdateError once it is two versions old.

        A slow learner can thus keep only one old version in memory, however slow it is.
        """
        for message in version.messages:
            if version is not self._current and version is not self._previous:
                raise LateUpdateError("this model version was replaced during the download; fetch new work")
            yield message
