from __future__ import annotations

import json
import tracemalloc
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from utils.errors import ChecksumError, LimitError, PayloadError
from utils.wire.payload import DTYPES, Manifest, Payload, PayloadReader, encode_header, parse_header

Arrays = dict[str, NDArray[Any]]
CODES = {dtype: code for code, dtype in DTYPES.items()}

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)
some_shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)
numpy_arrays: st.SearchStrategy[Arrays] = st.dictionaries(
    names,
    hnp.arrays(st.sampled_from([dtype for dtype in DTYPES.values() if dtype.kind != "V"]), some_shapes),
    max_size=5,
)
bf16_arrays: st.SearchStrategy[Arrays] = st.dictionaries(
    names, hnp.arrays("<u2", some_shapes).map(lambda array: array.view(DTYPES["BF16"])), max_size=2
)
all_arrays = st.builds(lambda some, more: some | more, numpy_arrays, bf16_arrays)


def encoded(arrays: Arrays, metadata: dict[str, str] | None = None) -> bytes:
    header = encode_header(((n, CODES[a.dtype], a.shape) for n, a in arrays.items()), metadata)
    return header + b"".join(array.tobytes() for array in arrays.values())


def read(data: bytes, cuts: Sequence[int] = (), *, max_bytes: int = 1 << 20) -> Payload:
    reader = PayloadReader(max_bytes=max_bytes, header_bytes=1 << 16)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        reader.feed(data[start:stop])
        assert reader.received == stop
        assert b"".join(map(bytes, reader.taken)) == data[:stop]
    return reader.finish()


def raw_header(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return len(data).to_bytes(8, "little") + data


def assert_same(given_: Arrays, expected: Arrays) -> None:
    assert set(given_) == set(expected)
    for name, array in expected.items():
        assert given_[name].dtype == array.dtype
        assert given_[name].shape == array.shape
        assert given_[name].tobytes() == array.tobytes()


# --- whole payloads ------------------------------------------------------------------------


@given(arrays=all_arrays, metadata=st.dictionaries(names, names, max_size=3))
def test_the_safetensors_library_reads_what_is_written_here(arrays: Arrays, metadata: dict[str, str]) -> None:
    data = encoded(arrays, metadata)
    raw = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    found = {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in raw}
    assert found == {n: (CODES[a.dtype], list(a.shape), a.tobytes()) for n, a in arrays.items()}
    assert (len(data) - sum(array.nbytes for array in arrays.values())) % 64 == 0
    assert parse_header(data[: 8 + int.from_bytes(data[:8], "little")]).metadata == metadata


@given(
    arrays=numpy_arrays,
    metadata=st.none() | st.dictionaries(names, names, min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
)
def test_what_the_safetensors_library_writes_is_read_here_however_it_is_cut(
    arrays: Arrays, metadata: dict[str, str] | None, cuts: list[int]
) -> None:
    data = safetensors.numpy.save(arrays, metadata)
    payload = read(data, cuts)
    assert_same(payload.arrays(), arrays)
    assert payload.manifest.metadata == (metadata or {})
    assert payload.manifest.total_bytes == len(data)
    assert payload.crc32 == zlib.crc32(data)


def test_every_dtype_has_an_array_type_of_its_own() -> None:
    assert len(CODES) == len(DTYPES)
    data = encoded({"a": np.array([1.5, -2.0], "<f4").view("<u2")[1::2].view("V2")})
    (tensor,) = read(data).manifest.tensors
    assert tensor.dtype == "BF16"
    assert safetensors.torch.load(data)["a"].tolist() == [1.5, -2.0]


def test_a_payload_that_comes_byte_by_byte_is_read() -> None:
    data = encoded({"a": np.arange(5, dtype="<f4")})
    assert read(data, range(len(data))).arrays()["a"].tolist() == [0, 1, 2, 3, 4]


def test_tensors_are_listed_in_the_order_of_their_bytes() -> None:
    second = {"dtype": "U8", "shape": [2], "data_offsets": [3, 5]}
    first = {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}
    manifest = parse_header(raw_header(json.dumps({"second": second, "first": first})))
    assert [tensor.name for tensor in manifest.tensors] == ["first", "second"]


def test_a_checksum_is_compared_with_all_bytes() -> None:
    data = encoded({"a": np.arange(5, dtype="<f4")})
    reader = PayloadReader(max_bytes=1000, header_bytes=1000)
    reader.feed(data)
    assert reader.finish(zlib.crc32(data)).crc32 == zlib.crc32(data)
    with pytest.raises(ChecksumError, match=f"has CRC-32 {zlib.crc32(data):08x}, announced was 00000007"):
        reader.finish(7)


# --- limits --------------------------------------------------------------------------------


def claiming(size: int) -> bytes:
    return raw_header(json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}))


