"""The coordinator drives rounds: open an exchange, feed it, close it, commit.

It alone runs the round machine and the open exchange; everything reaches it through one queue, so an update
is checked, folded in and counted before the next event is looked at.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from leader.evaluation.federated import check_metrics
from leader.events import (
    EventStream,
    FederatedEvaluated,
    RoundAbandoned,
    RoundStarted,
    StepApplied,
    UpdateAccepted,
)
from leader.global_model.versions import VersionStore
from leader.learners.membership import Member
from leader.learners.rendezvous import Rendezvous
from leader.rounds import protocol
from leader.rounds.protocol import Phase
from leader.runtime import earlier
from leader.state import RunState
from leader.training.commit import Commit
from leader.training.engine import Engine
from leader.training.exchanges.base import Admitted, ExchangeKind, OpenExchange
from leader.training.exchanges.kinds import choose_kind
from leader.training.exchanges.pipeline import PieceStreams
from leader.training.inbox import Inbox, LearnersChanged, Submission
from leader.training.round_metrics import Tally, Traffic
from leader.training.work_desk import WorkDesk
from protos import leader_pb2
from utils import faults
from utils.batches import most_held_out
from utils.errors import WireError

_LEAST_S = 1e-6  # shorter training is none
_CLOSED = (Phase.COMMITTED, Phase.ABANDONED)


async def _never() -> bool:
    return False


class Coordinator:
    """One run's rounds, from the state it is given to the last commit."""

    def __init__(
        self,
        engine: Engine,
        state: RunState,
        events: EventStream,
        save: Callable[[RunState], object],
        kind: Callable[[Engine], ExchangeKind] = choose_kind,
    ) -> None:
        self.state = state
        self.workforce = workforce = engine.workforce
        self.traffic = Traffic(state.bytes_up, state.bytes_down)
        self._config = config = engine.config
        self._events = events
        self._host = engine.host
        self._engine = engine
        self._kind = kind(engine)
        self._inbox = Inbox()
        self.desk = WorkDesk(
            workforce, self.versions, self._inbox, self._host.clock, lambda: self.over, self.stop
        )
        self._commit = Commit(config, save, workforce, events, self.traffic, self._host)
        self._rendezvous = Rendezvous(
            config, workforce, events, lambda: self.over, lambda: self.desk.trouble, self.stop
        )
        self._tally = Tally(0.0, self.traffic)
        self._calls_back = False  # a resumed run has no round left, and wants its learners once more
        self._stop_reason: str | None = None
        workforce.subscribe(self._inbox.wake)

    @property
    def versions(self) -> VersionStore:
        """The model versions that are served."""
        return self._engine.publisher.versions

    @property
    def streams(self) -> PieceStreams | None:
        """Where streams bring updates in pieces; None if all come whole."""
        return self._kind.streams

    def masked(self, member: Member, message: leader_pb2.MaskUp) -> None:
        """A learner says something in a session of secure aggregation; raises the WireError that it is refused with."""
        self._kind.masked(member, message)

    def returned(self, member: Member) -> None:
        """A learner's connection is open again: what is open is told once more."""
        self.desk.resend_work(member)
        self._kind.returned(member)

    @property
    def over(self) -> bool:
        """Whether no further round will begin, and nobody is needed any more."""
        done = self._stop_reason is not None or self.state.round >= self._config.rounds
        return bool(self._stop_reason) or (done and not self._calls_back)

    def stop(self, reason: str) -> None:
        """End the run before its last round; the open round is given up."""
        self._stop_reason = self._stop_reason or reason
        self._kind.stop()
        self._inbox.wake()
        self.workforce.changed.notify()

    async def run(
        self,
        trained_enough: Callable[[], Awaitable[bool]] = _never,
        scored: Callable[[], bool] = lambda: False,
    ) -> str:
        """Commit rounds until the last, or until `trained_enough`; returns why the run was stopped, or "".

        `trained_enough` is asked before each round, which waits for the answer; `scored` after the last, whether
        learners' scores of its model are known already. Raises TooFewLearnersError when too few learners were there
        for cohort.wait_s seconds, and CheckpointError when a round can't be written.
        """
        await self._engine.publisher.publish(self.state)
        await self._commit.save(self.state)
        try:
            self._kind.begin(self.state)
            if await trained_enough():
                self._stop_reason = ""  # over, as after the last round
            else:
                await self._deal()
            while not self.over:
                await self._one_round()
                if await trained_enough():
                    self._stop_reason = self._stop_reason or ""
                await self._rendezvous.enough(self.state.round)
            if not self._stop_reason and not scored() and await self._score_last_model():
                await trained_enough()
            if (seats := self.workforce.seats(over=True)) is not None:
                await self._commit.save(replace(self.state, seats=seats))
        finally:
            self._wind_up()
        return self._stop_reason or ""

    def _wind_up(self) -> None:
        given_up, self.desk.exchange = self.desk.exchange, None
        self._stop_reason = self._stop_reason or ""
        self.desk.opened.notify()
        self._inbox.refuse("the run is over")
        self._kind.end()
        self._host.arithmetic.shutdown(wait=True)
        if given_up is not None:
            given_up.end()

    async def _deal(self) -> None:
        """Wait for the first learners, then deal out the data."""
        await self._rendezvous.first(self.state.round, resumed=self.state.seats is not None)
        if not self.over:
            self.workforce.deal()
            # From now on a restart must find the same shards, with the same learners.
            self.state = replace(self.state, seats=self.workforce.seats())
            await self._commit.save(self.state)
            await self._rendezvous.enough(self.state.round)

    async def _one_round(self) -> None:
        """Run one round to its commit, or give it up."""
        self.workforce.rebalance()
        self._tally = Tally(time.monotonic(), self.traffic)
        faults.reach("leader.selecting", self.state.round + 1)
        exchange = self._kind.open(self.state)
        plan = exchange.machine.plan
        self._events.publish(RoundStarted(plan.round, plan.steps, exchange.learners))
        abandoned = await self._drive(exchange)
        if abandoned is not None:
            self._events.publish(RoundAbandoned(plan.round, abandoned))
        if exchange.machine.phase is Phase.COMMITTED:
            lr = self._engine.orders.lr(plan.round, plan.steps, plan.steps)
            self.state = await self._commit.round(self.state, exchange, self._tally, lr)
            self.desk.committed()
            self._commit.tell(self.state)
        self.desk.exchange = exchange.end()
        if self.versions.number != self.state.version:  # a step of a round that was given up
            await self._engine.publisher.publish(self.state)
        if self.desk.exchange is None or abandoned is not None:
            self._inbox.refuse("the round has closed; wait for new work")

    async def _score_last_model(self) -> bool:
        """Have learners score the model that no round comes after; whether they were asked."""
        if self._kind.scoring is None or not self._engine.orders.evaluates(self.state.round):
            return False
        if not self.workforce.dealt:
            await self._call_back()
        exchange = self._kind.scoring(self.state)
        if not exchange.holders():
            exchange.end()
            return False
        self._tally = Tally(time.monotonic(), self.traffic)
        await self._drive(exchange)
        if scores := self._tally.scores():
            self._events.publish(FederatedEvaluated(self.state.round, scores))
        return True

    async def _call_back(self) -> None:
        """A leader was killed before learners had scored the last model: they have a lease to come to this one."""
        config, workforce = self._config, self.workforce
        self._calls_back = True
        await workforce.changed.wait_until(
            lambda: self.over or workforce.eligible() >= config.learners, config.cohort.lease_s
        )
        self._calls_back = False
        workforce.deal()

    async def _drive(self, exchange: OpenExchange) -> str | None:
        """Feed an exchange until its round has closed, or the run is stopped; why it was abandoned, if it was."""
        self.desk.exchange = exchange
        machine = exchange.machine
        abandoned = await self._tell(exchange, protocol.Begin(exchange.holders()))
        while machine.phase not in _CLOSED and not self._stop_reason:
            abandoned = await self._next_event(exchange)
        return abandoned

    async def _next_event(self, exchange: OpenExchange) -> str | None:
        try:
            async with self._host.clock.until(earlier(exchange.machine.deadline, self._kind.deadline())):
                event = await self._inbox.next()
        except TimeoutError:
            self._kind.tick()
            return await self._tell(exchange, protocol.Tick())
        match event:
            case Submission():
                return await self._take(exchange, event)
            case LearnersChanged():
                return await self._look_at_learners(exchange)
            case _:
                return await self._tell(exchange, event)

    async def _look_at_learners(self, exchange: OpenExchange) -> str | None:
        """Tell the machine who holds what by now."""
        anew, left = self._kind.revive(), self._kind.left()  # after which others may hold what is open
        holders, parts = exchange.holders(), exchange.machine.plan.parts
        events: list[protocol.RoundEvent] = [protocol.Assigned(part, holders.get(part)) for part in parts]
        if not any(part in holders for part in parts):
            events.insert(0, protocol.Deserted())
        if left is not None:
            events.insert(0, protocol.Reopen(parts, left))
        if anew is not None:
            events.insert(0, anew)
        return await self._tell(exchange, *events)

    async def _tell(self, exchange: OpenExchange, *events: protocol.RoundEvent) -> str | None:
        """Tell the machine, and do what it says; why it abandons the round, if it does."""
        abandoned = None
        for event in events:
            if isinstance(event, protocol.Reopen):
                self._tally.reopened(event.kept)
            for action in exchange.machine.handle(event, self._host.clock.now()):
                match action:
                    case protocol.Dispatch(learner, part):
                        self.desk.give(learner, part)
                    case protocol.CloseStep(step, in_sum):
                        abandoned = await self._close(exchange, step, in_sum)
                    case protocol.CloseGroup():
                        abandoned = await self._tell(exchange, await self._kind.unmask(action))
                    case protocol.Overdue(learners, gave_up):
                        deadline_s = exchange.machine.plan.deadline_s
                        self.workforce.overdue(learners, deadline_s, abandoned=gave_up)
                    case protocol.Abandon(reason):
                        abandoned = reason
                    case protocol.Commit():
                        pass  # the loop of the round ends, and with it comes the commit
            self.desk.opened.notify()
        return abandoned

    async def _close(self, exchange: OpenExchange, step: int, parts: tuple[str, ...]) -> str | None:
        """Mean, optimizer step, new version; then the machine opens the next exchange."""
        closed = await exchange.close(step, parts)
        if closed.result is not None:
            for one in closed.recalled:
                self._tally.counted(one.learner_id, one.part, one.contribution, (), 0.0)
            counted = frozenset((*parts, *(one.part.id for one in closed.recalled)))
            self._tally.applied(step, closed.result, counted)
            self.desk.step_made()
            plan, traffic = exchange.machine.plan, self.traffic
            self._events.publish(
                StepApplied(
                    plan.round, step, plan.steps, closed.result.loss, traffic.up, traffic.down, counted
                )
            )
            self._inbox.wake()  # who was lost while the step was applied must not be waited for
        return await self._tell(exchange, closed.event)

    async def _take(self, exchange: OpenExchange, submission: Submission) -> str | None:
        """Fold one update in and count it, or refuse it by name."""
        if submission.fate.done():
            return None
        try:
            admitted = exchange.orders.admit(submission.member, submission.upload, submission.work_id)
            held = most_held_out(admitted.part.examples, self._config.evaluation.holdout)
            metrics = check_metrics(submission.upload.header, held if admitted.order.evaluate else 0)
            seconds = self.desk.seconds_at_work(admitted.part.id)
            counted = partial(self._count, exchange, submission, admitted, metrics, seconds)
            event = await exchange.add(admitted, submission, counted)
        except WireError as error:
            if not submission.fate.done():
                submission.fate.set_exception(error)
            return None
        if not submission.fate.done():
            submission.fate.set_result(None)
        return await self._tell(exchange, event) if event is not None else None

    def _count(
        self,
        exchange: OpenExchange,
        submission: Submission,
        admitted: Admitted,
        metrics: tuple[leader_pb2.Metric, ...],
        seconds: float,
    ) -> None:
        """An update counts, `seconds` after its work was given out: what that says of its learner."""
        member, order, contribution = submission.member, admitted.order, admitted.contribution
        self._tally.counted(member.learner_id, admitted.part, contribution, metrics, seconds)
        self._engine.deadlines.note(member.name, seconds)
        self.desk.counted(member)
        header = submission.upload.header
        trained_s = header.seconds if header and math.isfinite(header.seconds) else 0.0
        self._events.publish(
            UpdateAccepted(
                member.learner_id,
                exchange.machine.plan.round,
                order.step,
                contribution.weight,
                contribution.loss,
                contribution.weight / trained_s if trained_s > _LEAST_S else 0.0,
                submission.upload.bytes,
                admitted.part.id,
                seconds,
            )
        )
