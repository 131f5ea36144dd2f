"""Pipelined exchanges as the coordinator sees them: opened, added to, begun anew, finished."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from enum import Enum, auto
from typing import Any

from leader.aggregation.base import Contribution, Result
from leader.aggregation.decoding import Decoder
from leader.aggregation.sliced import Folded, SlicedAggregate
from leader.aggregation.weighting import make_weighting
from leader.config import RunConfig
from leader.config.codec_spec import up_spec
from leader.global_model.changes import DownLink
from leader.optimizers.base import ServerOptimizer, Step
from leader.state import RunState
from leader.training.pipeline.exchange import Pipeline
from leader.training.pipeline.link import GradientLinks
from leader.training.pipeline.step import SlicedStep
from leader.training.planning import Opening
from model.flat import Layout
from model.piece_files import PieceFiles
from protos import leader_pb2
from utils.codecs import make_codec
from utils.errors import LateUpdateError, PayloadError
from utils.vector import Recycled

_STATES, _VECTORS = 2, 3  # before and after a step; weights, velocity and what learners have of the weights
Compute = Callable[..., Awaitable[Any]]  # runs a function on the arithmetic thread


class Added(Enum):
    """What became of an update, or of a piece of one."""

    COUNTED = auto()  # all of the update is in the sum
    WAITING = auto()  # more pieces are to come, or this one was of no use
    ANEW = auto()  # all of it is in the sum, which has begun anew for it
    DROPPED = auto()  # the sum has begun anew, without it


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
    """The pipelined exchanges of a run, one after the other."""

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        optimizer: ServerOptimizer,
        decoder: Decoder,
        compute: Compute,
    ) -> None:
        spec = up_spec(config.codec)
        self.files = PieceFiles(layout, config.codec.piece_bytes, make_codec(spec) if spec else None)
        self.links = GradientLinks()
        self.open_now: Pipeline | None = None
        self._down = DownLink(config, layout)
        self._chunk_bytes = config.limits.chunk_bytes
        self._layout = layout
        self._weighting = make_weighting(config)
        self._optimizer = optimizer
        self._decoder = decoder
        self._compute = compute
        self._memory = Recycled(_STATES * _VECTORS)

    def open(self, opening: Opening, step: int, before: RunState, server_step: Step) -> SlicedAggregate:
        """Open exchange `step`, which steps from the model of `before`; its aggregate."""
        pieces, split = self.files.pieces, self._layout.parameter_count
        aggregate = SlicedAggregate(self._layout, pieces, opening.scale, self._weighting)
        sliced = SlicedStep(before, self._optimizer, server_step, pieces, split, self._memory)
        plan = opening.machine.plan
        self.open_now = Pipeline(
            plan.round, step, plan.parts, aggregate, sliced, self.files, self._down, self._chunk_bytes
        )
        return aggregate

    async def add(
        self, contribution: Contribution, piece: leader_pb2.Piece | None, learner: int, *, holder: bool
    ) -> Added:
        """Add an update, or a piece of one, from a learner; `holder`: it is the one that was asked for it.

        Raises what it must be refused with; then the sum is as it was.
        """
        assert self.open_now is not None
        if piece is None:
            return await self._add_whole(self.open_now, contribution, learner, holder=holder)
        return await self._add_piece(self.open_now, contribution, piece, learner)

    async def _add_whole(
        self, pipeline: Pipeline, contribution: Contribution, learner: int, *, holder: bool
    ) -> Added:
        anew = contribution.part in pipeline.aggregate.partial
        if anew and not holder:
            raise LateUpdateError(f"the update of {contribution.part} is coming from another learner")
        if anew:
            pipeline.note_change(contribution.part, learner)
        await self._compute(self._fold_whole, pipeline, contribution)
        if anew:
            pipeline.begin_anew(pipeline.parts)
        pipeline.send(await self._compute(pipeline.rest, pipeline.parts))
        return Added.ANEW if anew else Added.COUNTED

    def _fold_whole(self, pipeline: Pipeline, contribution: Contribution) -> None:
        payload = self._decoder.decode(contribution.payload)
        pipeline.aggregate.add(replace(contribution, payload=payload))

    async def _add_piece(
        self, pipeline: Pipeline, contribution: Contribution, piece: leader_pb2.Piece, learner: int
    ) -> Added:
        if piece.attempt != pipeline.attempt:
            return Added.WAITING
        folded, slices = await self._compute(pipeline.fold, contribution, piece.number)
        pipeline.send(slices)
        if folded is Folded.DIFFERS:
            pipeline.note_change(contribution.part, learner)
            pipeline.begin_anew(pipeline.parts)
            return Added.DROPPED
        return Added.COUNTED if pipeline.aggregate.complete(contribution.part) else Added.WAITING

    def without_partial(self, parts: Collection[str]) -> bool:
        """Before exchange of `parts` is closed: begin anew, with these alone, if others have left something."""
        assert self.open_now is not None
        if not self.open_now.aggregate.partial:
            return False
        self.open_now.begin_anew(parts)
        return True

    async def finish(self, parts: Collection[str]) -> tuple[RunState, Result]:
        """The state after the step with all updates of `parts`, and what the exchange came to."""
        pipeline = self.open_now
        assert pipeline is not None
        pipeline.send(await self._compute(pipeline.rest, parts))
        state, result = await self._compute(pipeline.finish)
        return state, result

    def end(self, version: int, counted: Collection[str]) -> None:
        """The exchange is over: version `version` is served, with the work of these ids; 0: it was given up."""
        if self.open_now is not None:
            self.open_now.end(version, counted)
            self.links.tick()
        self.open_now = None


def refuse_piece() -> PayloadError:
    """What a piece is refused with where exchanges are not pipelined."""
    return PayloadError("this exchange takes whole updates; send them with AccumulateGradients")
