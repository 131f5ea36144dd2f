"""Sizes and dtypes of encoded tensors, as far as every codec asks for them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from utils.codecs.base import Shapes, Spec
from utils.errors import PayloadError


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
