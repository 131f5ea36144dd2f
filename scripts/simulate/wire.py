"""What a deployment's wire would carry: models as learners read them, updates as the leader gets them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from leader.global_model.versions import ModelVersion
from leader.training.inbox import Upload
from learner.wire.transfer import Download, unpack_model
from learner.wire.whole_update import HeldUpdate
from model.layout import Layout
from utils.wire.framing import framed_bytes, unframe
from utils.wire.payload import Manifest, Payload, PayloadReader, encode_header, parse_header


class Downloads:
    """Model versions as learners read them: each is read once, and all that start from it share it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._newest: tuple[int, Download] | None = None  # version; work on older ones holds what it needs

    def read(self, version: ModelVersion) -> Download:
        """What a learner that fetches `version` reads."""
        if self._newest is None or self._newest[0] != version.number:
            self._newest = (version.number, unpack_model(self._layout, _payload(version)))
        return self._newest[1]


def _payload(version: ModelVersion) -> Payload:
    size = message_bytes(version)
    reader = PayloadReader(max_bytes=size, header_bytes=size)
    for message in version.messages:
        chunk = unframe(message)
        assert chunk is not None
        reader.feed(chunk)
    return reader.finish()


def message_bytes(version: ModelVersion, have: int | None = None) -> int:
    """Bytes on the wire of one download by a learner that has version `have`."""
    return sum(map(len, version.messages_for(have)))


def shard_bytes(examples: int, image_shape: tuple[int, ...], chunk_bytes: int) -> int:
    """Bytes on the wire when a learner fetches a shard of so many images (3, H, W)."""
    header = encode_header([("images", "U8", (examples, *image_shape)), ("labels", "I64", (examples,))])
    return framed_bytes(len(header) + examples * (int(np.prod(image_shape)) + 8), chunk_bytes)


def upload(held: HeldUpdate) -> Upload:
    """The update as the leader has it when the last byte is in."""
    payload = Payload(_manifest(held.file.header), held.file.body, held.said.crc32)
    return Upload(held.said, payload, held.said.total_bytes)


@lru_cache(maxsize=4)
def _manifest(header: bytes) -> Manifest:
    return parse_header(header)
