"""The coordinator drives rounds: cohort, plan, collect, aggregate, step, commit.

It alone runs the round machine, the aggregate and the optimizer; everything reaches it through
one queue, so an update is checked, folded in and counted before the next event is looked at.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from leader.aggregation.base import Aggregator, Contribution
from leader.aggregation.choose import open_aggregate
from leader.aggregation.decoding import Decoder
from leader.condition import Signal
from leader.config import RunConfig
from leader.data.part import Part
from leader.evaluation.federated import check_metrics
from leader.events import (
    EventStream,
    FederatedEvaluated,
    RoundAbandoned,
    RoundStarted,
    StepApplied,
    UpdateAccepted,
)
from leader.global_model.changes import DownLink
from leader.global_model.versions import ModelVersion, VersionStore
from leader.learners.membership import Member
from leader.learners.rendezvous import Muster
from leader.learners.workforce import Workforce
from leader.optimizers.base import ServerOptimizer, Step
from leader.optimizers.scaffold import CONTROL
from leader.rounds import protocol
from leader.rounds.buffer import Buffer, Desk, Ticket
from leader.rounds.deadline import Deadlines
from leader.runtime import Host
from leader.state import RunState
from leader.training.buffered_exchange import BufferedExchange
from leader.training.exchange import Exchange
from leader.training.inbox import Inbox, LearnersChanged, Submission, Upload
from leader.training.pipeline.exchange import Pipeline
from leader.training.pipeline.pipeline import Added, Pipelining, is_pipelined, refuse_piece
from leader.training.planning import Machine, Opening, RoundPlanner
from leader.training.round_metrics import Tally, Traffic
from leader.training.server_step import Stepper
from leader.training.work_orders import WorkPlanner
from model.flat import Layout
from model.fragments import Fragments
from protos import leader_pb2
from utils import faults
from utils.errors import LateUpdateError, NotReadyError, WireError

P = ParamSpec("P")
T = TypeVar("T")
_OLD_VERSIONS = 4  # that an asynchronous run serves at most; work from older ones is given out anew
_PARTS_AWAY = 3  # parts whose learner is away and whose history is kept, as a multiple of limits.max_learners


async def _never() -> bool:
    return False


class Coordinator:
    """One run's rounds, from the state it is given to the last commit."""

    def __init__(
        self,
        config: RunConfig,
        state: RunState,
        *,
        layout: Layout,
        optimizer: ServerOptimizer,
        workforce: Workforce,
        decoder: Decoder,
        save: Callable[[RunState], object],
        events: EventStream,
        spool: Path | None = None,
        host: Host | None = None,
    ) -> None:
        self.state = state
        self.workforce = workforce
        self.traffic = Traffic(state.bytes_up, state.bytes_down)
        older = min(_OLD_VERSIONS, config.buffer.max_staleness) if config.buffer.size else 0
        self.versions = VersionStore(layout, config.limits.chunk_bytes, older)
        self.opened = Signal()  # new work is open, or the run is over
        self._config = config
        host = host or Host()
        self._clock = host.clock
        self._layout = layout
        self._fragments = Fragments(layout, config.streaming.fragments)
        self._stepper = Stepper(layout, optimizer, config.streaming.fragments)
        self._decoder = decoder
        self._down = DownLink(config, layout)
        self._pipelining = (
            Pipelining(config, layout, optimizer, decoder, self._compute) if is_pipelined(config) else None
        )
        self._save_state = save
        self._events = events
        self._spool = spool  # where a robust rule keeps updates
        self._muster = Muster(config, workforce, events, lambda: self.over)
        self._planner = WorkPlanner(config, state.run_id)
        self._deadlines = Deadlines(
            ceiling_s=config.cohort.deadline_s,
            floor_s=config.cohort.deadline_floor_s,
            k=config.cohort.deadline_k,
        )
        self._rounds = RoundPlanner(config, workforce, self._planner, self._deadlines)
        # One thread for all arithmetic: the event loop stays free, and sums need no lock.
        self._arithmetic = host.arithmetic
        self._inbox = Inbox()
        self._stop_reason: str | None = None
        self._round: Machine | None = None
        self._opening: Opening | None = None
        self._exchange: Exchange | BufferedExchange | None = None
        self._desk = _desk_of(state)
        self._working = state  # the committed state plus the steps of the open round
        self._tally = Tally(0.0, self.traffic)
        self._notes: dict[str, Callable[[], None]] = {}  # what to tell of parts once their step is made
        self._failures: dict[str, set[str]] = {}  # names of learners that can't do it, by id of open work
        self._moved = False  # whether a round was committed since the leader started
        self._scoring = False  # the exchange after the last round, for scores alone, is open
        self._given_at: dict[str, float] = {}  # clock value at which work was given out, by part
        self._counted: set[str] = set()  # peers of plain learners with an update in the open exchange
        workforce.subscribe(self.wake)

    # --- what RPCs ask ---------------------------------------------------------------------

    def wake(self) -> None:
        """Let the round look at the learners again; calls that come together count once."""
        self._inbox.wake()

    def stop(self, reason: str) -> None:
        """End the run before its last round; the open round is given up."""
        self._stop_reason = self._stop_reason or reason
        self.wake()
        self.workforce.changed.notify()

    @property
    def over(self) -> bool:
        """Whether no further round will begin."""
        return self._stop_reason is not None or self.state.round >= self._config.rounds

    def work_of(self, member: Member) -> list[leader_pb2.WorkOrder]:
        """The open work orders of a learner."""
        return self._exchange.owed_by(member.learner_id) if self._exchange else []

    def resend_work(self, member: Member) -> None:
        """Push the open work orders again, after the learner's session came back."""
        for order in self.work_of(member):
            member.link.work(order)

    def check_open(self, work_id: str) -> Part:
        """The part that `work_id` is for; raises what an update for it would be refused with now."""
        if self._exchange is None:
            raise LateUpdateError("no round is open; wait for new work")
        return self._exchange.part(work_id)

    def failed(self, member: Member, work_id: str, reason: str) -> None:
        """A learner says that it can't do its work; when a second one says so of the same work, the run stops.

        One learner's machine may be broken; work that fails on two, or on the only one, is itself
        at fault: training that diverges does so everywhere. Work that the learner does not owe
        says nothing.
        """
        if work_id not in (order.work_id for order in self.work_of(member)):
            return
        names = self._failures.setdefault(work_id, set())
        names.add(member.name)
        if len(names) > 1 or self.workforce.eligible() == 0:
            self.stop(f"learner {member.name} failed: {reason}")

    def outdated(self, member: Member, version: int) -> None:
        """A learner asks for a version that is gone: work of an asynchronous run that needs it is given out anew."""
        if not self._config.buffer.size or self._exchange is None or self._round is None:
            return
        for part in self._round.pending_of(member.learner_id):
            order = self._exchange.order(part)
            if order.version == version:
                self._inbox.outdated(protocol.Outdated(part, order.step))

    def is_open(self, work_id: str) -> bool:
        """Whether an update for `work_id` would be taken now."""
        try:
            self.check_open(work_id)
        except WireError:
            return False
        return True

    @property
    def pipelining(self) -> Pipelining | None:
        """How steps are exchanged piece by piece; None in a run where they are not."""
        return self._pipelining

    @property
    def pipeline(self) -> Pipeline | None:
        """The open exchange, if it takes pieces."""
        return self._pipelining.open_now if self._pipelining else None

    def wants_pieces(self, member: Member, work_id: str) -> bool:
        """Whether pieces of the update for `work_id` are to come from this learner."""
        return work_id in (order.work_id for order in self.work_of(member))

    def knows(self, work_id: str) -> bool:
        """Whether this is work of the open exchange, whatever has become of it."""
        return self._exchange is not None and self._exchange.knows(work_id)

    async def plain_work(self, member: Member, timeout_s: float) -> str:
        """The work id that a plain learner's update answers: its open work, awaited if need be."""
        if not await self.opened.wait_until(lambda: self.over or bool(self.work_of(member)), timeout_s):
            raise NotReadyError("no round is open for this learner yet; send the gradients again later")
        orders = self.work_of(member)
        if not orders:
            raise LateUpdateError("the run is over")
        return orders[0].work_id

    async def fresh_model(self, peer: str, timeout_s: float) -> None:
        """Before a plain learner fetches the model: wait until its last update is applied.

        It can't say which version it wants, and must not get the one that it worked on again.
        """
        served = self.versions.number
        if peer in self._counted:
            await self.versions.changed.wait_until(
                lambda: self.over or self.versions.number != served, timeout_s
            )

    async def submit(
        self, member: Member, upload: Upload, work_id: str, piece: leader_pb2.Piece | None = None
    ) -> None:
        """Count a complete update, or add a piece of one; raises a WireError if that is refused."""
        await self._inbox.submit(member, upload, work_id, piece)

    # --- the run ---------------------------------------------------------------------------

    async def run(self, trained_enough: Callable[[], Awaitable[bool]] = _never) -> str:
        """Commit rounds until the last, or until `trained_enough`; returns why the run was stopped, or "".

        `trained_enough` is asked before each round, which waits for the answer. Raises
        TooFewLearnersError when too few learners were there for cohort.wait_s seconds, and
        CheckpointError when a round can't be written.
        """
        await self._publish(self.state)
        await self._save(self.state)
        try:
            if await trained_enough():
                self._stop_reason = ""  # over, as after the last round
            else:
                await self._deal()
            while not self.over:
                await self._one_round()
                if await trained_enough():
                    self._stop_reason = self._stop_reason or ""
                await self._muster.enough(self.state.round)
            if self._wants_last_scores():
                await self._score_last_model()
                await trained_enough()
        finally:
            given_up, self._round, self._exchange = self._exchange, None, None
            self._stop_reason = self._stop_reason or ""
            self.opened.notify()
            self._inbox.refuse("the run is over")
            if self._pipelining is not None:
                self._pipelining.links.end()
            self._arithmetic.shutdown(wait=True)
            if given_up is not None:
                given_up.aggregate.close()
        return self._stop_reason

    async def _deal(self) -> None:
        """Wait for the first learners, then deal out the data."""
        await self._muster.first(self.state.round, resumed=self.state.seats is not None)
        if not self.over:
            self.workforce.deal()
            # From now on a restart must find the same shards, with the same learners.
            self.state = replace(self.state, seats=self.workforce.seats())
            await self._save(self.state)
            await self._muster.enough(self.state.round)

    async def _one_round(self) -> None:
        """Run one round to its commit, or give it up."""
        self.workforce.rebalance()
        self._tally = Tally(time.monotonic(), self.traffic)
        faults.reach("leader.selecting", self.state.round + 1)
        machine = self._begin_round()
        await self._perform(machine.handle(protocol.Begin(self.workforce.holders()), self._clock.now()))
        while (
            machine.phase not in (protocol.Phase.COMMITTED, protocol.Phase.ABANDONED)
            and self._stop_reason is None
        ):
            await self._next_event(machine)
        if machine.phase is protocol.Phase.COMMITTED:
            self._desk = machine.desk if isinstance(machine, Buffer) else self._desk
            await self._commit(machine)
        else:
            self._desk = _desk_of(self.state)
            self._notes.clear()
            if self._pipelining is not None:
                self._pipelining.end(0, ())
            if self.versions.number != self.state.version:
                await self._publish(self.state)
        if self._exchange is not None:
            self._exchange.aggregate.close()
        if not self._config.buffer.size:  # else work goes on over the rounds
            self._round = self._exchange = None
        if not self._config.buffer.size or machine.phase is protocol.Phase.ABANDONED:
            self._inbox.refuse("the round has closed; wait for new work")

    def _wants_last_scores(self) -> bool:
        """Whether learners are to score the model that no round comes after."""
        if self._stop_reason or not self._moved or self._config.buffer.size:
            return False
        return self._planner.evaluates(self.state.round)

    async def _score_last_model(self) -> None:
        """One more exchange, for scores alone; without trace in weights and checkpoint."""
        self._scoring = True
        self._tally = Tally(time.monotonic(), self.traffic)
        opening = self._opening = self._rounds.scoring(self.state)
        machine = self._round = opening.machine
        self._open_step()
        await self._perform(machine.handle(protocol.Begin(self._holders()), self._clock.now()))
        while machine.phase is protocol.Phase.TRAINING and not self._stop_reason:
            await self._next_event(machine)
        if scores := self._tally.scores():
            self._events.publish(FederatedEvaluated(self.state.round, scores))

    def _holders(self) -> Mapping[str, int]:
        """Which learner does which part; plain ones can't be asked for scores alone."""
        holders = self.workforce.holders()
        if not self._scoring:
            return holders
        plain = {member.learner_id for member in self.workforce if member.plain}
        return {part: learner for part, learner in holders.items() if learner not in plain}

    def _begin_round(self) -> Machine:
        opening = self._opening = self._rounds.open(self.state, self._desk)
        self._round = opening.machine
        self._working = self.state
        self._open_step()
        plan = opening.machine.plan
        self._events.publish(RoundStarted(plan.round, plan.steps, opening.learners))
        return opening.machine

    def _open_step(self) -> None:
        """Make the work orders of the exchange that opens next, and an empty aggregate."""
        assert self._opening is not None
        machine, parts = self._opening.machine, self._opening.parts
        if isinstance(machine, Buffer):
            aggregate = self._open_aggregate(self._opening, 0)
            if not isinstance(self._exchange, BufferedExchange):
                split, oldest = self._layout.parameter_count, self._config.buffer.max_staleness
                self._exchange = BufferedExchange(self._planner, self.state, split, oldest)
            self._exchange.begin(self.state, machine, parts, aggregate)
            return
        plan = machine.plan
        step = 0 if machine.phase is protocol.Phase.SELECTING else machine.step + 1
        aggregate = self._open_aggregate(self._opening, step)
        version, first = self._working.version, self.state.exchanges
        orders = [
            (
                part,
                self._planner.scoring(plan.round, part, version=version)
                if self._scoring
                else self._planner.order(
                    plan.round, step, plan.steps, part, version=version, first_exchange=first
                ),
            )
            for part in parts.values()
        ]
        self._exchange = Exchange(machine, step, orders, aggregate)

    def _open_aggregate(self, opening: Opening, step: int) -> Aggregator:
        if self._pipelining is not None and not self._scoring:
            return self._pipelining.open(opening, step, self._working, self._server_step(opening, step))
        shared = self._fragments.of(opening.machine.plan.round)
        return open_aggregate(self._config, shared, opening.scale, self._spool)

    def _server_step(self, opening: Opening, step: int) -> Step:
        plan = opening.machine.plan
        return Step(
            self._planner.lr(plan.round, step, plan.steps),
            self._planner.local_lr(plan.round, step, plan.steps),
        )

    async def _next_event(self, machine: Machine) -> None:
        try:
            async with self._clock.until(machine.deadline):
                event = await self._inbox.next()
        except TimeoutError:
            await self._perform(machine.handle(protocol.Tick(), self._clock.now()))
            return
        match event:
            case Submission():
                await self._take(machine, event)
            case protocol.Outdated():
                await self._perform(machine.handle(event, self._clock.now()))
            case LearnersChanged():
                await self._look_at_learners(machine)

    async def _look_at_learners(self, machine: Machine) -> None:
        """Tell the machine who holds what by now."""
        holders = self._holders()
        if not any(part in holders for part in machine.plan.parts):
            await self._perform(machine.handle(protocol.Deserted(), self._clock.now()))
        for part in machine.plan.parts:
            await self._perform(machine.handle(protocol.Assigned(part, holders.get(part)), self._clock.now()))

    async def _take(self, machine: Machine, submission: Submission) -> None:
        """Fold one update in and count it, or refuse it by name."""
        if submission.fate.done():
            return
        try:
            part = self.check_open(submission.work_id)
            assert self._exchange is not None
            contribution = self._exchange.contribution(submission.member, submission.upload, part)
            metrics = check_metrics(submission.upload.header)
            added = await self._add(submission, contribution)
        except WireError as error:
            if not submission.fate.done():
                submission.fate.set_exception(error)
            return
        if not submission.fate.done():
            submission.fate.set_result(None)
        if added is Added.COUNTED or added is Added.ANEW:
            seconds = self._clock.now() - self._given_at.get(part.id, self._clock.now())
            note = partial(self._note, machine, submission, part, contribution, metrics, seconds)
            if self._pipelining is None or self._scoring:
                note()
            else:  # the step may still begin anew without it
                self._notes[part.id] = note
        if added is Added.ANEW or added is Added.DROPPED:
            await self._begin_anew(machine)
        if added is Added.COUNTED:
            step = self._exchange.order(part.id).step
            await self._perform(machine.handle(protocol.Accepted(part.id, step), self._clock.now()))

    async def _add(self, submission: Submission, contribution: Contribution) -> Added:
        """Fold an update, or a piece of one, in; raises what it is refused with."""
        assert self._exchange is not None
        if self.pipeline is None or self._pipelining is None:
            if submission.piece is not None:
                raise refuse_piece()
            await self._compute(self._fold, self._exchange.aggregate, contribution)
            return Added.COUNTED
        member = submission.member
        holder = self.wants_pieces(member, submission.work_id)
        return await self._pipelining.add(contribution, submission.piece, member.learner_id, holder=holder)

    async def _begin_anew(self, machine: Machine) -> None:
        """The open exchange has lost all that came in pieces: these must come again."""
        assert self.pipeline is not None
        parts = tuple(part for part in machine.plan.parts if part in self.pipeline.parts)
        kept = tuple(sorted(self.pipeline.aggregate.whole))
        self._notes = {part: note for part, note in self._notes.items() if part in kept}
        await self._perform(machine.handle(protocol.Reopen(parts, kept), self._clock.now()))

    def _note(
        self,
        machine: Machine,
        submission: Submission,
        part: Part,
        contribution: Contribution,
        metrics: tuple[leader_pb2.Metric, ...],
        seconds: float,
    ) -> None:
        """An update is in the sum, `seconds` after its work was given out: what that says of its learner."""
        assert self._exchange is not None
        member, order = submission.member, self._exchange.order(part.id)
        self._tally.counted(member.learner_id, part, contribution, metrics if order.evaluate else (), seconds)
        self._deadlines.note(member.name, seconds)
        if member.plain:
            self._counted.add(member.peer)
        self._announce_accepted(machine, order.step, submission, contribution)

    def _fold(self, aggregate: Aggregator, contribution: Contribution) -> None:
        """Add an update to the sum, decoded."""
        aggregate.add(replace(contribution, payload=self._decoder.decode(contribution.payload)))

    def _announce_accepted(
        self, machine: Machine, step: int, submission: Submission, contribution: Contribution
    ) -> None:
        header = submission.upload.header
        seconds = header.seconds if header and math.isfinite(header.seconds) else 0.0
        self._events.publish(
            UpdateAccepted(
                submission.member.learner_id,
                machine.plan.round,
                step,
                contribution.weight,
                contribution.loss,
                contribution.weight / seconds if seconds > 0 else 0.0,
                submission.upload.bytes,
            )
        )

    async def _perform(self, actions: list[protocol.Action]) -> None:
        for action in actions:
            match action:
                case protocol.Dispatch(learner, part):
                    self._dispatch(learner, part)
                case protocol.CloseStep(step, in_sum):
                    await self._close_step(step, in_sum)
                case protocol.Abandon(reason):
                    assert self._round is not None
                    if not self._scoring:  # which is no round of the run
                        self._events.publish(RoundAbandoned(self._round.plan.round, reason))
                        self.workforce.drop_silent(self._round.owing())
                case protocol.Commit():
                    pass  # the loop of the round ends, and with it comes the commit
        self.opened.notify()

    def _dispatch(self, learner: int, part: str) -> None:
        member = self.workforce.get(learner)
        if member is not None and self._exchange is not None:
            self._given_at[part] = self._clock.now()
            member.link.work(self._exchange.order(part))

    async def _close_step(self, step: int, parts: tuple[str, ...]) -> None:
        """Mean, optimizer step, new version; then the machine opens the next exchange."""
        assert self._opening is not None
        assert self._exchange is not None
        machine, plan = self._opening.machine, self._opening.machine.plan
        if self._scoring:
            await self._perform(machine.handle(protocol.StepApplied(), self._clock.now()))
            return
        if self._pipelining is not None and self._pipelining.without_partial(parts):
            await self._begin_anew(machine)
            return
        for note in self._notes.values():
            note()
        self._notes.clear()
        faults.reach("leader.collected", plan.round)
        before = self._working
        if self._pipelining is not None and self.pipeline is not None:
            self._working, result = await self._pipelining.finish(parts)
            self._working = await self._publish(self._working, None if self.pipeline.followed else before)
            counted = [self._exchange.order(part).work_id for part in parts]
            self._pipelining.end(self._working.version, counted)
        else:
            everybody = sum(part.examples for part in self.workforce.parts().values())
            server_step = self._server_step(self._opening, step)
            self._working, result = await self._compute(
                self._stepper.apply, before, self._exchange.aggregate, server_step, everybody
            )
            self._working = await self._publish(self._working, before)
        self._exchange.aggregate.close()
        self._tally.applied(step, result)
        self._counted.clear()  # not before: a plain learner must not be given the same version again
        self._events.publish(
            StepApplied(plan.round, step, plan.steps, result.loss, self.traffic.up, self.traffic.down)
        )
        if step + 1 < plan.steps:
            self._open_step()
        await self._perform(machine.handle(protocol.StepApplied(), self._clock.now()))
        self.wake()  # who was lost while the step was applied must not be waited for

    async def _commit(self, machine: Machine) -> None:
        """Checkpoint on disk first, then everybody hears of it."""
        plan = machine.plan
        lr = self._planner.lr(plan.round, plan.steps, plan.steps)
        committed = self._tally.committed(plan.round, lr, time.monotonic(), self.traffic)
        parts_away = _PARTS_AWAY * self._config.limits.max_learners
        present = self.workforce.parts()
        history = self._tally.history(self.state.history, plan.round, present=present, absent=parts_away)
        kept = history.keys() | present.keys()
        turns = {part: given for part, given in self._desk.turns.items() if part in kept}
        self._desk = replace(self._desk, turns=turns)
        self._failures = {id_: names for id_, names in self._failures.items() if self.is_open(id_)}
        state = replace(
            self._working,
            round=plan.round,
            seats=self.workforce.seats(),
            bytes_up=self.traffic.up,
            bytes_down=self.traffic.down,
            seconds=self._working.seconds + committed.seconds,
            committed=committed,
            federated=self._tally.scores(),
            history=history,
            open_work=self._exchange.desk() if isinstance(self._exchange, BufferedExchange) else {},
            turns=turns,
        )
        await self._save(state)
        faults.reach("leader.committed", plan.round)
        self.state, self._moved = state, True
        if state.federated:
            self._events.publish(FederatedEvaluated(plan.round - 1, state.federated))
        self._events.publish(committed)
        for member in self.workforce:
            member.link.committed(plan.round, state.version)

    async def _publish(self, state: RunState, before: RunState | None = None) -> RunState:
        """Serve the state's model, as a change of that of `before` too; the state, with what learners have.

        Where learners got the model piece by piece, it is encoded only if somebody asks for it.
        """
        served, version = await self._compute(self._make_version, state, before)
        self.versions.publish(version)
        return served

    def _make_version(self, state: RunState, before: RunState | None) -> tuple[RunState, ModelVersion]:
        state, change = self._down.advance(before, state) if before else (state, None)
        control = state.optimizer.get(CONTROL) if self._config.train.control_variates else None
        version = self.versions.encode(state.version, state.served, control, change)
        got = self.pipeline is not None and self.pipeline.followed
        return state, version if got else version.prepared()

    async def _save(self, state: RunState) -> None:
        await self._compute(self._save_state, state)

    async def _compute(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._arithmetic, partial(work, *args, **kwargs)
        )


def _desk_of(state: RunState) -> Desk:
    """What an asynchronous run had open when `state` was committed."""
    tickets = {part: Ticket(work.round, work.turn) for part, work in state.open_work.items()}
    return Desk(tickets, state.turns)
