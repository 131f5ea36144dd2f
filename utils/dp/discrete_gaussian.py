"""Discrete Gaussian noise from a key: integers from AES-CTR words through an alias table, without rejection.

X0 + m1 X1 + m1 m2 X2 + ..., each Xi of width 64. By Peikert's convolution lemma that is a rounding, of width 4, of a
continuous Gaussian of sqrt(sigma^2 - 16): the Gaussian's privacy curve holds for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from operator import mul

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

WIDTH = 64  # standard deviation of each level
_TAIL = 10 * WIDTH  # beyond it lies less than 2**-72 of a Gaussian
_THRESHOLD_BITS = 53  # of a word of 64; those above are the slot
_SLOTS = 1 << 64 - _THRESHOLD_BITS
_FRACTION_BITS = 192  # of the fixed point that the table is made in
_TEXT = 1 << 17  # bytes of the cipher's stream at once
_SMOOTHING = 16.0  # square of the width of the rounding
_BLOCK = 1 << 16  # draws
#: The top bits of a word nearly always say on which side of its slot's threshold it is. With a table of 256 KiB, words
#: and what is made of them stay in the L2 cache.
_PREFIX_BITS = 17
_UNDECIDED = np.int16(-(1 << 15))


@dataclass(frozen=True)
class DiscreteGaussian:
    """Noise of the levels that these multipliers make.

    >>> round(DiscreteGaussian((32, 32)).sigma, 2)
    65568.02
    """

    multipliers: tuple[int, ...]

    @property
    def sigma(self) -> float:
        """Standard deviation."""
        steps = accumulate((1, *self.multipliers), mul)
        return WIDTH * math.sqrt(sum(step * step for step in steps))

    @property
    def accounted(self) -> float:
        """Standard deviation of the continuous Gaussian whose rounding this is: what may be promised for it."""
        return math.sqrt(self.sigma**2 - _SMOOTHING)

    @property
    def peak(self) -> int:
        """Largest magnitude of a draw."""
        return _TAIL * sum(int(step) for step in accumulate((1, *self.multipliers), mul))

    def draw(self, key: bytes, count: int, start: int = 0) -> NDArray[np.int32]:
        """Elements `start`, which must be even, to `start + count` of the noise of this key (32 bytes)."""
        last, *others = [_Level(key, number, start) for number in reversed(range(len(self.multipliers) + 1))]
        noise = np.empty(count, np.int32)
        for first in range(0, count, _BLOCK):
            block = noise[first : first + _BLOCK]
            block[:] = last.draw(block.size)
            for multiplier, level in zip(reversed(self.multipliers), others, strict=True):
                block *= multiplier
                block += level.draw(block.size)
        return noise


class _Level:
    """A discrete Gaussian of width 64, drawn block by block."""

    def __init__(self, key: bytes, number: int, start: int) -> None:
        assert start % 2 == 0
        # Levels are 2**64 counter blocks apart, more than any vector has.
        counter = ((number << 64) + start // 2).to_bytes(16, "big")
        self._stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
        self._by_prefix, self._last, self._choices = _tables()
        self._zeros = memoryview(bytes(_TEXT))
        self._text = bytearray(8 * _BLOCK + 15)  # a block of the cipher more than it needs
        self._prefixes = np.empty(_BLOCK, np.uint64)
        self._values = np.empty(_BLOCK, np.int16)
        self._open = np.empty(_BLOCK, np.bool_)

    def draw(self, count: int) -> NDArray[np.int16]:
        """The next values; good until the next call."""
        text = memoryview(self._text)
        for first in range(0, 8 * count, _TEXT):
            self._stream.update_into(self._zeros[: 8 * count - first], text[first:])
        words = np.frombuffer(self._text, "<u8", count)
        prefixes = np.right_shift(words, np.uint64(64 - _PREFIX_BITS), out=self._prefixes[:count])
        values = self._by_prefix.take(prefixes.view(np.int64), out=self._values[:count], mode="clip")
        undecided = np.flatnonzero(np.equal(values, _UNDECIDED, out=self._open[:count]))
        rest = words[undecided]
        slots = (rest >> np.uint64(_THRESHOLD_BITS)).view(np.int64)
        values[undecided] = self._choices[slots, (rest <= self._last[slots]).view(np.int8)]
        return values


@cache
def _tables() -> tuple[NDArray[np.int16], NDArray[np.uint64], NDArray[np.int16]]:
    """What a level draws with: values by prefix of a word; by slot, the last word of its own value, and both values.

    Where a prefix leaves open which it is, its value is _UNDECIDED.
    """
    thresholds, own, aliases = alias_table()
    own = np.where(thresholds == 0, aliases, own)
    slots = np.arange(_SLOTS, dtype=np.uint64) << np.uint64(_THRESHOLD_BITS)
    last = slots + thresholds - (thresholds > 0).astype(np.uint64)
    prefixes = np.arange(1 << _PREFIX_BITS, dtype=np.uint64) << np.uint64(64 - _PREFIX_BITS)
    ends = prefixes + np.uint64((1 << 64 - _PREFIX_BITS) - 1)
    of = (prefixes >> np.uint64(_THRESHOLD_BITS)).view(np.int64)
    decided = np.where(ends <= last[of], own[of], aliases[of])
    by_prefix = np.where((prefixes <= last[of]) & (ends > last[of]), _UNDECIDED, decided).astype(np.int16)
    return by_prefix, last, np.stack([aliases, own], 1).astype(np.int16)


@cache
def alias_table() -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]:
    """Thresholds (of 2**53), values and aliases of the slots (Walker 1977, Vose 1991), the same everywhere.

    A draw whose low 53 bits are below its slot's threshold is the slot's value, else its alias. Made in integers
    alone; thresholds are rounded once, so that a draw is within 2**-54 of the true one.
    """
    weights = _weights()
    total = sum(weights)
    mass = [weight * _SLOTS for weight in weights] + [0] * (_SLOTS - len(weights))
    kept, aliases = [total] * _SLOTS, list(range(_SLOTS))
    small = [slot for slot in range(_SLOTS) if mass[slot] < total]
    large = [slot for slot in range(_SLOTS) if mass[slot] >= total]
    while small and large:
        slot, giver = small.pop(), large.pop()
        kept[slot], aliases[slot] = mass[slot], giver
        mass[giver] -= total - mass[slot]
        (small if mass[giver] < total else large).append(giver)
    values = [*range(-_TAIL, _TAIL + 1), *[0] * (_SLOTS - len(weights))]
    thresholds = [((share << _THRESHOLD_BITS + 1) // total + 1) >> 1 for share in kept]
    return (
        np.array(thresholds, np.uint64),
        np.array(values, np.int32),
        np.array([values[slot] for slot in aliases], np.int32),
    )


def _weights() -> list[int]:
    """exp(-x^2 / (2 width^2)) for x from -tail to tail, as integers over 2**192."""
    one = 1 << _FRACTION_BITS
    term, root, number = one, 0, 0
    while term:  # the series of exp(-1 / (2 width^2)); its terms alternate in sign
        root += term if number % 2 == 0 else -term
        number += 1
        term //= 2 * WIDTH * WIDTH * number
    square = root * root >> _FRACTION_BITS
    half, ratio = [one], root
    for _ in range(_TAIL):  # (x + 1)^2 - x^2 = 2 x + 1
        half.append(half[-1] * ratio >> _FRACTION_BITS)
        ratio = ratio * square >> _FRACTION_BITS
    return half[:0:-1] + half
