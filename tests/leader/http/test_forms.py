"""What is said in queries and JSON: read exactly, or refused with words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from leader.http import forms
from protos import leader_pb2
from utils.errors import PayloadError
from utils.wire.payload import PayloadReader, encode_header

ANY_FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
TENSORS = st.dictionaries(
    st.text("abc.", min_size=1, max_size=5),
    arrays_of.arrays(np.float32, arrays_of.array_shapes(min_dims=0, max_side=3), elements=ANY_FLOAT),
    max_size=3,
)


@given(TENSORS)
def test_tensors_go_through_json_and_back_to_the_bit(tensors: dict[str, np.ndarray]) -> None:
    header = encode_header((name, "F32", array.shape) for name, array in tensors.items())
    file = header + b"".join(array.tobytes() for array in tensors.values())
    assert forms.from_json(forms.to_json(file)) == file


def test_json_of_other_numbers_names_their_kind() -> None:
    file = encode_header([("steps", "I64", (2,))]) + np.array([1, 1 << 60]).tobytes()
    assert json.loads(forms.to_json(file)) == {"steps": {"dtype": "I64", "shape": [2], "data": [1, 1 << 60]}}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "7",
        "[" * 100_000,
        '{"w": []}',
        '{"w": {"shape": [1]}}',
        '{"w": {"shape": [2], "data": [1]}}',
        '{"w": {"shape": [-1, -1], "data": [1]}}',
        '{"w": {"shape": [1.0], "data": [1]}}',
        '{"w": {"shape": "", "data": [1]}}',
        '{"w": {"shape": [1], "data": ["1"]}}',
        '{"w": {"shape": [1], "data": [true]}}',
        '{"w": {"shape": [1], "data": [null]}}',
        '{"w": {"shape": [1], "data": [[1]]}}',
        '{"w": {"shape": [1], "data": [1], "dtype": "F16"}}',
        '{"w": {"shape": [1], "data": [1], "more": 0}}',
        '{"w": {"shape": [1], "data": [1' + "0" * 400 + "]}}",
        '{"w": {"shape": [0, ' + "9" * 30 + '], "data": []}}',
    ],
)
def test_json_that_is_no_update_is_refused(body: str) -> None:
    with pytest.raises(PayloadError, match=r"JSON of an update is \{"):
        forms.from_json(body.encode())


@pytest.mark.parametrize("value", ["NaN", "1e400", "-Infinity", "1e39"])
def test_what_is_not_finite_is_left_to_the_judge_of_all_updates(value: str) -> None:
    file = forms.from_json(f'{{"w": {{"shape": [1], "data": [{value}]}}}}'.encode())
    reader = PayloadReader(max_bytes=len(file), header_bytes=len(file))
    reader.feed(file)
    assert not np.isfinite(reader.finish().arrays()["w"].astype(np.float32)).any()


def test_fields_come_from_the_query_and_secrets_from_headers() -> None:
    said = {"flockstep-token": "AAEC/w==", "flockstep-ticket": "Bw=="}
    query = "work_id=1-0-a%2B&examples=24&loss=0.5&crc32=4294967295"
    allowed = {"work_id", "examples", "loss", "crc32"}
    found = forms.of_query(query, said, leader_pb2.UpdateHeader(), allowed)
    assert (found.work_id, found.examples, found.loss, found.crc32) == ("1-0-a+", 24, 0.5, (1 << 32) - 1)
    assert (found.token, found.ticket) == (b"\0\1\2\xff", b"\7")


@pytest.mark.parametrize(
    ("query", "token"),
    [
        ("token=AAEC", ""),
        ("version=1&version=1", ""),
        ("version=-1", ""),
        ("version=1.5", ""),
        ("version=" + "9" * 5000, ""),
        ("version=", ""),
        ("version", ""),
        ("version=1", "?"),
        ("version=1", "AAE"),
        ("version=1", "\xe9"),
    ],
)
def test_a_query_that_says_something_else_is_refused(query: str, token: str) -> None:
    with pytest.raises(PayloadError):
        forms.of_query(query, {"flockstep-token": token}, leader_pb2.Empty(), {"version"})


@pytest.mark.parametrize(
    "body", ["{", "7", '{"nope": 1}', '{"name": 1}', '{"name": "\\ud800"}', '{"own_data": ' * 5000, "\xff"]
)
def test_json_that_is_no_message_is_refused(body: str) -> None:
    with pytest.raises(PayloadError, match="no LearnerInfo can be made of it"):
        forms.of_json(body.encode("latin-1"), leader_pb2.LearnerInfo())
