"""PowerSGD: matrices travel as the product of two thin ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.codecs.base import Arrays, Moment, Shapes, Spec, State, require
from utils.codecs.feedback import add
from utils.codecs.scaled import from_halves, to_halves
from utils.errors import PayloadError
from utils.vector import Vector

_SEED = 0x505347  # of the first Q
_BLOCK = 1 << 15  # elements of a product that are computed at once, to stay in the processor's cache


@dataclass(frozen=True)
class PowerSgd:
    """Each tensor of two or more dimensions as a matrix M (first, rest) of rank `rank`, with error feedback.

    Vogels et al. 2019, arXiv 1905.13727, algorithm 1: one power iteration that starts from the Q of the
    encoding before, inside the error feedback of algorithm 2:

        M <- M + residual
        P <- orthonormal(M Q);  Q <- M^T P
        sent = P Q^T;  residual <- M - sent

    In the paper P, then Q, are averaged over the workers by all-reduce, which the linearity of each product
    allows; all workers share one P, and the mean has rank `rank`. Here each learner sends P and Q of its own
    in one go, and the leader sums the products P Q^T. That is one trip instead of two, the sum has a higher
    rank and loses less, and it is exact over the decoded values, whoever else takes part.

    Tensors, each for all matrices one after the other: `p` F16, (rows, rank) each; `q` F16, (columns, rank)
    each; `scale` F32 (1,), a power of two that belongs to `q`; `plain` F32, the tensors that go as they
    are, which are those of fewer dimensions and those whose factors would be no fewer numbers. F16 halves
    the bytes; Q is made from the rounded P, and what its own rounding loses is in the residual.

    Encoding multiplies matrices by the BLAS, whose bits depend on processor and threads; decoding adds
    outer products element by element in a fixed order, so every leader decodes the same bits.
    """

    rank: int  # at least 1; less where a matrix is smaller

    @property
    def spec(self) -> str:
        """Such as "powersgd:2"."""
        return f"powersgd:{self.rank}"

    def init(self, shapes: Shapes) -> State:
        """`residual` (n,) of zeros, and `q`, all first Q one after the other: the same at every start."""
        plan = _plan(shapes, self.rank)
        q = np.empty(plan.q_size, np.float32)
        for number, matrix in enumerate(plan.matrices):
            rng = np.random.default_rng([_SEED, number, matrix.columns, matrix.rank])
            q[matrix.q] = rng.standard_normal(matrix.columns * matrix.rank, np.float32)
        return {"residual": np.zeros(plan.size, np.float32), "q": q}

    def encode(self, values: Vector, shapes: Shapes, state: State, moment: Moment) -> tuple[Arrays, State]:
        """As `Codec.encode`; what is decoded and the new residual add up to values + residual, but rounding."""
        plan = _plan(shapes, self.rank)
        wanted = add(state["residual"], values)
        p = np.empty(plan.p_size, "<f2")
        q = np.empty(plan.q_size, np.float32)
        start = np.empty(plan.q_size, np.float32)
        for matrix in plan.matrices:
            m = wanted[matrix.values].reshape(matrix.rows, matrix.columns)
            old = state["q"][matrix.q].reshape(matrix.columns, matrix.rank)
            left = _orthonormal(m @ old).astype(np.float16)
            right = m.T @ left.astype(np.float32)
            p[matrix.p] = left.ravel()
            q[matrix.q] = right.ravel()
            start[matrix.q] = _unit_columns(right, old).ravel()
        halves, scale = to_halves(q)
        plain = np.concatenate([np.empty(0, np.float32), *(wanted[part] for part in plan.plain)])
        arrays = {"p": p, "q": halves, "scale": scale, "plain": plain}
        wanted -= self.decode(arrays, shapes)
        return arrays, {"residual": wanted, "q": start}

    def check(self, tensors: Mapping[str, Spec], shapes: Shapes) -> None:
        """As `Codec.check`."""
        plan = _plan(shapes, self.rank)
        wanted = {
            "p": ("F16", (plan.p_size,)),
            "q": ("F16", (plan.q_size,)),
            "scale": ("F32", (1,)),
            "plain": ("F32", (plan.plain_size,)),
        }
        require(tensors, wanted)

    def decode(self, arrays: Arrays, shapes: Shapes) -> Vector:
        """As `Codec.decode`; the values are finite."""
        plan = _plan(shapes, self.rank)
        p, plain = arrays["p"].astype(np.float32), arrays["plain"].astype(np.float32)
        q = from_halves(arrays["q"], arrays["scale"])
        if not (np.abs(p) <= 1).all():
            raise PayloadError(f"{self.spec}: a value of p is not in -1..1, as in orthonormal columns")
        if not np.isfinite(plain).all():
            raise PayloadError(f"{self.spec}: a value of plain is NaN or infinite; none is sent")
        values = np.empty(plan.size, np.float32)
        for matrix in plan.matrices:
            _multiply(
                p[matrix.p].reshape(matrix.rows, matrix.rank),
                q[matrix.q].reshape(matrix.columns, matrix.rank),
                out=values[matrix.values].reshape(matrix.rows, matrix.columns),
            )
        start = 0
        for part in plan.plain:
            stop = start + part.stop - part.start
            values[part] = plain[start:stop]
            start = stop
        return values


@dataclass(frozen=True)
class _Matrix:
    """A tensor that goes as two factors; slices say where the flat vectors have it and them."""

    rows: int
    columns: int
    rank: int
    values: slice
    p: slice
    q: slice


@dataclass(frozen=True)
class _Plan:
    """How the tensors of a piece travel."""

    size: int
    matrices: tuple[_Matrix, ...]
    plain: tuple[slice, ...]  # of the values

    @property
    def p_size(self) -> int:
        return sum(matrix.rows * matrix.rank for matrix in self.matrices)

    @property
    def q_size(self) -> int:
        return sum(matrix.columns * matrix.rank for matrix in self.matrices)

    @property
    def plain_size(self) -> int:
        return sum(part.stop - part.start for part in self.plain)


def _plan(shapes: Shapes, most: int) -> _Plan:
    matrices: list[_Matrix] = []
    plain: list[slice] = []
    start = p = q = 0
    for shape in shapes:
        rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
        rank = min(most, rows, columns)
        values = slice(start, start + rows * columns)
        if rank * (rows + columns) < rows * columns:
            p_stop, q_stop = p + rows * rank, q + columns * rank
            matrices.append(_Matrix(rows, columns, rank, values, slice(p, p_stop), slice(q, q_stop)))
            p, q = p_stop, q_stop
        else:
            plain.append(values)
        start = values.stop
    return _Plan(start, tuple(matrices), tuple(plain))


def _orthonormal(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    """Orthonormal columns that span those of `matrix`, (rows, rank), by Householder reflections.

    Where they depend on each other, or are zero, any that complete them: M^T times those is about zero.
    """
    return np.linalg.qr(matrix.astype(np.float64))[0]


def _unit_columns(matrix: NDArray[np.float32], old: NDArray[np.float32]) -> NDArray[np.float32]:
    """The columns at length 1, whose M times them span the same; those of `old` where a column is zero.

    A Q of zeros would stay so: a layer without a gradient for once would never be sent again.
    """
    norms = np.linalg.norm(matrix.astype(np.float64), axis=0)
    scaled = matrix / np.where(norms > 0, norms, 1)
    return np.where(norms > 0, scaled, old).astype(np.float32)


def _multiply(left: NDArray[Any], right: NDArray[Any], out: NDArray[np.float32]) -> None:
    """left (rows, rank) times right (columns, rank) transposed, one product and one sum of float32 at a time."""
    factors = np.ascontiguousarray(right.T)
    step = max(1, _BLOCK // out.shape[1])
    for start in range(0, len(out), step):
        block = out[start : start + step]
        column = left[start : start + step]
        np.multiply(column[:, :1], factors[0], out=block)
        for i in range(1, len(factors)):
            block += column[:, i : i + 1] * factors[i]
