"""Slices of partial sums: as small as their words allow, and the same bytes again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.distributed.sum_slices import SumReader, packed
from protos import edge_pb2
from utils.errors import ChecksumError, PayloadError

WORDS = st.integers(0, 63).flatmap(
    lambda bits: st.lists(st.integers(-(2**bits), 2**bits - 1), min_size=1, max_size=20)
)


@given(st.lists(WORDS, max_size=4), st.binary(max_size=30))
def test_a_sum_comes_as_it_was(slices: list[list[int]], rest: bytes) -> None:
    parts = [np.array(words, np.int64).view(np.uint8) for words in slices]
    parts = [part for part in (*parts[:2], np.frombuffer(rest, np.uint8), *parts[2:]) if part.size]
    reader, crc32 = SumReader(sum(part.size for part in parts)), 0
    for part in parts:
        chunk = packed(part, crc32)
        assert reader.take(chunk) == len(chunk.chunk) <= part.size
        crc32 = chunk.crc32
    assert reader.whole().tobytes() == b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize("width", range(1, 9))
def test_a_slice_takes_what_its_largest_word_needs(width: int) -> None:
    most = 2 ** (8 * width - 1)
    for words in ([most - 1, 0], [-most, 1]):
        assert packed(np.array(words, np.int64).view(np.uint8), 0).width == width
    if width < 8:
        assert packed(np.array([most, 0], np.int64).view(np.uint8), 0).width == width + 1


@pytest.mark.parametrize(
    ("chunk", "width"), [(b"", 8), (b"abc", 0), (b"abc", 2), (b"abc", 9), (b"a" * 17, 8), (b"abc", 1)]
)
def test_what_is_no_slice_is_refused(chunk: bytes, width: int) -> None:
    with pytest.raises(PayloadError, match="its sum has"):
        SumReader(16).take(edge_pb2.SumChunk(chunk=chunk, width=width))


def test_a_slice_that_is_damaged_missing_or_in_the_place_of_another_is_refused() -> None:
    one = packed(np.arange(8, dtype=np.uint8), 0)
    other = packed(np.arange(8, dtype=np.uint8) + 1, one.crc32)
    reader = SumReader(16)
    with pytest.raises(ChecksumError, match="damaged"):
        reader.take(other)
    reader = SumReader(16)
    reader.take(one)
    with pytest.raises(ChecksumError, match="short"):
        reader.whole()
