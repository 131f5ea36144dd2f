from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from utils.wire.checksum import crc32


@given(st.lists(st.binary(max_size=5000), max_size=5), st.integers(0, 2**32 - 1))
def test_it_is_the_crc_32_of_zlib_piece_by_piece(pieces: list[bytes], start: int) -> None:
    ours = theirs = start
    for piece in pieces:
        ours = crc32(memoryview(piece), ours)
        theirs = zlib.crc32(piece, theirs)
    assert ours == theirs