def test_a_payload_is_refused_by_its_header_before_memory_is_taken() -> None:
    seen: list[Manifest] = []
    reader = PayloadReader(max_bytes=1 << 20, header_bytes=1000, accept=seen.append)
    with pytest.raises(LimitError, match=r"payload of 140737488355\d+ bytes; at most 1048576 are taken"):
        reader.feed(claiming((1 << 47) - 1))
    assert seen == []


def test_the_largest_payload_that_is_allowed_is_taken_and_no_larger_one() -> None:
    whole = len(claiming(100)) + 100
    assert read(claiming(100) + bytes(100), max_bytes=whole).manifest.total_bytes == whole
    with pytest.raises(LimitError):
        read(claiming(100) + bytes(100), max_bytes=whole - 1)


def test_the_manifest_is_shown_before_any_tensor_byte_and_may_be_refused() -> None:
    def refuse(manifest: Manifest) -> None:
        raise PayloadError(f"no {manifest.tensors[0].name} here")

    reader = PayloadReader(max_bytes=1000, header_bytes=1000, accept=refuse)
    reader.feed(claiming(100)[:-1])
    with pytest.raises(PayloadError, match="no a here"):
        reader.feed(claiming(100)[-1:])


@pytest.mark.parametrize("size", [0, 1, 1001, 1 << 20, (1 << 64) - 1])
def test_a_header_is_refused_by_its_size_alone(size: int) -> None:
    reader = PayloadReader(max_bytes=1 << 30, header_bytes=1000)
    with pytest.raises(LimitError, match=f"header of {size} bytes"):
        reader.feed(size.to_bytes(8, "little"))


def test_too_many_tensors_are_refused() -> None:
    entries = {str(i): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(16_385)}
    with pytest.raises(LimitError, match="names 16385 tensors"):
        parse_header(raw_header(json.dumps(entries)))


def test_a_tensor_name_of_256_characters_is_taken_and_no_longer_one() -> None:
    entry = {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}
    assert parse_header(raw_header(json.dumps({"n" * 256: entry}))).data_bytes == 1
    with pytest.raises(LimitError, match="name of 257 characters"):
        parse_header(raw_header(json.dumps({"n" * 257: entry})))


# --- malformed -----------------------------------------------------------------------------

A = '"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'


