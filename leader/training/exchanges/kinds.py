"""The kinds of exchange: synchronous, pipelined and buffered rounds."""

from __future__ import annotations

from dataclasses import replace

from leader.rounds.protocol import CloseGroup, RoundEvent
from leader.state import RunState
from leader.training.engine import Engine
from leader.training.exchanges.base import ExchangeKind, OpenExchange
from leader.training.exchanges.buffered import BufferedExchange
from leader.training.exchanges.masked import MaskedExchange, Masking
from leader.training.exchanges.masked_buffered import MaskedBufferedExchange
from leader.training.exchanges.pipelined import PipelinedExchange, Pipelining, is_pipelined
from leader.training.exchanges.scoring import ScoringExchange
from leader.training.exchanges.synchronous import SynchronousExchange


def choose_kind(engine: Engine) -> ExchangeKind:
    """The kind that the engine's config asks for."""
    is_masked = engine.config.secagg.mode != "off"
    if engine.config.buffer.size:
        return masked_buffered(engine) if is_masked else buffered(engine)
    if is_masked:
        return masked(engine)
    return pipelined(engine) if is_pipelined(engine.config) else synchronous(engine)


def synchronous(engine: Engine) -> ExchangeKind:
    """Rounds of whole updates that are waited for."""

    def open_round(state: RunState) -> OpenExchange:
        return SynchronousExchange(engine, state, engine.rounds.cohort(state))

    return ExchangeKind(open_round, lambda state: _last_scores(engine, state), left=engine.branches.left)


def pipelined(engine: Engine) -> ExchangeKind:
    """Rounds of steps that are exchanged in pieces."""
    pipelining = Pipelining(engine)

    def open_round(state: RunState) -> OpenExchange:
        return PipelinedExchange(engine, state, engine.rounds.cohort(state), pipelining)

    streams = pipelining.streams
    return ExchangeKind(open_round, lambda state: _last_scores(engine, state), streams, streams.links.end)


def buffered(engine: Engine) -> ExchangeKind:
    """Rounds that are buffers of updates, whoever sends them."""
    exchange: list[BufferedExchange] = []

    def open_round(state: RunState) -> OpenExchange:
        if not exchange:
            exchange.append(BufferedExchange(engine, state))
        exchange[0].begin(state)
        return exchange[0]

    return ExchangeKind(open_round)


def masked(engine: Engine) -> ExchangeKind:
    """Rounds of whole updates that come masked."""
    masking = Masking(engine, engine.scratch and engine.scratch / "pending-sum.safetensors")

    def open_round(state: RunState) -> OpenExchange:
        return MaskedExchange(engine, state, engine.rounds.cohort(state), masking)

    return _under_masks(ExchangeKind(open_round, begin=masking.begin, left=engine.branches.left), masking)


def masked_buffered(engine: Engine) -> ExchangeKind:
    """Rounds that are buffers of masked groups."""
    masking, exchange = Masking(engine), list[MaskedBufferedExchange]()

    def open_round(state: RunState) -> OpenExchange:
        if not exchange:
            exchange.append(MaskedBufferedExchange(engine, state))
        exchange[0].begin(state)
        masking.open_now = exchange[0]
        return exchange[0]

    async def unmask(action: CloseGroup) -> RoundEvent:
        return await exchange[0].unmask(action)

    return _under_masks(ExchangeKind(open_round, unmask=unmask), masking)


def _under_masks(kind: ExchangeKind, masking: Masking) -> ExchangeKind:
    """`kind` with what its learners say in sessions, and when these end."""
    return replace(
        kind,
        stop=masking.stop,
        deadline=masking.deadline,
        tick=masking.tick,
        masked=masking.heard,
        returned=masking.returned,
        revive=masking.revive,
    )


def _last_scores(engine: Engine, state: RunState) -> OpenExchange:
    """Learners are to score the last model."""
    return ScoringExchange(engine, state, engine.rounds.scoring(state))
