"""Top-k: only the largest values travel, the rest waits (Deep Gradient Compression)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.codecs.base import Arrays, Moment, Shapes, Spec, State, count, require
from utils.codecs.feedback import add
from utils.codecs.scaled import from_halves, to_halves
from utils.errors import PayloadError
from utils.vector import Vector

_FIRST_SHARE = 1 / 4  # sent at the start of a warm-up
_NARROW = (
    1 / 128
)  # share from which on gaps of a byte take fewer bytes, with the zeros that bridge larger ones
_STRIDE = 61  # one of so many magnitudes is looked at first; a prime, so that not all are of one channel
_MARGIN = 8  # more of these, as few of them say little


@dataclass(frozen=True)
class TopK:
    """The `fraction` of a piece with the largest magnitudes; the others are added to the next values.

    Deep Gradient Compression (Lin et al. 2018, arXiv 1712.01887, algorithm 4), with gradient g, momentum m,
    and all operations element by element:

        u <- m u + g                        momentum correction: the velocity adds up, not the gradient
        v <- v + u                          what has not been sent; with Nesterov v + m u + g
        sent = the k largest |v|            of the whole piece, k = max(1, ceil(share * n))
        v <- v - sent

    The paper sets u to 0 where values are sent (momentum factor masking), which takes of each gradient what it would
    have moved from then on: the more is sent, the less momentum there is. Left out, all of it arrives, as with a
    fraction of 1, which is SGD with momentum (docs/performance.md has the figures).

    With momentum 0 that is plain error feedback; with more, the leader's optimizer must be without momentum.
    v also keeps what the rounding of sent values loses.

    In the first `warmup` of the run the share falls from 1/4 to `fraction`: the paper's 25 %, 6.25 %,
    1.6 %, ... at every epoch, here as one exponential in the progress of the run.

    Tensors: `gaps` U8 (k,), the values passed over before each that is sent (U16 for a fraction below 1/128);
    `values` U8 (k,), E5M2 numbers, which are the upper bytes of float16; `scale` F32 (1,), a power of two that
    belongs to them. That is 2 bytes a value: at 2 %, 1 % of the float32 bytes. A gap that is too large is
    bridged by zeros that are sent. Three significant bits are enough, as v keeps what rounding loses: the bytes
    that more of them take are better spent on more values. Zeros are not sent otherwise, and of equal
    magnitudes the first go. A caller that encodes every time from a new state gets plain top-k.
    """

    fraction: float  # of the values, in (0, 1]
    warmup: float = 0.0  # fraction of the run, 0..1
    momentum: float = 0.0  # in [0, 1), of the encoder alone, so no part of the spec
    nesterov: bool = False  # likewise

    @property
    def spec(self) -> str:
        """Such as "topk:0.01", or with a warm-up "topk:0.01:0.1"."""
        return f"topk:{self.fraction}:{self.warmup}" if self.warmup else f"topk:{self.fraction}"

    def init(self, shapes: Shapes) -> State:
        """Zeros: `residual` (n,), which is v, and with momentum `momentum` (n,), which is u."""
        names = ("residual", "momentum") if self.momentum else ("residual",)
        return {name: np.zeros(count(shapes), np.float32) for name in names}

    def encode(self, values: Vector, shapes: Shapes, state: State, moment: Moment) -> tuple[Arrays, State]:
        """As `Codec.encode`; what is decoded and the new residual add up to exactly v."""
        velocity = self._velocity(values, state)
        residual = add(state["residual"], self._moves(velocity, values))
        sent = _largest(residual, _quota(len(residual), self._share(moment.progress)))
        quarters, scale = _to_quarters(residual[sent])
        residual[sent] -= _from_quarters(quarters, scale)
        gaps, quarters = _bridged(sent, quarters, self._gap)
        arrays: Arrays = {"gaps": gaps, "values": quarters, "scale": scale}
        return arrays, {"residual": residual, **({"momentum": velocity} if self.momentum else {})}

    def check(self, tensors: Mapping[str, Spec], shapes: Shapes) -> None:
        """As `Codec.check`; k may at any time be what it is at the start of the warm-up."""
        kept = math.prod(tensors["gaps"][1]) if "gaps" in tensors else 0
        gap = f"U{8 * self._gap.itemsize}"
        require(tensors, {"gaps": (gap, (kept,)), "values": ("U8", (kept,)), "scale": ("F32", (1,))})
        size = count(shapes)
        most = min(size, _quota(size, self._first_share) + size // _reach(self._gap))
        if kept > most:
            raise PayloadError(f"{self.spec}: {kept} of {size} values were sent; at most {most} can be")

    def decode(self, arrays: Arrays, shapes: Shapes) -> Vector:
        """As `Codec.decode`; the values are finite."""
        values = np.zeros(count(shapes), np.float32)
        positions = np.cumsum(arrays["gaps"].astype(np.int64) + 1) - 1
        if len(positions) and positions[-1] >= len(values):
            raise PayloadError(
                f"{self.spec}: value {positions[-1]} was sent of a piece that has {len(values)}"
            )
        values[positions] = _from_quarters(arrays["values"], arrays["scale"])
        return values

    @property
    def _gap(self) -> np.dtype[Any]:
        return np.dtype("u1" if self.fraction >= _NARROW else "<u2")

    def _velocity(self, values: Vector, state: State) -> Vector:
        return add(np.float32(self.momentum) * state["momentum"], values) if self.momentum else values

    def _moves(self, velocity: Vector, values: Vector) -> Vector:
        nesterov = self.nesterov and self.momentum
        return add(np.float32(self.momentum) * velocity, values) if nesterov else velocity

    @property
    def _first_share(self) -> float:
        return max(self.fraction, _FIRST_SHARE) if self.warmup else self.fraction

    def _share(self, progress: float) -> float:
        if progress >= self.warmup:
            return self.fraction
        first = self._first_share
        return first * float((self.fraction / first) ** (progress / self.warmup))


def _quota(size: int, share: float) -> int:
    return min(size, max(1, math.ceil(share * size)))


def _largest(values: Vector, number: int) -> NDArray[np.intp]:
    """Positions of the `number` largest magnitudes, ascending, without those that are zero."""
    if not number:
        return np.empty(0, np.intp)
    magnitudes = np.abs(values)
    likely = np.flatnonzero(magnitudes >= _low_guess(magnitudes, number))
    if len(likely) < number:
        likely = np.arange(len(values))
    magnitudes = magnitudes[likely]
    least = np.partition(magnitudes, -number)[-number]
    above = np.flatnonzero(magnitudes > least)
    if least == 0:
        return likely[above]
    ties = np.flatnonzero(magnitudes == least)[: number - len(above)]
    return likely[np.sort(np.concatenate((above, ties)))]


def _low_guess(magnitudes: Vector, number: int) -> np.float32:
    """What about twice `number` of the magnitudes are no less than; to order all of them takes five times as long."""
    sample = magnitudes[::_STRIDE]
    place = min(len(sample), 2 * number // _STRIDE + _MARGIN)
    return np.float32(np.partition(sample, -place)[-place])


def _to_quarters(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], Vector]:
    """E5M2 numbers, rounded from float16 to nearest, ties to even, and their scale. Below 2^-143 they are zero."""
    halves, scale = to_halves(values)
    bits = halves.view("<u2")
    return ((bits + 0x7F + (bits >> 8 & 1)) >> 8).astype(np.uint8), scale


def _from_quarters(quarters: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.float32]:
    return from_halves((quarters.astype("<u2") << 8).view("<f2"), scale)


def _reach(gap: np.dtype[Any]) -> int:
    """How far on the largest gap leads."""
    return 1 << 8 * gap.itemsize


def _bridged(
    positions: NDArray[np.intp], values: NDArray[np.uint8], gap: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Gaps before `values` and before the zeros that bridge gaps that are too large; and all those values."""
    gaps, reach = np.diff(positions, prepend=-1) - 1, _reach(gap)
    bridges = gaps // reach
    ends = np.cumsum(bridges + 1) - 1
    total = len(gaps) + int(bridges.sum())
    all_gaps = np.full(total, reach - 1, gap)
    all_gaps[ends] = gaps % reach
    all_values = np.zeros(total, np.uint8)
    all_values[ends] = values
    return all_gaps, all_values
