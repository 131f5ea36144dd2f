"""Ten classes of drawn shapes: a dataset that needs no download and has the same bits everywhere.

Random numbers are raw bits of a bit generator, angles come from a table of rounded values, and the
rest is float32 sums, products, quotients and square roots, which IEEE 754 fixes to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from utils.datasets.dataset import Dataset, Split
from utils.seeds import derive_seed

NAME = "synthetic shapes (drawn, not photos)"
SIZE = 32
CHUNK = 256  # images drawn at once: small enough to stay in the processor's cache

DISTRACTORS = 3
LEAST_CONTRAST = 40  # between shape and background, a channel, of 255
NOISE = 48  # a pixel's noise reaches from minus to plus this, of 255

_Reals = NDArray[np.floating]  # float32 throughout
_ANGLES = 256
_TABLE = [round(4096 * math.cos(2 * math.pi * i / _ANGLES)) for i in range(_ANGLES)]
_COSINE = np.array(_TABLE, np.float32) / np.float32(4096)
_SINE = np.roll(_COSINE, _ANGLES // 4)


def _box(u: _Reals, v: _Reals, half_width: float, half_height: float) -> _Reals:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _disc(u: _Reals, v: _Reals, radius: float) -> _Reals:
    return np.sqrt(u * u + v * v) - radius


def _triangle(u: _Reals, v: _Reals) -> _Reals:
    return np.maximum(0.866 * np.abs(u) + 0.5 * v, -v) - 0.5


#: Each shape as a function of its own coordinates (shape radius about 1): negative inside, positive
#: outside, the distance to the edge near it.
SHAPES: dict[str, Callable[[_Reals, _Reals], _Reals]] = {
    "disc": lambda u, v: _disc(u, v, 0.9),
    "ring": lambda u, v: np.abs(_disc(u, v, 0.75)) - 0.2,
    "square": lambda u, v: _box(u, v, 0.8, 0.8),
    "frame": lambda u, v: np.abs(_box(u, v, 0.7, 0.7)) - 0.18,
    "triangle": lambda u, v: _triangle(u, v),
    "cross": lambda u, v: np.minimum(_box(u, v, 1.0, 0.28), _box(u, v, 0.28, 1.0)),
    "bar": lambda u, v: _box(u, v, 1.1, 0.3),
    "crescent": lambda u, v: np.maximum(_disc(u, v, 1.0), -_disc(u - 0.5, v, 0.8)),
    "half disc": lambda u, v: np.maximum(_disc(u, v + 0.4, 1.0), -v - 0.4),
    "stripes": lambda u, v: np.maximum(_box(u, v, 1.0, 1.0), 0.2 - np.abs(np.abs(v) - 0.5)),
}
CLASSES = tuple(SHAPES)


def synthetic_shapes(
    train: int = 20_000, test: int = 4_000, seed: int = 0, *, cut: tuple[int, int] = (0, 0)
) -> Split:
    """`train` and `test` images of one shape each, in random colour, place, size and angle.

    Around it are a shaded background, smaller shapes as distractors, and noise. Examples are in random
    order, classes equally likely. With `cut` only the first so many of each are drawn, 0 = all.
    """
    return Split(
        _draw(train, derive_seed(seed, "train"), cut[0]), _draw(test, derive_seed(seed, "test"), cut[1])
    )


class _Random:
    """Uniform numbers from raw bits, which NumPy promises never to change."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def bytes(self, *shape: int) -> NDArray[np.int64]:
        """Integers 0..255."""
        count = math.prod(shape)
        raw = self._bits.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)
        return raw[:count].reshape(shape).astype(np.int64)

    def below(self, bound: int, count: int) -> NDArray[np.int64]:
        """Integers 0..bound-1, (count,)."""
        return (self._bits.random_raw(count) % bound).astype(np.int64)

    def uniform(self, low: float, high: float, count: int) -> _Reals:
        """Reals in [low, high), (count, 1, 1), of 16 random bits each."""
        unit = self.below(1 << 16, count).astype(np.float32) / np.float32(1 << 16)
        return (np.float32(low) + unit * np.float32(high - low))[:, None, None]


def _draw(count: int, seed: int, cut: int) -> Dataset:
    random = _Random(seed)
    labels = random.below(len(CLASSES), count)
    wanted = min(cut or count, count)
    images = np.empty((wanted, 3, SIZE, SIZE), np.uint8)
    for start in range(0, wanted, CHUNK):
        drawn = _draw_chunk(labels[start : start + CHUNK], random)  # whole, or the next had other numbers
        images[start : start + CHUNK] = drawn[: wanted - start]
    return Dataset(NAME, images, labels[:wanted], CLASSES)


def _draw_chunk(labels: NDArray[np.int64], random: _Random) -> NDArray[np.uint8]:
    count = len(labels)
    canvas, colour = _background(count, random)
    for _ in range(DISTRACTORS):
        kinds = random.below(len(CLASSES), count)
        _paint(canvas, _cover(kinds, random, radius=(2.0, 3.5), reach=15), random.bytes(count, 3))
    # At least LEAST_CONTRAST away from the background in every channel, lighter or darker.
    away = LEAST_CONTRAST + random.bytes(count, 3) % (256 - 2 * LEAST_CONTRAST)
    _paint(canvas, _cover(labels, random, radius=(7.0, 11.0), reach=5), (colour + away) % 256)
    noise = random.bytes(count, 3, SIZE, SIZE).astype(np.float32) - np.float32(127.5)
    canvas += noise * np.float32(NOISE / 127.5)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _background(count: int, random: _Random) -> tuple[_Reals, NDArray[np.int64]]:
    """One colour with a slope of light across it (count, 3, SIZE, SIZE), and that colour (count, 3)."""
    colour = random.bytes(count, 3)
    x, y = _grid()
    slope = random.uniform(-1.5, 1.5, count) * x + random.uniform(-1.5, 1.5, count) * y
    return colour.astype(np.float32)[:, :, None, None] + slope[:, None], colour


def _grid() -> tuple[_Reals, _Reals]:
    """Pixel centres (1, SIZE) and (SIZE, 1), from the middle of the image."""
    axis = np.arange(SIZE, dtype=np.float32) - np.float32((SIZE - 1) / 2)
    return axis[None, :], axis[:, None]


def _cover(kinds: NDArray[np.int64], random: _Random, *, radius: tuple[float, float], reach: float) -> _Reals:
    """How far each pixel is covered by a shape, 0..1, (count, SIZE, SIZE); `radius` and `reach` in pixels."""
    count = len(kinds)
    scale = random.uniform(*radius, count)
    x, y = _grid()
    x, y = x - random.uniform(-reach, reach, count), y - random.uniform(-reach, reach, count)
    angle = random.below(_ANGLES, count)
    cosine, sine = _COSINE[angle][:, None, None] / scale, _SINE[angle][:, None, None] / scale
    u, v = x * cosine + y * sine, y * cosine - x * sine
    inside = np.empty_like(u)
    for kind, shape in enumerate(SHAPES.values()):
        rows = np.flatnonzero(kinds == kind)
        inside[rows] = shape(u[rows], v[rows])
    return np.clip(np.float32(0.5) - inside * scale, 0, 1)


def _paint(canvas: _Reals, cover: _Reals, colour: NDArray[np.int64]) -> None:
    """Lay colours (count, 3) over the canvas where it is covered, in place."""
    canvas += (colour.astype(np.float32)[:, :, None, None] - canvas) * cover[:, None]