def entry(dtype: str = '"U8"', shape: str = "[4]", offsets: str = "[0,4]") -> str:
    return f'{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be a JSON object"),
        ("{ ", "not JSON"),
        ("{} {}", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        ("[" * 60_000, "not JSON"),
        ('{"a":' * 10_000, "not JSON"),
        (f"{{{A},{A}}}", "names a key twice"),
        ('{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', "names a key twice"),
        ('{"__metadata__":{"a":"1","a":"1"}}', "names a key twice"),
        ('{"__metadata__":{"a":1}}', "must map strings to strings"),
        ('{"__metadata__":[]}', "must map strings to strings"),
        ('{"__metadata__":null}', "must map strings to strings"),
        (f'{{{A},"b":{{"dtype":"U8","shape":[4],"data_offsets":[5,9]}}}}', "expected 4: gap or overlap"),
        (f'{{{A},"b":{{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}}}', "expected 4: gap or overlap"),
        (f'{{{A},"b":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}}}', "expected 4: gap or overlap"),
        (entry(offsets="[4,8]"), "expected 0: gap or overlap"),
        ('{"a":{"dtype":"U8","shape":[4]}}', "exactly dtype, shape and data_offsets"),
        ('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"more":1}}', "exactly dtype"),
        ('{"a":null}', "exactly dtype"),
        (entry(dtype='"F8_E4M3"'), "dtype 'F8_E4M3' is not one of"),
        (entry(dtype='"u8"'), "dtype 'u8' is not one of"),
        (entry(dtype="8"), "dtype '8' is not one of"),
        (entry(dtype="[]"), r"dtype '\[\]' is not one of"),
        (entry(shape="4"), "shape must be a list"),
        (entry(shape="[-4]"), "shape must be a list"),
        (entry(shape="[-2,-2]"), "shape must be a list"),
        (entry(shape="[4.0]"), "shape must be a list"),
        (entry(shape="[NaN]"), "shape must be a list"),
        (entry(shape="[Infinity]"), "shape must be a list"),
        (entry(shape="[true,true]", offsets="[0,1]"), "shape must be a list"),
        (entry(shape='["4"]'), "shape must be a list"),
        (entry(shape=f"[{1 << 48}]"), "shape must be a list"),
        (entry(shape=f"[{'9' * 5000}]"), "not JSON"),
        (entry(shape="[1,1,1,1,1,1,1,1,4]"), "at most 8 sizes"),
        (entry(shape="[0,1099511627776,1099511627776]", offsets="[0,0]"), r"shape \[0, .*\] is too large"),
        (entry(offsets="[0,5]"), "5 bytes do not hold U8"),
        (entry(offsets="[4,0]"), "-4 bytes do not hold U8"),
        (entry(dtype='"F32"'), "4 bytes do not hold F32"),
        (entry(offsets="[-4,0]"), "must be two byte positions"),
        (entry(offsets="[false,4]"), "must be two byte positions"),
        (entry(offsets="[0,4,8]"), "must be two byte positions"),
        (entry(offsets="[0,NaN]"), "must be two byte positions"),
        (entry(offsets="[0,4e0]"), "must be two byte positions"),
        (entry(offsets="{}"), "must be two byte positions"),
    ],
)
def test_a_malformed_header_is_refused_for_what_is_wrong_with_it(text: str | bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        read(raw_header(text) + bytes(4))


def test_a_payload_that_ends_early_is_refused_wherever_it_ends() -> None:
    data = encoded({"a": np.arange(5, dtype="<f4")})
    head = len(data) - 20
    for end in range(len(data)):
        where = f"after {end} bytes, inside its header" if end < head else f"after {end - head} of 20 bytes"
        with pytest.raises(PayloadError, match=where):
            read(data[:end])


@given(st.integers(0, 40), st.binary(min_size=1, max_size=4))
def test_a_payload_that_goes_on_is_refused(cut: int, more: bytes) -> None:
    with pytest.raises(PayloadError, match="goes on after its 20 bytes"):
        read(encoded({"a": np.arange(5, dtype="<f4")}) + more, [150 - cut])


def only_refused(data: bytes) -> None:
    """Read `data` and use the tensors; anything but a refusal by name fails the test."""
    try:
        payload = read(data)
        arrays = payload.arrays()
    except (PayloadError, LimitError):
        return
    assert sum(array.nbytes for array in arrays.values()) == payload.manifest.data_bytes


@given(
    arrays=all_arrays,
    edits=st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4
    ),
)
def test_damaged_bytes_raise_nothing_but_payload_and_limit_errors(
    arrays: Arrays, edits: list[tuple[int, int, bytes]]
) -> None:
    data = encoded(arrays, {"format": "pt"})
    for position, removed, inserted in edits:
        data = data[:position] + inserted + data[position + removed :]
    only_refused(data)


odd = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.integers()
    | st.floats()
    | st.sampled_from(["F32", "U8", "", "\ud800"])
)
json_values = st.recursive(
    odd, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
sizes = st.lists(st.integers(0, 3) | st.integers(0, 1 << 48), max_size=9) | json_values
json_entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "I64"]) | json_values,
        "shape": sizes,
        "data_offsets": st.lists(st.integers(0, 8), min_size=2, max_size=2) | json_values,
    }
)
json_names = st.sampled_from(["a", "b", "__metadata__", "\ud800"])


@given(st.dictionaries(json_names, json_entries | json_values, max_size=3) | json_values)
def test_any_json_as_header_raises_nothing_but_payload_and_limit_errors(header: object) -> None:
    only_refused(raw_header(json.dumps(header)) + bytes(8))


# --- chunks that are kept as they came ------------------------------------------------------


