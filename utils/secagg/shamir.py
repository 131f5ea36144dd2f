"""Shamir's secret sharing of 32 bytes, modulo the prime after 2^256 (Shamir 1979, "How to share a secret")."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence

from utils.errors import PayloadError

PRIME = (1 << 256) + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(
    secret: bytes, points: Iterable[int], threshold: int, draw: Callable[[int], int] = secrets.randbelow
) -> list[bytes]:
    """Shares at these x from 1 on, 33 bytes each; any `threshold` of them give the secret, fewer tell nothing.

    `draw` gives a secret integer in [0, n); it draws the coefficients from that of x on.
    """
    polynomial = [int.from_bytes(secret, "big"), *(draw(PRIME) for _ in range(threshold - 1))]
    return [_value(polynomial, x).to_bytes(SHARE_BYTES, "big") for x in points]


def _value(polynomial: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % PRIME
    return value


class Combiner:
    """Puts secrets together whose shares are at the same points x; Lagrange weights are made once."""

    def __init__(self, points: Sequence[int]) -> None:
        """Distinct points from 1 on, one a share."""
        self.weights = [_weight(points, x) for x in points]

    def secret(self, shares: Sequence[bytes]) -> bytes:
        """The 32 bytes that shares, in the points' order, stand for; wrong shares give another secret.

        Raises PayloadError for shares that can be of no secret.
        """
        numbers = [int.from_bytes(share, "big") for share in shares]
        value = sum(w * y for w, y in zip(self.weights, numbers, strict=True)) % PRIME
        if max(numbers) >= PRIME or value >> 256:
            raise PayloadError("shares that belong to no secret")
        return value.to_bytes(SECRET_BYTES, "big")


def _weight(points: Sequence[int], x: int) -> int:
    above = below = 1
    for other in points:
        if other != x:
            above = above * other % PRIME
            below = below * (other - x) % PRIME
    return above * pow(below, -1, PRIME) % PRIME
