"""The coordinator drives rounds: cohort, plan, collect, aggregate, step, commit.

It alone runs the round machine, the aggregate and the optimizer; everything reaches it through
one queue, so an update is checked, folded in and counted before the next event is looked at.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

from leader import rounds
from leader.aggregation.aggregate import Aggregate, Contribution, Result, weighted_loss
from leader.aggregation.exact_sum import Scale
from leader.cohort import choose_cohort
from leader.config import RunConfig
from leader.deadline import Deadlines
from leader.events import (
    EventStream,
    RoundAbandoned,
    RoundCommitted,
    RoundStarted,
    StepApplied,
    UpdateAccepted,
)
from leader.exchange import Exchange
from leader.membership import Member
from leader.muster import Muster
from leader.optimizers.base import ServerOptimizer
from leader.signal import Signal
from leader.state import RunState
from leader.traffic import Traffic
from leader.uploads import Upload
from leader.versions import VersionStore, next_version
from leader.work import Part, WorkPlanner
from leader.workforce import Workforce
from model.flat import Layout
from protos import leader_pb2
from utils import faults
from utils.errors import LateUpdateError, NotReadyError, WireError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Submission:
    """A complete update that waits for its turn, and where its fate is told."""

    member: Member
    upload: Upload
    work_id: str
    fate: asyncio.Future[None]


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
        save: Callable[[RunState], object],
        events: EventStream,
    ) -> None:
        self.state = state
        self.workforce = workforce
        self.traffic = Traffic(state.bytes_up, state.bytes_down)
        self.versions = VersionStore(layout, config.limits.chunk_bytes)
        self.opened = Signal()  # new work is open, or the run is over
        self._config = config
        self._layout = layout
        self._optimizer = optimizer
        self._save_state = save
        self._events = events
        self._muster = Muster(config, workforce, events, lambda: self.over)
        self._planner = WorkPlanner(config, state.run_id)
        self._deadlines = Deadlines(
            ceiling_s=config.cohort.deadline_s,
            floor_s=config.cohort.deadline_floor_s,
            k=config.cohort.deadline_k,
        )
        # One thread for all arithmetic: the event loop stays free, and sums need no lock.
        self._arithmetic = ThreadPoolExecutor(1, "arithmetic")
        self._queue: asyncio.Queue[Submission | None] = asyncio.Queue()
        self._woken = False
        self._stop_reason: str | None = None
        self._round: rounds.Round | None = None
        self._parts: dict[str, Part] = {}
        self._exchange: Exchange | None = None
        self._working = state  # the committed state plus the steps of the open round
        self._losses: dict[str, tuple[int, float]] = {}
        self._learners: set[int] = set()
        self._opened_at = 0.0  # clock value when the open exchange began
        self._failures: dict[str, set[str]] = {}  # learners that failed, by work id, in the open round
        self._counted: set[str] = set()  # peers of plain learners with an update in the open exchange
        self._scale = Scale(0, 1.0, 1)
        workforce.on_change = self.wake

    # --- what RPCs ask ---------------------------------------------------------------------

    def wake(self) -> None:
        """Let the round look at the learners again; calls that come together count once."""
        if not self._woken:
            self._woken = True
            self._queue.put_nowait(None)

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
        self._failures.setdefault(work_id, set()).add(member.name)
        if len(self._failures[work_id]) > 1 or len(self.workforce.members) == 0:
            self.stop(f"learner {member.name} failed: {reason}")

    def is_open(self, work_id: str) -> bool:
        """Whether an update for `work_id` would be taken now."""
        try:
            self.check_open(work_id)
        except WireError:
            return False
        return True

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

    async def submit(self, member: Member, upload: Upload, work_id: str) -> None:
        """Count a complete update; returns when it is in the sum, raises a WireError otherwise."""
        fate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(Submission(member, upload, work_id, fate))
        await fate

    # --- the run ---------------------------------------------------------------------------

    async def run(self) -> str:
        """Commit rounds until the last; returns why it ended early, or "".

        Raises TooFewLearnersError when too few learners were there for cohort.wait_s seconds, and
        CheckpointError when a round can't be written.
        """
        await self._publish(self.state)
        await self._save(self.state)
        try:
            await self._deal()
            while not self.over:
                await self._one_round()
                await self._muster.enough(self.state.round)
        finally:
            self._round = self._exchange = None
            self._stop_reason = self._stop_reason or ""
            self.opened.notify()
            self._refuse_queued("the run is over")
            self._arithmetic.shutdown(wait=True)
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
        began = time.monotonic()
        before = Traffic(self.traffic.up, self.traffic.down)
        faults.reach("leader.selecting", self.state.round + 1)
        machine = self._begin_round()
        await self._perform(machine.handle(rounds.Begin(self.workforce.holders()), time.monotonic()))
        while (
            machine.phase not in (rounds.Phase.COMMITTED, rounds.Phase.ABANDONED)
            and self._stop_reason is None
        ):
            await self._next_event(machine)
        if machine.phase is rounds.Phase.COMMITTED:
            await self._commit(machine, began, before)
        elif self.versions.number != self.state.version:
            await self._publish(self.state)
        self._round = self._exchange = None
        self._refuse_queued("the round has closed; wait for new work")

    def _begin_round(self) -> rounds.Round:
        config = self._config
        available = self.workforce.parts()
        number = self.state.round + 1
        drawn = math.ceil(config.cohort.size * config.cohort.over_selection)
        cohort = choose_cohort(tuple(available), drawn, seed=config.seed, round_=number)
        target = min(config.cohort.size or len(cohort), len(cohort))
        holders = self.workforce.holders()
        names = {member.name for member in self.workforce.members if member.learner_id in holders.values()}
        self._parts = {part: available[part] for part in cohort}
        plan = rounds.RoundPlan(
            round=number,
            steps=self._planner.steps(self._parts.values()),
            parts=cohort,
            quorum=max(1, math.ceil(config.cohort.quorum * target)),
            deadline_s=self._deadlines.of(names),
            target=target,
        )
        self._scale = Scale.of(config.aggregate.max_abs, self._planner.weight_bound(self._parts.values()))
        self._round = rounds.Round(plan)
        self._working, self._losses, self._learners = self.state, {}, set()
        self._failures.clear()
        self._open_step()
        self._events.publish(RoundStarted(number, plan.steps, len(set(self.workforce.holders().values()))))
        return self._round

    def _open_step(self) -> None:
        """Make the work orders of the exchange that opens next, and an empty aggregate."""
        assert self._round is not None
        plan = self._round.plan
        step = 0 if self._round.phase is rounds.Phase.SELECTING else self._round.step + 1
        orders = [
            (
                part,
                self._planner.order(
                    plan.round,
                    step,
                    plan.steps,
                    part,
                    version=self._working.version,
                    first_exchange=self.state.exchanges,
                ),
            )
            for part in self._parts.values()
        ]
        self._opened_at = time.monotonic()
        self._exchange = Exchange(self._round, step, orders, Aggregate(self._layout, self._scale))

    async def _next_event(self, machine: rounds.Round) -> None:
        timeout_s = None if machine.deadline is None else max(0.0, machine.deadline - time.monotonic())
        try:
            async with asyncio.timeout(timeout_s):
                submission = await self._queue.get()
        except TimeoutError:
            await self._perform(machine.handle(rounds.Tick(), time.monotonic()))
            return
        if submission is not None:
            await self._take(machine, submission)
            return
        self._woken = False
        holders = self.workforce.holders()
        if not any(part in holders for part in machine.plan.parts):
            await self._perform(machine.handle(rounds.Deserted(), time.monotonic()))
        for part in machine.plan.parts:
            await self._perform(machine.handle(rounds.Assigned(part, holders.get(part)), time.monotonic()))

    async def _take(self, machine: rounds.Round, submission: Submission) -> None:
        """Fold one update in and count it, or refuse it by name."""
        if submission.fate.done():
            return
        try:
            part = self.check_open(submission.work_id)
            assert self._exchange is not None
            contribution = self._exchange.contribution(submission.member, submission.upload, part)
            await self._compute(self._exchange.aggregate.add, contribution)
        except WireError as error:
            if not submission.fate.done():
                submission.fate.set_exception(error)
            return
        if not submission.fate.done():
            submission.fate.set_result(None)
        self._learners.add(submission.member.learner_id)
        self._deadlines.note(submission.member.name, time.monotonic() - self._opened_at)
        if submission.member.plain:
            self._counted.add(submission.member.peer)
        self._announce_accepted(machine, submission, contribution)
        await self._perform(machine.handle(rounds.Accepted(part.id, machine.step), time.monotonic()))

    def _announce_accepted(
        self, machine: rounds.Round, submission: Submission, contribution: Contribution
    ) -> None:
        header = submission.upload.header
        seconds = header.seconds if header and math.isfinite(header.seconds) else 0.0
        self._events.publish(
            UpdateAccepted(
                submission.member.learner_id,
                machine.plan.round,
                machine.step,
                contribution.weight,
                contribution.loss,
                contribution.weight / seconds if seconds > 0 else 0.0,
                submission.upload.bytes,
            )
        )

    async def _perform(self, actions: list[rounds.Action]) -> None:
        for action in actions:
            match action:
                case rounds.Dispatch(learner, part):
                    self._dispatch(learner, part)
                case rounds.CloseStep(step):
                    await self._close_step(step)
                case rounds.Abandon(reason):
                    assert self._round is not None
                    self._events.publish(RoundAbandoned(self._round.plan.round, reason))
                    self.workforce.drop_silent(self._round.owing())
                case rounds.Commit():
                    pass  # the loop of the round ends, and with it comes the commit
        self.opened.notify()

    def _dispatch(self, learner: int, part: str) -> None:
        member = self.workforce.members.get(learner)
        if member is not None and self._exchange is not None:
            member.link.work(self._exchange.order(part))

    async def _close_step(self, step: int) -> None:
        """Mean, optimizer step, new version; then the machine opens the next exchange."""
        assert self._round is not None
        assert self._exchange is not None
        plan = self._round.plan
        lr = self._planner.lr(plan.round, step, plan.steps)
        faults.reach("leader.collected", plan.round)
        self._working, result = await self._compute(self._apply, self._working, self._exchange.aggregate, lr)
        self._losses[f"{step:08d}"] = (result.examples, result.loss)
        self._counted.clear()
        await self._publish(self._working)
        self._events.publish(
            StepApplied(plan.round, step, plan.steps, result.loss, self.traffic.up, self.traffic.down)
        )
        if step + 1 < plan.steps:
            self._open_step()
        await self._perform(self._round.handle(rounds.StepApplied(), time.monotonic()))
        self.wake()  # who was lost while the step was applied must not be waited for

    def _apply(self, state: RunState, aggregate: Aggregate, lr: float) -> tuple[RunState, Result]:
        result = aggregate.finish()
        faults.reach("leader.stepping", state.round + 1)
        split = self._layout.parameter_count
        optimizer, parameters = self._optimizer.apply(
            state.optimizer, state.vector[:split], result.mean[:split], lr
        )
        vector = result.mean
        vector[split:] += state.vector[split:]
        vector[:split] = parameters
        version = next_version(state.version, result.digest)
        return (
            replace(
                state, vector=vector, optimizer=optimizer, version=version, exchanges=state.exchanges + 1
            ),
            result,
        )

    async def _commit(self, machine: rounds.Round, began: float, before: Traffic) -> None:
        """Checkpoint on disk first, then everybody hears of it."""
        plan = machine.plan
        committed = RoundCommitted(
            round=plan.round,
            loss=weighted_loss({key: pair for key, pair in self._losses.items() if math.isfinite(pair[1])}),
            seconds=time.monotonic() - began,
            bytes_up=self.traffic.up - before.up,
            bytes_down=self.traffic.down - before.down,
            learners=len(self._learners),
            examples=sum(examples for examples, _ in self._losses.values()),
            lr=self._planner.lr(plan.round, plan.steps, plan.steps),
        )
        state = replace(
            self._working,
            round=plan.round,
            seats=self.workforce.seats(),
            bytes_up=self.traffic.up,
            bytes_down=self.traffic.down,
            seconds=self._working.seconds + committed.seconds,
            committed=committed,
        )
        await self._save(state)
        faults.reach("leader.committed", plan.round)
        self.state = state
        self._events.publish(committed)
        for member in self.workforce.members:
            member.link.committed(plan.round, state.version)

    async def _publish(self, state: RunState) -> None:
        self.versions.publish(await self._compute(self.versions.encode, state.version, state.vector))

    async def _save(self, state: RunState) -> None:
        await self._compute(self._save_state, state)

    async def _compute(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._arithmetic, partial(work, *args, **kwargs)
        )

    def _refuse_queued(self, why: str) -> None:
        while not self._queue.empty():
            submission = self._queue.get_nowait()
            self._woken = self._woken and submission is not None
            if submission is not None and not submission.fate.done():
                submission.fate.set_exception(LateUpdateError(why))
