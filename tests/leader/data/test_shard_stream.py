from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from leader.data.shard_stream import stream_shard
from protos import leader_pb2
from utils.datasets import Dataset
from utils.wire.payload import PayloadReader


def dataset(examples: int, side: int) -> Dataset:
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.integers(0, 256, (examples, 3, side, side), dtype=np.uint8)
    return Dataset("random", images, generator.integers(0, 10, examples), tuple("abcdefghij"))


def indices(examples: int, count: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(1)).permutation(examples)[:count]


@pytest.mark.parametrize(
    ("side", "count", "chunk_bytes"),
    [
        (32, 700, 1 << 20),  # more than one gathered block
        (32, 341, 4096),  # exactly one block
        (32, 342, 4097),
        (5, 1, 1024),
        (7, 33, 1023),  # labels begin at an odd byte
        (700, 2, 1 << 20),  # one image is more than a block
    ],
)
def test_a_stream_is_the_shard_as_both_readers_see_it(side: int, count: int, chunk_bytes: int) -> None:
    data = dataset(count + 5, side)
    chosen = indices(count + 5, count)
    chunks = [
        leader_pb2.DataChunk.FromString(message).chunk for message in stream_shard(data, chosen, chunk_bytes)
    ]
    assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_bytes}
    assert 0 < len(chunks[-1]) <= chunk_bytes
    reader = PayloadReader(max_bytes=1 << 24, header_bytes=4096)
    for chunk in chunks:
        reader.feed(chunk)
    for arrays in (reader.finish().arrays(), safetensors.numpy.load(b"".join(chunks))):
        assert set(arrays) == {"images", "labels"}
        assert [arrays[name].dtype.str for name in ("images", "labels")] == ["|u1", "<i8"]
        np.testing.assert_array_equal(arrays["images"], data.images[chosen])
        np.testing.assert_array_equal(arrays["labels"], data.labels[chosen])


def test_the_shard_is_gathered_as_it_is_asked_for() -> None:
    data = dataset(2000, 32)
    stream = stream_shard(data, np.arange(2000), 4096)
    first = next(stream)
    data.images[1999] = 7  # the last block is not read yet
    chunks = b"".join(leader_pb2.DataChunk.FromString(message).chunk for message in (first, *stream))
    assert set(safetensors.numpy.load(chunks)["images"][1999].ravel().tolist()) == {7}
