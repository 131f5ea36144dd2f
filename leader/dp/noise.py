"""The noise of a run's releases: how much, on which lattice, and from which key, another one after each round."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from utils.dp.discrete_gaussian import DiscreteGaussian
from utils.dp.lattice import MAX_REACH

_STEP = 32  # of one level of noise to the next; half the width of a level
_SMALL_STEPS = (2, 4, 8, 16)  # of the one level that 16 bits have room for
_LEVELS = range(1, 5)  # how often: noise of more is beyond 32 bits
#: Rounding to the lattice makes an update sqrt(size / 12) longer; the reach is so many times that.
_FINE = 32
_KEY_BYTES = 32


@dataclass(frozen=True)
class Mechanism:
    """How a sum is released: updates of at most `reach` levels, and noise of `multiplier` times that."""

    multiplier: float  # z; what is charged
    noise: DiscreteGaussian
    reach: int  # L2 norm of an update, its bit included
    bit: int = 0  # levels between the two values of the bit that says whether an update was clipped; even

    @classmethod
    def of(cls, multiplier: float, size: int, bit_sigma: float = 0.0) -> Mechanism:
        """For updates of `size` values; with `bit_sigma`, the noise of a sum of bits, if there is to be a bit.

        The bit is one more coordinate of the same vector, so that z^-2 = z_values^-2 + (2 bit_sigma)^-2
        (Andrew et al. 2021, theorem 1).
        """
        return cls._of(multiplier, size, bit_sigma, [DiscreteGaussian((_STEP,) * most) for most in _LEVELS])

    @classmethod
    def shared(cls, multiplier: float, size: int, bit_sigma: float, shares: int, room: int) -> Mechanism:
        """The same where each of `shares` updates brings as much of `noise`, and it with an update is within `room`."""
        noises = [DiscreteGaussian((_STEP,) * levels) for levels in range(_LEVELS.stop)]
        if room < 1 << 15:
            noises[1:] = [DiscreteGaussian((step,)) for step in _SMALL_STEPS]
        return cls._of(multiplier, size, bit_sigma, noises, shares, room)

    @classmethod
    def _of(
        cls,
        multiplier: float,
        size: int,
        bit_sigma: float,
        noises: list[DiscreteGaussian],
        shares: int = 1,
        room: int = 1 << 62,
    ) -> Mechanism:
        fine, times = _FINE * math.sqrt(size / 12), math.sqrt(shares)

        def reach_of(noise: DiscreteGaussian) -> float:
            return noise.accounted * times / multiplier

        fit = [one for one in noises if reach_of(one) <= min(MAX_REACH, room - one.peak)] or noises[:1]
        noise = next((one for one in fit if reach_of(one) >= fine), fit[-1])
        reach = max(1, min(MAX_REACH, room - noise.peak, math.floor(reach_of(noise))))
        bit = 2 * round(noise.sigma * times / bit_sigma / 2) if bit_sigma else 0
        return cls(multiplier, noise, reach, bit)

    @property
    def value_reach(self) -> int:
        """L2 norm of an update's values, in levels."""
        return math.isqrt(self.reach**2 - (self.bit // 2) ** 2)


def new_key() -> bytes:
    """A key that nobody knows."""
    return secrets.token_bytes(_KEY_BYTES)


def next_key(key: bytes) -> bytes:
    """The key of the next round, from which no older one can be found."""
    return derive_key(key, b"next")


def derive_key(key: bytes, purpose: bytes) -> bytes:
    """A key for one purpose (HKDF-Expand with SHA-256; `key` is uniformly random)."""
    return HKDFExpand(hashes.SHA256(), _KEY_BYTES, b"flockstep dp 1 " + purpose).derive(key)
