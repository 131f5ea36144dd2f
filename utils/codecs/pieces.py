"""Pieces: runs of tensors that are encoded, and in gradient runs exchanged, at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from utils.codecs.base import Shape, Shapes


@dataclass(frozen=True)
class Piece:
    """A run of tensors in a flat vector; `start` and `stop` count elements."""

    number: int  # 0 for the first tensors
    start: int
    stop: int
    shapes: Shapes
    tensors: tuple[int, ...]  # for each shape, which of all tensors it is, or is a part of


def cut(shapes: Sequence[Shape], least_bytes: int, *, cut_tensors: bool = False) -> tuple[Piece, ...]:
    """Tensors of these shapes, one after the other, as pieces in order of their numbers.

    They are cut from the end on, whose gradients are ready first: each has at least `least_bytes` as
    float32, but the first may have less. Tensors stay whole, but with `cut_tensors` those of more than
    `least_bytes` end a piece as soon as it has so many, and their parts, (n,), lie in several.
    """
    groups: list[list[tuple[int, Shape]]] = []
    least = max(1, -(-least_bytes // 4))  # elements
    size = least
    for tensor, shape in reversed(list(enumerate(shapes))):
        for part in _parts(shape, least, least - size) if cut_tensors else (shape,):
            if size >= least:
                groups.append([])
                size = 0
            groups[-1].append((tensor, part))
            size += math.prod(part)
    pieces: list[Piece] = []
    start = 0
    for number, group in enumerate(reversed(groups)):
        tensors, own = zip(*reversed(group), strict=True)
        stop = start + sum(map(math.prod, own))
        pieces.append(Piece(number, start, stop, own, tensors))
        start = stop
    return tuple(pieces)


def _parts(shape: Shape, most: int, room: int) -> Iterator[Shape]:
    """A tensor, or if it has more than `most` elements its parts from the end on; the piece before has `room`."""
    left = math.prod(shape)
    if left <= most:
        yield shape
        return
    while left:
        size = min(left, room if room > 0 else most)
        yield (size,)
        left, room = left - size, 0
