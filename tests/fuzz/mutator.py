"""Seeded mutations of bytes, wire messages and safetensors files."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

T = TypeVar("T")
M = TypeVar("M", bound=Message)

INTEGERS = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40 - 1,
    2**40,
    2**48,
    2**63 - 1,
    2**64 - 1,
)
DOUBLES = (
    *(0.0, -0.0, 1.0, -1.0, 5e-324, 1e30, -1e308, 1.7976931348623157e308),
    *(float("inf"), float("-inf"), float("nan")),
)
TEXTS = (
    "",
    "x",
    "0" * 65,
    "x" * 300,
    "x" * 5000,
    "a\x1b[2Jb",
    "line\r\nline",
    "nul\0",
    "\u202egnp",
    "\U0001f600" * 80,
    "../../etc/passwd",
    "unix:/tmp/x",
    "dns://8.8.8.8/x:1",
    "127.0.0.1:9",
    "[::1]:9",
)
#: Pieces of wire format: unknown fields, wrong wire types, groups, varints and lengths that lie.
WIRE = (
    b"\xff" * 10 + b"\x01",
    b"\x08" + b"\xff" * 9 + b"\x01",
    b"\x10\x80",
    b"\x0a\xff\xff\xff\xff\x0f",
    b"\x0a\x00",
    b"\x0a\x80\x00",
    b"\x12\x7f",
    b"\x0b\x0c",
    b"\x0b" * 200,
    b"\x13\x08\x01\x14",
    b"\x1d\x00\x00\x00\x00",
    b"\x25\xff\xff",
    b"\x31\x00\x00\x00\x00\x00\x00\xf8\x7f",
    b"\xfa\xff\xff\xff\x0f\x03abc",
    b"\xf8\x07\x01",
    b"\x06",
    b"\x07",
    b"\x00\x00",
    b"\x12\x02\x0a\x00",
    b"\x12\x02\xff\xff",
)
#: Floats that an update may hold and must be refused for, or may hold and must be taken with.
FLOATS = (
    0.0,
    -0.0,
    1e-45,
    1.0,
    -1024.0,
    1024.0,
    1024.0001,
    3.4e38,
    float("inf"),
    float("-inf"),
    float("nan"),
)
#: What a token of a JSON header is replaced by.
JSON_TOKENS = (
    "{", "}", "[", "]", ":", ",", '"', "", " ", "null", "true", "NaN", "Infinity", "-Infinity", "-1", "-0", "0", "1",
    "1.0", "1e3", "1e999", "3", "4", "255", "281474976710655", "281474976710656", "9223372036854775808",
    "9" * 4299, "9" * 4400, '""', '"F64"', '"F32"', '"F16"', '"I32"', '"BOOL"', '"BF16"', '"f32"',
    '"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"\x01"',
    '"' + "n" * 257 + '"', '"' + "\\ud83d\\ude00" * 256 + '"', "[0]", "[1,1]", "[0,0]", "{}", '{"a":1}', "[[]]",
    "[1,1,1,1,1,1,1,1,1]", "[0,281474976710655,281474976710655]", "[" * 30000, '{"a":' * 3000, "[" * 900 + "]" * 900,
    "[" * 985 + "]" * 985, "\ufeff", "/*x*/",
)  # fmt: skip

_BLANK = {FieldDescriptor.TYPE_STRING: "", FieldDescriptor.TYPE_BYTES: b""}  # other values are numbers


class Mutator:
    """One stream of random choices; the same seed gives the same inputs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._float = self.random.random

    def below(self, bound: int) -> int:
        """An integer from 0 to bound - 1 (0 where bound is 0)."""
        return int(self._float() * bound)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._float() < probability

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`."""
        return choices[int(self._float() * len(choices))]

    def garble(self, data: bytes) -> bytes:
        """`data` with one to three random changes."""
        for _ in range(1 + self.below(3)):
            data = self._change(data)
        return data

    def _change(self, data: bytes) -> bytes:
        at = self.below(len(data))
        end = min(len(data), at + 1 + self.below(16))
        match self.below(9):
            case 0:  # flip a bit
                return (
                    data[:at] + bytes((data[at] ^ 1 << self.below(8),)) + data[at + 1 :] if data else b"\x01"
                )
            case 1:  # another byte
                return data[:at] + self.pick((b"\0", b"\x7f", b"\x80", b"\xff", b"\n")) + data[at + 1 :]
            case 2:  # cut off
                return data[:at]
            case 3:  # leave a slice out
                return data[:at] + data[end:]
            case 4:  # repeat a slice
                return data[:end] + data[at:]
            case 5:  # random bytes between
                return data[:at] + self.random.randbytes(1 + self.below(8)) + data[at:]
            case 6:  # a number where one may stand
                number = struct.pack("<Q", self.pick(INTEGERS))[: self.pick((1, 2, 4, 8))]
                return data[:at] + number + data[at + len(number) :]
            case 7:  # wire format between
                return data[:at] + self.pick(WIRE) + data[at:]
            case _:  # two slices change places
                return data[end:] + data[:end]

    def message(self, message: M) -> bytes:
        """`message` on the wire, with changed fields, changed bytes, or both; now and then as it is."""
        way = self.below(16)
        if way == 0:
            return message.SerializeToString()
        if way < 11:
            changed = type(message)()
            changed.CopyFrom(message)
            for _ in range(1 + self.below(2)):
                self.field(changed)
            message = changed
        data = message.SerializeToString()
        if way == 10:
            return data + self.pick(WIRE)
        return self.garble(data) if way > 8 else data

    def field(self, message: Message) -> None:
        """Change one field of `message` in place."""
        fields = cast(Sequence[FieldDescriptor], message.DESCRIPTOR.fields)
        if not fields:
            return
        field = self.pick(fields)
        if field.is_repeated:
            if self.chance(0.5):
                message.ClearField(field.name)
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                getattr(message, field.name).add()
            else:
                getattr(message, field.name).append(self._value(field, _BLANK.get(field.type, 0)))
        elif self.chance(0.15):
            message.ClearField(field.name)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = getattr(message, field.name)
            inner.SetInParent()
            self.field(inner)
        else:
            setattr(message, field.name, self._value(field, getattr(message, field.name)))

    def _value(self, field: FieldDescriptor, old: object) -> object:
        if field.type == FieldDescriptor.TYPE_STRING:
            return self.pick(TEXTS)
        if field.type == FieldDescriptor.TYPE_BYTES:
            assert isinstance(old, bytes)
            return self.garble(old)
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return self.pick(DOUBLES)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return not old
        assert isinstance(old, int)
        value = old + self.pick((-1, 1)) if self.chance(0.3) else self.pick(INTEGERS)
        unsigned = field.type in (
            FieldDescriptor.TYPE_UINT32,
            FieldDescriptor.TYPE_UINT64,
            FieldDescriptor.TYPE_FIXED32,
        )
        bits = 64 if field.type in (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_INT64) else 32
        value &= (1 << bits) - 1
        return value if unsigned or value < 1 << (bits - 1) else value - (1 << bits)

    def tokens(self, tokens: Sequence[str]) -> str:
        """JSON text whose tokens are `tokens`, with one or two of them changed."""
        changed = list(tokens)
        for _ in range(1 + self.below(2)):
            at, other = self.below(len(changed)), self.below(len(changed))
            match self.below(8):
                case 0:
                    del changed[at]
                case 1:
                    changed.insert(at, changed[other])
                case 2:
                    changed[at], changed[other] = changed[other], changed[at]
                case 3:
                    changed[at : at + self.below(8)] = ()
                case _:
                    changed[at] = self.pick(JSON_TOKENS)
            if not changed:
                break
        return "".join(changed)

    def floats(self, data: bytes) -> bytes:
        """float32 `data` with one value changed."""
        if len(data) < 4:
            return data
        at = 4 * self.below(len(data) // 4)
        return data[:at] + struct.pack("<f", self.pick(FLOATS)) + data[at + 4 :]

    def cut(self, data: bytes, most: int = 4) -> list[bytes]:
        """`data` in up to `most` chunks of random size, some of them empty."""
        cuts = sorted(self.below(len(data) + 1) for _ in range(self.below(most)))
        return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
