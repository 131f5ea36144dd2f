"""One optimizer step of a gradient run, made slice by slice: the same bits as the step made at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from leader.aggregation.base import Result
from leader.aggregation.sliced import SlicedAggregate
from leader.global_model.versions import next_version
from leader.optimizers.base import ServerOptimizer, Step
from leader.state import RunState
from utils.codecs.pieces import Piece
from utils.vector import Recycled, Vector

_TILE = 1 << 15  # elements


class SlicedStep:
    """The step from `before`; its optimizer must be element-wise, as Sgd is.

    `pieces` cover the flat vector; those that start at `split` or behind it are buffers. The new state's
    vectors come from `memory`.
    """

    def __init__(
        self,
        before: RunState,
        optimizer: ServerOptimizer,
        step: Step,
        pieces: Sequence[Piece],
        split: int,
        memory: Recycled,
    ) -> None:
        self.before = before
        self._optimizer = optimizer
        self._step = step
        self._pieces = pieces
        self._split = split
        self._memory = memory
        self.restart()

    def restart(self) -> None:
        """Forget what has been made."""
        self._vector = self._empty(self.before.vector.size)
        self._state: dict[str, Vector] = {}
        self._public: Vector | None = None
        self._made: set[int] = set()

    def made(self, number: int) -> bool:
        """Whether slice `number` is there."""
        return number in self._made

    def apply(self, number: int, mean: Vector) -> Vector:
        """The new weights of slice `number`; `mean` is its mean gradient, or mean change of buffers."""
        piece = self._pieces[number]
        if piece.start < self._split:
            # In tiles, whose temporaries stay in the processor's cache.
            for start in range(piece.start, piece.stop, _TILE):
                tile = slice(start, min(start + _TILE, piece.stop))
                self._step_on(tile, mean[tile.start - piece.start : tile.stop - piece.start])
        else:
            place = slice(piece.start, piece.stop)
            np.add(mean, self.before.vector[place], out=self._vector[place])
        self._made.add(number)
        return self._vector[piece.start : piece.stop]

    def _step_on(self, place: slice, mean: Vector) -> None:
        state = {name: vector[place] for name, vector in self.before.optimizer.items()}
        after, self._vector[place] = self._optimizer.apply(state, self.before.vector[place], mean, self._step)
        self._keep(place, after)

    def _keep(self, place: slice, state: Mapping[str, Vector]) -> None:
        for name, values in state.items():
            if name not in self._state:
                self._state[name] = self._empty(self._split)
            self._state[name][place] = values

    def _empty(self, size: int) -> Vector:
        return self._memory.empty(4 * size).view(np.float32)

    def publish(self, number: int, values: Vector) -> None:
        """What learners have of slice `number`, where that is not what the leader has (codec.down)."""
        piece = self._pieces[number]
        if self._public is None:
            self._public = self._empty(self._vector.size)
        self._public[piece.start : piece.stop] = values

    def finish(self, aggregate: SlicedAggregate) -> tuple[RunState, Result]:
        """The state after the step, all of whose slices must be made, and what the exchange came to."""
        assert len(self._made) == len(self._pieces)
        # As in Stepper, the new weights have taken the place of the mean.
        result = aggregate.result(self._vector)
        after = replace(
            self.before,
            vector=self._vector,
            optimizer=self._state,
            public=self._public,
            version=next_version(self.before.version, result.digest),
            exchanges=self.before.exchanges + 1,
        )
        return after, result
