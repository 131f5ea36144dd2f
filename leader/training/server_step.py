"""One step of the server: an exchange's aggregate becomes new weights, slice by slice or at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from leader.aggregation.base import Aggregator, Result
from leader.global_model.versions import next_version
from leader.optimizers.base import ServerOptimizer, Step
from leader.state import RunState
from model.layout import Layout
from utils import faults
from utils.codecs.pieces import Piece
from utils.vector import Vector, fresh
from utils.wire.payload import Bytes

_TILE = 1 << 15  # elements


class ServerStep:
    """The step from `before`, made in slices in any order: optimizers are element-wise, so its bits are the same.

    `pieces` cover what `layout` shares, parameters, then buffers; all else stays as it is. Vectors of the new
    state come from `memory`.
    """

    def __init__(
        self,
        before: RunState,
        layout: Layout,
        optimizer: ServerOptimizer,
        step: Step,
        pieces: Sequence[Piece],
        memory: Callable[[int], Bytes] = fresh,
    ) -> None:
        self.before = before
        self._layout = layout
        self._optimizer = optimizer
        self._step = step
        self._pieces = pieces
        self._memory = memory
        self._had = layout.gathered(before.vector)
        self._kept = {name: layout.gathered(vector) for name, vector in before.optimizer.items()}
        self.restart()

    def restart(self) -> None:
        """Forget what has been made."""
        self._vector = self._empty(self._had.size)
        self._state: dict[str, Vector] = {}
        self._public: Vector | None = None
        self._made: set[int] = set()

    def made(self, number: int) -> bool:
        """Whether slice `number` is there."""
        return number in self._made

    def apply(self, number: int, mean: Vector) -> Vector:
        """The new weights of slice `number`; `mean` is its mean gradient or delta, or mean change of buffers."""
        piece = self._pieces[number]
        place = slice(piece.start, piece.stop)
        if piece.start < self._layout.shared_parameter_count:
            # In tiles, whose temporaries stay in the processor's cache.
            for start in range(piece.start, piece.stop, _TILE):
                tile = slice(start, min(start + _TILE, piece.stop))
                self._step_on(tile, mean[tile.start - piece.start : tile.stop - piece.start])
        else:
            np.add(mean, self._had[place], out=self._vector[place])
        self._made.add(number)
        return self._vector[place]

    def _step_on(self, place: slice, mean: Vector) -> None:
        state = {name: vector[place] for name, vector in self._kept.items()}
        after, self._vector[place] = self._optimizer.apply(state, self._had[place], mean, self._step)
        for name, values in after.items():
            if name not in self._state:
                self._state[name] = self._empty(self._layout.shared_parameter_count)
            self._state[name][place] = values

    def _empty(self, size: int) -> Vector:
        return self._memory(4 * size).view(np.float32)

    def publish(self, number: int, values: Vector) -> None:
        """What learners have of slice `number`, where that is not what the leader has (codec.down)."""
        piece = self._pieces[number]
        if self._public is None:
            self._public = self._empty(self._vector.size)
        self._public[piece.start : piece.stop] = values

    def finish(self, result: Result) -> RunState:
        """The state after the step, all of whose slices must be made, for an exchange that came to `result`."""
        assert len(self._made) == len(self._pieces)
        before, layout = self.before, self._layout
        return replace(
            before,
            vector=layout.merged(before.vector, self._vector),
            optimizer={name: layout.merged(before.optimizer[name], new) for name, new in self._state.items()},
            public=self._public,
            version=next_version(before.version, result.digest),
            exchanges=before.exchanges + 1,
            privacy=result.privacy,
            masks_range=result.masks_range,
        )


def step_at_once(
    before: RunState,
    layout: Layout,
    optimizer: ServerOptimizer,
    aggregate: Aggregator,
    step: Step,
    everybody: int,
) -> tuple[RunState, Result]:
    """The step with all that is in `aggregate`; `everybody` is the number of examples of all parts that there are."""
    result = aggregate.finish()
    aggregate.close()  # before the step and the version it makes take memory
    # Parts whose updates are in may have gone since.
    step = replace(step, participation=result.examples / max(result.examples, everybody))
    faults.reach("leader.stepping", before.round + 1)
    pieces = layout.pieces()
    server_step = ServerStep(before, layout, optimizer, step, pieces)
    for piece in pieces:
        server_step.apply(piece.number, result.mean[piece.start : piece.stop])
    return server_step.finish(result), replace(result, mean=result.mean[:0].copy())
