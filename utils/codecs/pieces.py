"""Pieces: runs of whole tensors that are encoded, and in gradient runs exchanged, at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from utils.codecs.base import Shape, Shapes


@dataclass(frozen=True)
class Piece:
    """A run of whole tensors in a flat vector; `start` and `stop` count elements."""

    number: int  # 0 for the first tensors
    start: int
    stop: int
    shapes: Shapes


def cut(shapes: Sequence[Shape], least_bytes: int) -> tuple[Piece, ...]:
    """Tensors of these shapes, one after the other, as pieces in order of their numbers.

    They are cut from the end on, whose gradients are ready first: each has at least `least_bytes` as
    float32, but the first may have less.
    """
    groups: list[list[Shape]] = []
    size = least_bytes
    for shape in reversed(shapes):
        if size >= least_bytes:
            groups.append([])
            size = 0
        groups[-1].append(shape)
        size += 4 * math.prod(shape)
    pieces: list[Piece] = []
    start = 0
    for number, group in enumerate(reversed(groups)):
        stop = start + sum(math.prod(shape) for shape in group)
        pieces.append(Piece(number, start, stop, tuple(reversed(group))))
        start = stop
    return tuple(pieces)
