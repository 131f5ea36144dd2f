"""What requests say, as messages of the contract, and tensors as JSON for models that are tiny."""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Mapping, Set
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np
from google.protobuf.json_format import Parse, ParseDict, ParseError
from google.protobuf.message import Message

from utils.errors import PayloadError
from utils.wire.payload import PayloadReader, encode_header

#: Of a JSON body that becomes tensors; as objects it takes many times as many.
MOST_JSON_BYTES = 1 << 20
#: Of a file that becomes JSON, of five times its size.
MOST_FILE_BYTES = MOST_JSON_BYTES // 5
M = TypeVar("M", bound=Message)


def of_query(query: str, headers: Mapping[str, str], message: M, allowed: Set[str]) -> M:
    """`message` with the `allowed` fields from a query, and its secrets from headers; raises PayloadError."""
    said = parse_qsl(query, keep_blank_values=True)
    if len(dict(said)) < len(said) or not dict(said).keys() <= allowed:
        raise PayloadError(f"the query may have each of {', '.join(sorted(allowed))} once, and nothing else")
    _read(ParseDict, dict(said), message)
    for name in {"token", "ticket"}.intersection(message.DESCRIPTOR.fields_by_name):
        try:
            setattr(message, name, b64decode(headers.get(f"flockstep-{name}", ""), validate=True))
        except ValueError:
            raise PayloadError(f"flockstep-{name} is no base64, as which it was given") from None
    return message


def of_json(body: bytes, message: M) -> M:
    """`message` with the fields in a JSON object; raises PayloadError."""
    _read(Parse, body or b"{}", message)
    return message


def _read(parse: Any, said: Any, message: Message) -> None:
    try:
        parse(said, message)
    except (ParseError, ValueError, TypeError, RecursionError) as error:
        raise PayloadError(f"no {message.DESCRIPTOR.name} can be made of it: {str(error)[:200]!r}") from None


def to_json(file: bytes) -> bytes:
    """A safetensors file as {"NAME": {"dtype": "F32", "shape": [2], "data": [0.5, -1.0]}}, value by value."""
    reader = PayloadReader(max_bytes=len(file), header_bytes=len(file))
    reader.feed(file)
    payload = reader.finish()
    return json.dumps(
        {
            tensor.name: {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data": payload.array(tensor).ravel().tolist(),
            }
            for tensor in payload.manifest.tensors
        }
    ).encode()


def from_json(body: bytes) -> bytes:
    """The float32 tensors of such JSON as a safetensors file; raises PayloadError."""
    try:
        tensors = {name: _array(**entry) for name, entry in json.loads(body).items()}
        header = encode_header((name, "F32", array.shape) for name, array in tensors.items())
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise PayloadError(
            'JSON of an update is {"NAME": {"shape": [2], "data": [0.5, -1.0]}}, all values of a tensor in one list'
        ) from None
    return header + b"".join(array.tobytes() for array in tensors.values())


def _array(shape: Any, data: Any, dtype: str = "F32") -> np.ndarray[Any, np.dtype[np.float32]]:
    lists = type(shape) is type(data) is list and all(type(size) is int and size >= 0 for size in shape)
    if dtype != "F32" or not lists or math.prod(shape) != len(data) or {*map(type, data)} - {int, float}:
        raise ValueError
    with np.errstate(over="ignore"):  # what is infinite then is refused by name
        return np.array(data, np.float32).reshape(shape)
