from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from utils.codecs.compression import compressed, inflated, is_compressed
from utils.codecs.files import File
from utils.errors import LimitError, PayloadError
from utils.wire.payload import Manifest, Payload, PayloadReader, parse_header

ZEROS = File.of({"0.levels": np.zeros(100_000, np.int8)}, {"codec": "int8", "base": "7"})
NOISE = File.of(
    {"0.levels": np.frombuffer(np.random.default_rng(0).bytes(100_000), np.int8)}, {"codec": "int8"}
)


def raw(file: File) -> bytes:
    return file.header + file.body.tobytes()


def read(data: bytes) -> Payload:
    reader = PayloadReader(max_bytes=1 << 20, header_bytes=1 << 14)
    reader.feed(data)
    return reader.finish()


def around(frame: bytes, **metadata: str) -> Payload:
    """A compressed file with this for its frame."""
    said = {"codec": "int8", "base": "7", "compression": "zstd", **metadata}
    return read(raw(File.of({"zstd": np.frombuffer(frame, np.uint8)}, said)))


def frame_of(data: bytes, *, says_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=says_size).compress(data)


def inflate(payload: Payload, *, max_bytes: int = 1 << 20, header_bytes: int = 1 << 14) -> Payload:
    return inflated(payload, max_bytes=max_bytes, header_bytes=header_bytes)


def test_a_file_comes_out_as_it_went_in_with_the_checksum_of_what_travelled() -> None:
    small = compressed(ZEROS)
    assert small.total_bytes < 1000
    assert small.metadata == {"codec": "int8", "base": "7", "compression": "zstd"}
    received = read(raw(small))
    assert is_compressed(received.manifest)
    out = inflate(received, max_bytes=ZEROS.total_bytes)
    assert out.manifest == parse_header(ZEROS.header)
    assert out.data.tobytes() == ZEROS.body.tobytes()
    assert out.crc32 == received.crc32 == small.crc32


def test_a_file_that_would_not_be_smaller_stays_as_it_is() -> None:
    assert compressed(NOISE) is NOISE
    received = read(raw(NOISE))
    assert not is_compressed(received.manifest)
    assert inflate(received, max_bytes=1, header_bytes=1) is received


@given(st.binary(max_size=300), st.integers(1, 400))
def test_any_bytes_come_back(data: bytes, times: int) -> None:
    file = File.of({"a": np.frombuffer(data * times, np.uint8)}, {"codec": "int8"})
    sent = compressed(file)
    assert sent.total_bytes <= file.total_bytes
    out = inflate(read(raw(sent)), max_bytes=file.total_bytes)
    assert out.data.tobytes() == data * times
    assert out.manifest.metadata == {"codec": "int8"}


# --- refusals ----------------------------------------------------------------------------------


def test_a_bomb_is_refused_by_the_size_that_it_says() -> None:
    received = read(raw(compressed(ZEROS)))
    with pytest.raises(LimitError, match=f"inflates to {ZEROS.total_bytes} bytes; at most 5000 are taken"):
        inflate(received, max_bytes=5000)
    with pytest.raises(LimitError):
        inflate(received, max_bytes=ZEROS.total_bytes - 1)


def lying(frame: bytes, size: int) -> bytes:
    """The frame with another content size; its own must take 4 bytes."""
    assert frame[4] >> 6 == 2
    start = 5 + (0 if frame[4] & 0x20 else 1)
    return frame[:start] + size.to_bytes(4, "little") + frame[start + 4 :]


def test_frames_that_inflate_to_more_or_less_than_they_say_are_refused() -> None:
    frame = frame_of(raw(ZEROS))
    assert inflate(around(lying(frame, ZEROS.total_bytes))).data.any() == np.False_
    for size in (1, 1000, ZEROS.total_bytes - 1, ZEROS.total_bytes + 1, 1 << 19):
        with pytest.raises(PayloadError, match=r"not one (zstd frame|safetensors file)"):
            inflate(around(lying(frame, size)))
    for file in (raw(ZEROS)[:-1], raw(ZEROS) + b"\0"):  # what they say fits the header in them
        with pytest.raises(PayloadError, match="not one zstd frame"):
            inflate(around(lying(frame_of(file), ZEROS.total_bytes)))


