"""Reads the batch files of CIFAR-10's python version without unpickling them.

A batch file is a protocol 2 pickle of {data: uint8 array (n, 3072), labels: list of n ints, ...}.
`pickletools.genops` lists its opcodes without executing any; a small stack machine here keeps
strings, numbers and containers, and knows the three calls that such a file makes. None of them
is executed: a call becomes the argument that matters. Any other opcode or call is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError

PIXELS = 3 * 32 * 32
#: An official batch file has 31,035,999 bytes at most.
MAX_FILE_BYTES = 64 << 20

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING", "BINUNICODE"}
_PUTS = {"BINPUT", "LONG_BINPUT"}
_GETS = {"BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: dict[str, Callable[[], object]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}


@dataclass(frozen=True)
class _Global:
    name: str  # "module name", as in the file


@dataclass
class _Array:
    """What the file says of a numpy array: version, shape, dtype, Fortran order, bytes as latin-1 text."""

    state: object = None


@dataclass
class _Dtype:
    code: object


class _RefusedError(Exception):
    """The file holds something that a CIFAR-10 batch doesn't."""


@dataclass
class _Machine:
    """The stack and memo of a pickle, holding values only."""

    stack: list[object] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def step(self, opcode: str, arg: object) -> None:
        if opcode in ("PROTO", "STOP"):
            return
        if opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _LITERALS:
            self.stack.append(arg)
        elif opcode in _EMPTY:
            self.stack.append(_EMPTY[opcode]())
        elif opcode == "GLOBAL":
            self.stack.append(_Global(str(arg)))
        elif opcode == "MARK":
            self.marks.append(len(self.stack))
        elif opcode in _PUTS and isinstance(arg, int):
            self.memo[arg] = self.stack[-1]
        elif opcode in _GETS and isinstance(arg, int):
            self.stack.append(self.memo[arg])
        elif opcode in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[opcode])))
        elif opcode == "TUPLE":
            self.stack.append(tuple(self._pop_to_mark()))
        elif opcode in ("APPEND", "APPENDS"):
            self._append(self._pop(1) if opcode == "APPEND" else self._pop_to_mark())
        elif opcode in ("SETITEM", "SETITEMS"):
            self._set_items(self._pop(2) if opcode == "SETITEM" else self._pop_to_mark())
        elif opcode == "REDUCE":
            function, arguments = self._pop(2)
            self.stack.append(_call(function, arguments))
        elif opcode == "BUILD":
            self._build(*self._pop(1))
        else:
            raise _RefusedError(f"opcode {opcode}")

    def _pop(self, count: int) -> list[object]:
        if len(self.stack) < count:
            raise _RefusedError("an empty stack")
        popped = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return popped

    def _pop_to_mark(self) -> list[object]:
        return self._pop(len(self.stack) - self.marks.pop())

    def _append(self, values: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise _RefusedError("APPEND to something that is no list")
        target.extend(values)

    def _set_items(self, values: list[object]) -> None:
        target = self.stack[-1]
        if (
            not isinstance(target, dict)
            or len(values) % 2
            or not all(isinstance(key, str) for key in values[::2])
        ):
            raise _RefusedError("items that are no dict of strings")
        target.update(zip(values[::2], values[1::2], strict=True))

    def _build(self, state: object) -> None:
        target = self.stack[-1]
        if isinstance(target, _Array):
            target.state = state
        elif not isinstance(target, _Dtype):
            raise _RefusedError("BUILD of something that is no array")


def _call(function: object, arguments: object) -> object:
    """What a call in the file stands for; nothing is called."""
    if not isinstance(function, _Global) or not isinstance(arguments, tuple) or not arguments:
        raise _RefusedError("a call of something that is no function")
    if function.name == "_codecs encode":
        # genops gives byte strings as latin-1 text, so encoded text stays text: never a copy, so that
        # a file that encodes the same text a million times can't fill the memory.
        return arguments[0]
    if function.name in ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"):
        return _Array()
    if function.name == "numpy dtype":
        return _Dtype(arguments[0])
    raise _RefusedError(f"a call of {function.name!r}")


def _top_level(raw: bytes) -> dict[str, object]:
    machine = _Machine()
    for opcode, arg, _ in pickletools.genops(raw):
        machine.step(opcode.name, arg)
    match machine.stack:
        case [dict() as batch]:
            return batch
    raise _RefusedError("a top level that is no dict")


def _pixels(data: object) -> NDArray[np.uint8]:
    if not isinstance(data, _Array):
        raise _RefusedError("no array named data")
    match data.state:
        case (_, (int() as rows, int() as columns), _Dtype(code="u1"), bool() as fortran, str() as text):
            flat = np.frombuffer(text.encode("latin-1"), np.uint8)
            if columns != PIXELS or rows < 1 or flat.size != rows * columns:
                raise _RefusedError(f"data of shape ({rows}, {columns}) in {flat.size} bytes")
            return flat.reshape((rows, columns), order="F" if fortran else "C")
    raise _RefusedError("data that is no uint8 array of two dimensions")


def _labels(labels: object, rows: int) -> NDArray[np.int64]:
    if not isinstance(labels, list) or len(labels) != rows:
        raise _RefusedError(f"no list of {rows} labels")
    if not all(type(label) is int and 0 <= label < 10 for label in labels):
        raise _RefusedError("a label that is not in 0..9")
    return np.array(labels, np.int64)


def read_pickled_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (n, 3072) uint8 and labels (n,) int64 of one batch file; executes nothing from it.

    Raises DataError, naming the file, for anything but a CIFAR-10 batch of at most 64 MiB.
    """
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise DataError(f"{path} has {size} bytes; a CIFAR-10 batch has at most {MAX_FILE_BYTES}")
    try:
        batch = _top_level(path.read_bytes())
        pixels = _pixels(batch.get("data"))
        return pixels, _labels(batch.get("labels"), len(pixels))
    except (_RefusedError, ValueError, LookupError) as error:
        raise DataError(f"{path} is no CIFAR-10 batch: it has {error}; download the archive again") from error
