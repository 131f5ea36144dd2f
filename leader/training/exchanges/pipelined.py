"""Pipelined rounds: updates come in pieces, and each slice of the step is made as soon as all have its piece."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from leader.aggregation.aggregate import Aggregate, Folded
from leader.aggregation.base import Contribution
from leader.aggregation.weighting import make_weighting
from leader.config import RunConfig
from leader.global_model.down_link import DownLink
from leader.rounds.protocol import Accepted, Applied, Reopen, RoundEvent
from leader.state import RunState
from leader.training.engine import Engine
from leader.training.exchanges.base import Admitted, Closed, OpenExchange
from leader.training.exchanges.pipeline import PieceStreams, Pipeline
from leader.training.exchanges.synchronous import SynchronousExchange
from leader.training.inbox import Submission
from leader.training.planning import Opening
from leader.training.server_step import ServerStep
from protos import leader_pb2
from utils import faults
from utils.errors import LateUpdateError
from utils.vector import Recycled

_STATES, _VECTORS = 2, 3  # before and after a step; weights, velocity and what learners have of the weights


def is_pipelined(config: RunConfig) -> bool:
    """Whether learners may exchange the steps of this run piece by piece.

    A piece must be of use alone: added without knowing the whole update's norm, and stepped with element by
    element; and no update may be left out of an exchange that all were asked for.
    """
    aggregate = config.aggregate
    return (
        config.exchange == "gradient"
        and config.train.pipeline
        and aggregate.rule == "mean"
        and aggregate.weighting in ("examples", "uniform")
        and not (aggregate.clip_norm or aggregate.reject_norm)
        and config.cohort.over_selection == 1
    )


class Pipelining:
    """What pipelined exchanges of one run have in common."""

    def __init__(self, engine: Engine) -> None:
        self.streams = PieceStreams(engine.decoder.files)
        self.down = DownLink(engine.config, engine.layout)
        self.weighting = make_weighting(engine.config)
        self.memory = Recycled(_STATES * _VECTORS)


class PipelinedExchange(SynchronousExchange):
    """A round's exchanges over streams; a whole update from a learner without one is all its pieces at once."""

    _pipeline: Pipeline

    def __init__(self, engine: Engine, state: RunState, opening: Opening, pipelining: Pipelining) -> None:
        self._pipelining = pipelining
        self._streams = pipelining.streams
        self._notes: dict[str, Callable[[], None]] = {}  # to be called once the step is made, by part
        super().__init__(engine, state, opening)

    def _open_sum(self, step: int) -> None:
        engine, own, plan = self._engine, self._pipelining, self.machine.plan
        files, layout = self._streams.files, engine.layout
        self.aggregate = Aggregate(layout, self._scale, own.weighting, files.pieces)
        told, memory = engine.server_step(plan, step), own.memory.empty
        server_step = ServerStep(self.state, layout, engine.optimizer, told, files.pieces, memory)
        chunk_bytes = engine.config.limits.chunk_bytes
        self._streams.open_now = self._pipeline = Pipeline(
            plan.round, step, plan.parts, self.aggregate, server_step, files, own.down, chunk_bytes
        )

    async def add(
        self, admitted: Admitted, submission: Submission, counted: Callable[[], None]
    ) -> RoundEvent | None:
        """See OpenExchange."""
        part, piece = admitted.part.id, submission.piece
        if piece is None:
            outcome = await self._add_whole(admitted, submission)
        else:
            learner = submission.member.learner_id
            outcome = await self._add_piece(admitted.contribution, piece, learner)
        if outcome.complete:
            self._notes[part] = counted  # the step may still begin anew without it
        if outcome.anew:
            return self._reopened()
        return Accepted(part, admitted.order.step) if outcome.complete else None

    async def _add_whole(self, admitted: Admitted, submission: Submission) -> _Outcome:
        pipeline, contribution, learner = self._pipeline, admitted.contribution, submission.member.learner_id
        anew = contribution.part in pipeline.aggregate.partial
        owed = (order.work_id for order in self.orders.owed_by(learner))
        if anew and submission.work_id not in owed:
            raise LateUpdateError(f"the update of {contribution.part} is coming from another learner")
        if anew:
            pipeline.note_change(contribution.part, learner)
        await self._engine.fold(pipeline.aggregate, contribution)
        if anew:
            pipeline.begin_anew(pipeline.parts)
        pipeline.send(await self._engine.host.compute(pipeline.rest, pipeline.parts))
        return _Outcome(complete=True, anew=anew)

    async def _add_piece(self, contribution: Contribution, piece: leader_pb2.Piece, learner: int) -> _Outcome:
        pipeline = self._pipeline
        if piece.attempt != pipeline.attempt:
            return _Outcome()
        folded, slices = await self._engine.host.compute(pipeline.fold, contribution, piece.number)
        pipeline.send(slices)
        if folded is Folded.DIFFERS:
            pipeline.note_change(contribution.part, learner)
            pipeline.begin_anew(pipeline.parts)
            return _Outcome(anew=True)
        return _Outcome(complete=pipeline.aggregate.complete(contribution.part))

    def _reopened(self) -> Reopen:
        """The open exchange has lost all that came in pieces: these must come again."""
        kept = tuple(sorted(self._pipeline.aggregate.whole))
        self._notes = {part: note for part, note in self._notes.items() if part in kept}
        return Reopen(tuple(part for part in self.machine.plan.parts if part in self._pipeline.parts), kept)

    async def close(self, step: int, parts: tuple[str, ...]) -> Closed:
        """See OpenExchange; if parts that are left out have left something in the sum, it begins anew."""
        pipeline, compute = self._pipeline, self._engine.host.compute
        if pipeline.aggregate.partial:
            pipeline.begin_anew(parts)
            return Closed(self._reopened())
        for note in self._notes.values():
            note()
        self._notes.clear()
        faults.reach("leader.collected", self.machine.plan.round)
        before = self.state
        pipeline.send(await compute(pipeline.rest, parts))
        after, result = await compute(pipeline.finish)
        followed = pipeline.followed
        self.state = await self._engine.publisher.publish(
            after, None if followed else before, prepare=not followed
        )
        self._end_streams(self.state.version, [self.orders.order(part).work_id for part in parts])
        if step + 1 < self.machine.plan.steps:
            self._open(step + 1)
        return Closed(Applied(), result)

    def _end_streams(self, version: int, counted: Collection[str]) -> None:
        """The exchange is over: version `version` is served, with the work of these ids; 0: it was given up."""
        self._pipeline.end(version, counted)
        self._streams.links.tick()
        self._streams.open_now = None

    def end(self) -> OpenExchange | None:
        """See OpenExchange."""
        self._notes.clear()
        if self._streams.open_now is not None:
            self._end_streams(0, ())
        return super().end()


@dataclass(frozen=True)
class _Outcome:
    """What became of an update, or of a piece of one."""

    complete: bool = False  # all of the update is in the sum
    anew: bool = False  # the sum has begun anew
