"""A shard as a safetensors stream, gathered chunk by chunk from the one copy of the data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from utils.datasets import Dataset
from utils.wire.framing import Buffer, rechunk
from utils.wire.payload import encode_header

_GATHER_BYTES = 1 << 20


def stream_shard(data: Dataset, indices: NDArray[np.int64], chunk_bytes: int) -> Iterator[bytes]:
    """Framed DataChunk messages: `images` uint8 (N, 3, H, W) and `labels` int64 (N,).

    The set is never copied per learner: a megabyte of images at a time is picked out of it.
    """
    return rechunk(_pieces(data, indices), chunk_bytes)


def _pieces(data: Dataset, indices: NDArray[np.int64]) -> Iterator[Buffer]:
    shape = data.images.shape[1:]
    yield encode_header([("images", "U8", (len(indices), *shape)), ("labels", "I64", (len(indices),))])
    block = max(1, _GATHER_BYTES // int(np.prod(shape)))
    for first in range(0, len(indices), block):
        yield np.ascontiguousarray(data.images[indices[first : first + block]]).data.cast("B")
    yield np.ascontiguousarray(data.labels[indices], dtype="<i8").data.cast("B")
