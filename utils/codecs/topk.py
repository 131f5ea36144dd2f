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
_REACH = 1 << 16  # how far on the largest gap leads
_STRIDE = 61  # one of so many magnitudes is looked at first; a prime, so that not all are of one channel
_MARGIN = 8  # more of these, as few of them say little


@dataclass(frozen=True)
class TopK:
    """The `fraction` of a piece with the largest magnitudes; the others are added to the next values.

    Deep Gradient Compression (Lin et al. 2018, arXiv 1712.01887, algorithm 4 in its plain form, without
    Nesterov), with gradient g, momentum m, and all operations element by element:

        u <- m u + g                        momentum correction: the velocity adds up, not the gradient
        v <- v + u                          what has not been sent
        sent = the k largest |v|            of the whole piece, k = max(1, ceil(share * n))
        v <- v - sent;  u <- 0 where sent   momentum factor masking

    With momentum 0 that is plain error feedback; with more, the leader's optimizer must be without momentum.
    v also keeps what the rounding of sent values loses.

    In the first `warmup` of the run the share falls from 1/4 to `fraction`: the paper's 25 %, 6.25 %,
    1.6 %, ... at every epoch, here as one exponential in the progress of the run.

    Tensors: `gaps` U16 (k,), the values passed over before each that is sent; `values` F16 (k,); `scale`
    F32 (1,), a power of two that belongs to them. That is 4 bytes a value: at 1 %, 1 % of the float32
    bytes. A gap that U16 can't hold is bridged by zeros that are sent. F16 rather than BF16: 11 significant
    bits instead of 8, and with the scale its range is wide enough, for the values of one piece that are
    worth sending lie close together. Zeros are not sent otherwise, and of equal magnitudes the first go.
    A caller that encodes every time from a new state gets plain top-k.
    """

    fraction: float  # of the values, in (0, 1]
    warmup: float = 0.0  # fraction of the run, 0..1
    momentum: float = 0.0  # in [0, 1), of the encoder alone, so no part of the spec

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
        residual = add(state["residual"], velocity)
        sent = _largest(residual, _quota(len(residual), self._share(moment.progress)))
        halves, scale = to_halves(residual[sent])
        residual[sent] -= from_halves(halves, scale)
        gaps, halves = _bridged(sent, halves)
        arrays: Arrays = {"gaps": gaps, "values": halves, "scale": scale}
        if not self.momentum:
            return arrays, {"residual": residual}
        velocity[sent] = 0
        return arrays, {"residual": residual, "momentum": velocity}

    def check(self, tensors: Mapping[str, Spec], shapes: Shapes) -> None:
        """As `Codec.check`; k may at any time be what it is at the start of the warm-up."""
        kept = math.prod(tensors["gaps"][1]) if "gaps" in tensors else 0
        require(tensors, {"gaps": ("U16", (kept,)), "values": ("F16", (kept,)), "scale": ("F32", (1,))})
        size = count(shapes)
        most = min(size, _quota(size, self._first_share) + size // _REACH)
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
        values[positions] = from_halves(arrays["values"], arrays["scale"])
        return values

    def _velocity(self, values: Vector, state: State) -> Vector:
        return add(np.float32(self.momentum) * state["momentum"], values) if self.momentum else values

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


def _bridged(
    positions: NDArray[np.intp], halves: NDArray[np.float16]
) -> tuple[NDArray[np.uint16], NDArray[Any]]:
    """Gaps before `halves` and before the zeros that bridge gaps too large for U16; and all those values."""
    gaps = np.diff(positions, prepend=-1) - 1
    bridges = gaps // _REACH
    ends = np.cumsum(bridges + 1) - 1
    total = len(gaps) + int(bridges.sum())
    all_gaps = np.full(total, _REACH - 1, "<u2")
    all_gaps[ends] = gaps % _REACH
    all_halves = np.zeros(total, "<f2")
    all_halves[ends] = halves
    return all_gaps, all_halves