def kept(data: bytes, cuts: Sequence[int], keep_from: int) -> tuple[Payload, list[bytes]]:
    """The payload, and the chunks that it came in."""
    reader = PayloadReader(max_bytes=1 << 23, header_bytes=1 << 16, keep_from=keep_from)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:stop] for start, stop in pairwise(edges)]
    before: Sequence[bytes | bytearray | memoryview] = ()
    for chunk, (start, stop) in zip(chunks, pairwise(edges), strict=True):
        reader.feed(chunk)
        assert b"".join(map(bytes, before)) == data[:start]
        before = reader.taken
        assert b"".join(map(bytes, before)) == data[:stop]
    return reader.finish(zlib.crc32(data)), chunks


@given(
    values=hnp.arrays(np.dtype("<f4"), st.integers(0, 200), elements=st.floats(width=32, allow_nan=False)),
    cuts=st.lists(st.integers(0, 1000), max_size=12),
    keep_from=st.integers(1, 300),
)
def test_spans_cover_the_values_once_and_in_order_however_they_came(
    values: NDArray[np.float32], cuts: list[int], keep_from: int
) -> None:
    payload, _ = kept(encoded({"a": values}), cuts, keep_from)
    spans = list(payload.spans(np.float32))
    assert np.concatenate([span for _, span in spans]).tobytes() == values.tobytes()
    assert [start for start, _ in spans] == [0, *np.cumsum([span.size for _, span in spans])[:-1]]
    assert payload.data.tobytes() == values.tobytes()
    assert [start for start, _ in payload.spans(np.float32)] == [0]


def test_a_large_chunk_is_read_where_it_lies_and_small_ones_together() -> None:
    values = np.arange(3000, dtype="<f4")
    data = encoded({"a": values})
    head = len(data) - values.nbytes
    # 8000 bytes, 1000 times 1 byte, 3000 bytes: the last could be kept, but fills up what the small ones began.
    payload, chunks = kept(data, [head, *range(head + 8000, head + 9001)], 1000)
    spans = [span for _, span in payload.spans(np.float32)]
    assert [span.size for span in spans] == [2000, 1000]
    assert np.shares_memory(spans[0], np.frombuffer(chunks[1], np.uint8))
    assert not np.shares_memory(spans[1], np.frombuffer(chunks[-1], np.uint8))


def test_a_chunk_that_ends_inside_a_value_is_copied() -> None:
    values = np.arange(1000, dtype="<f4")
    data = encoded({"a": values})
    head = len(data) - values.nbytes
    payload, _ = kept(data, [head, head + 2002], 100)
    assert [span.size for _, span in payload.spans(np.float32)] == [1000]


def test_bytes_that_may_change_are_copied() -> None:
    values = np.arange(1000, dtype="<f4")
    data = bytearray(encoded({"a": values}))
    reader = PayloadReader(max_bytes=1 << 16, header_bytes=1 << 10, keep_from=1)
    reader.feed(data)
    data[:] = bytes(len(data))
    assert reader.finish().arrays()["a"].tolist() == values.tolist()


@pytest.mark.parametrize("chunk_bytes", [1, 100, 31 << 10])
def test_small_chunks_take_little_more_memory_than_their_bytes(chunk_bytes: int) -> None:
    size = 50_000 * chunk_bytes if chunk_bytes < 1000 else 4 << 20
    data = encoded({"a": np.zeros(size, np.uint8)})
    reader = PayloadReader(max_bytes=1 << 23, header_bytes=1 << 16, keep_from=32 << 10)
    chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    tracemalloc.start()
    try:
        while chunks:
            reader.feed(chunks.pop(0))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < size + 20_000
    assert reader.finish().manifest.data_bytes == size


def test_chunks_are_let_go_once_they_are_joined() -> None:
    size = 8 << 20
    data = encoded({"a": np.zeros(size, np.uint8)})
    reader = PayloadReader(max_bytes=1 << 24, header_bytes=1 << 16, keep_from=32 << 10)
    tracemalloc.start()
    try:
        for start in range(0, len(data), 1 << 20):
            reader.feed(data[start : start + (1 << 20)])
        payload = reader.finish()
        before, _ = tracemalloc.get_traced_memory()
        assert payload.data.nbytes == size
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < before < size + (1 << 20)
    assert after < before + (1 << 20)


def test_without_a_checksum_none_is_said() -> None:
    data = encoded({"a": np.arange(5, dtype="<f4")})
    reader = PayloadReader(max_bytes=1000, header_bytes=1000, checksum=False)
    reader.feed(data)
    assert reader.finish().crc32 == 0