def test_a_header_is_refused_by_its_size_before_it_is_inflated() -> None:
    bomb = (40 << 20).to_bytes(8, "little") + b" " * (40 << 20)
    received = around(frame_of(bomb))
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match="header of 41943040 bytes; at most 16384 are taken"):
            inflate(received, max_bytes=1 << 30)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(LimitError, match="at most 100 are taken"):
        inflate(read(raw(compressed(ZEROS))), header_bytes=100)


def test_a_file_is_refused_by_its_header_before_the_rest_is_inflated() -> None:
    file = File.of({"0.levels": np.zeros(400_000, np.int8)}, {"codec": "int8", "base": "7"})
    cut = lying(frame_of(raw(file)[:-1]), file.total_bytes)  # of several blocks, the last one too short
    seen = []

    def refuse(manifest: Manifest) -> None:
        seen.append(manifest)
        raise PayloadError("not wanted")

    with pytest.raises(PayloadError, match="not one zstd frame"):
        inflate(around(cut))
    with pytest.raises(PayloadError, match="not wanted"):
        inflated(around(cut), max_bytes=1 << 20, header_bytes=1 << 14, accept=refuse)
    assert seen == [parse_header(file.header)]


GOOD = frame_of(raw(ZEROS))
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"", "not one zstd frame"),
        (b"\x28\xb5\x2f\xfd", "not one zstd frame"),
        (b"no zstd at all", "not one zstd frame"),
        (GOOD[:-1], "not one zstd frame"),
        (GOOD + b"\0", "not one zstd frame"),
        (GOOD + GOOD, "not one zstd frame"),
        (GOOD + SKIPPABLE, "not one zstd frame"),
        (SKIPPABLE + GOOD, "does not say how large"),
        (SKIPPABLE, "does not say how large"),
        (frame_of(b""), "does not say how large"),
        (frame_of(raw(ZEROS), says_size=False), "does not say how large"),
        (frame_of(b"x"), "ends in the header"),
        (frame_of(raw(ZEROS)[:50]), "ends in the header"),
        (frame_of((4).to_bytes(8, "little") + b"\xff" * 4), "not JSON"),
        (frame_of(raw(ZEROS)[:-1]), "not one safetensors file"),
        (frame_of(raw(ZEROS) + b"\0"), "not one safetensors file"),
        (frame_of(raw(NOISE)), "differ in their metadata"),
    ],
)
def test_frames_that_are_not_one_whole_file_are_refused(frame: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        inflate(around(frame))


def test_frames_with_a_dictionary_are_refused() -> None:
    words = zstandard.train_dictionary(1024, [b"flockstep %d " % n * 20 for n in range(200)])
    frame = zstandard.ZstdCompressor(dict_data=words).compress(raw(ZEROS))
    with pytest.raises(PayloadError, match="not one zstd frame"):
        inflate(around(frame))


@pytest.mark.parametrize(
    ("names", "compression", "message"),
    [
        (["zstd"], "gzip", "compressed with 'gzip'"),
        (["zstd"], "", "compressed with ''"),
        (["0.levels"], "zstd", "must have one tensor"),
        (["zstd", "more"], "zstd", "must have one tensor"),
        ([], "zstd", "must have one tensor"),
    ],
)
def test_files_that_are_not_made_here_are_refused_by_their_header(
    names: list[str], compression: str, message: str
) -> None:
    file = File.of(dict.fromkeys(names, np.zeros(3, np.uint8)), {"compression": compression})
    with pytest.raises(PayloadError, match=message):
        is_compressed(read(raw(file)).manifest)


@pytest.mark.parametrize("array", [np.zeros(3, np.int8), np.zeros((3, 1), np.uint8), np.zeros((), np.uint8)])
def test_the_frame_must_be_bytes_in_one_dimension(
    array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> None:
    file = File.of({"zstd": array}, {"compression": "zstd"})
    with pytest.raises(PayloadError, match="must have one tensor"):
        is_compressed(read(raw(file)).manifest)


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damaged_frames_are_refused_or_taken_whole(edits: list[tuple[int, int]]) -> None:
    frame = bytearray(GOOD)
    for place, byte in edits:
        frame[place] = byte
    try:
        out = inflate(around(bytes(frame)))
    except (PayloadError, LimitError):
        return
    assert out.manifest.data_bytes == len(out.data)
