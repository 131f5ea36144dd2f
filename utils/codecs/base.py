"""What a codec is: two functions between float32 values and the tensors that travel in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from utils.errors import PayloadError
from utils.vector import Vector

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]  # of the tensors that lie one after the other in the values
Arrays = Mapping[str, NDArray[np.generic]]  # encoded tensors by name, in the order of their bytes
State = Mapping[str, Vector]  # what an encoder keeps from one encoding to the next: named flat vectors
Spec = tuple[str, Shape]  # safetensors dtype and shape of an encoded tensor


@dataclass(frozen=True)
class Moment:
    """When an encoding is made."""

    seed: int = 0  # of stochastic rounding; the same seed gives the same bytes
    progress: float = 0.0  # fraction of the run (0..1) that is done


class Codec(Protocol):
    """One way to encode a piece: float32 values (n,) that are whole tensors, flat, one after the other.

    `encode` leaves its arguments as they were. What it loses it may keep in the state that it returns, and
    add to the next values (error feedback).
    """

    @property
    def spec(self) -> str:
        """The text that `make_codec` makes this codec of: its kind, then its settings after colons."""
        ...

    def init(self, shapes: Shapes) -> State:
        """State before the first encoding of a piece."""
        ...

    def encode(self, values: Vector, shapes: Shapes, state: State, moment: Moment) -> tuple[Arrays, State]:
        """The tensors to send for finite `values`, and the new state."""
        ...

    def check(self, tensors: Mapping[str, Spec], shapes: Shapes) -> None:
        """Raise PayloadError unless these are tensors that `encode` could have made, by dtype and shape.

        Called before memory is taken for them, so it also bounds their size.
        """
        ...

    def decode(self, arrays: Arrays, shapes: Shapes) -> Vector:
        """The values, (n,) float32, new memory; `check` must have passed.

        Raises PayloadError for arrays that `encode` can't have made. The values may still be infinite or
        NaN where the codec's numbers can say so.
        """
        ...


def count(shapes: Shapes) -> int:
    """Values in tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


def require(tensors: Mapping[str, Spec], wanted: Mapping[str, Spec]) -> None:
    """Raise PayloadError unless `tensors` are those that are wanted, by name, dtype and shape."""
    if tensors.keys() != wanted.keys():
        raise PayloadError(f"encoded tensors must be {', '.join(wanted)}; got {str(list(tensors))[:200]}")
    for name, (dtype, shape) in wanted.items():
        if tensors[name] != (dtype, shape):
            got, size = tensors[name]
            raise PayloadError(f"encoded tensor {name!r} must be {dtype}{list(shape)}; got {got}{list(size)}")
