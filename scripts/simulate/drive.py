"""Driving a simulation: hands the coordinator one update after the other, in virtual time."""

from __future__ import annotations

from collections.abc import Callable

from leader.app import App
from learner.memory import Memory
from learner.training.update import Assignment, Update
from learner.work.workbench import Assignments
from scripts.simulate.agenda import Agenda, Job
from scripts.simulate.clock import VirtualClock
from scripts.simulate.wire import upload
from utils.errors import ConfigError, DuplicateUpdateError, FlockstepError, LateUpdateError

#: Changes an update before it is sent: (part, its assignment, the honest update) to what goes out.
Tamper = Callable[[str, Assignment, Update], Update]


class Driver:
    """Moves virtual time on; the order in which updates arrive depends on nothing else."""

    def __init__(
        self,
        app: App,
        clock: VirtualClock,
        agenda: Agenda,
        assignments: Assignments,
        memory: Memory,
        tamper: Tamper | None,
    ) -> None:
        self._app = app
        self._coordinator = app.coordinator
        self._clock = clock
        self._agenda = agenda
        self._assignments = assignments
        self._memory = memory
        self._tamper = tamper
        self._starved: int | None = None  # model version at which nobody had work left

    async def run(self) -> None:
        """Deliver updates for ever."""
        while True:
            await self._clock.changed.wait_until(lambda: self._clock.awaited)
            job, deadline = self._agenda.next(), self._clock.deadline
            if job is not None and (deadline is None or job.finish <= deadline):
                self._clock.advance(job.finish)
                await self._deliver(job)
            elif self._is_stuck(job):
                self._coordinator.stop(
                    f"round {self._coordinator.state.round + 1} can't be closed: no virtual learner has work left"
                )
                return
            else:
                self._clock.expire()

    def _is_stuck(self, job: Job | None) -> bool:
        """Whether nobody has work, and had none at the last deadline for the same model either."""
        if job is not None:
            return False
        version, before = self._coordinator.versions.number, self._starved
        self._starved = version
        return version == before or self._clock.deadline is None

    async def _deliver(self, job: Job) -> None:
        assignment = job.assignment
        if not self._coordinator.desk.is_open(assignment.order.work_id):
            self._agenda.remove(job)
            return
        await self._app.evaluated()  # a model that is due is never skipped because training is faster
        try:
            update = await job.training.update()
            if self._tamper is not None:
                update = self._tamper(job.part, assignment, update)
            await self._send(job, update)
        except ConfigError:
            raise  # it is the simulation that can't work, not this learner
        except FlockstepError as error:
            self._fail(job, str(error))
        finally:
            self._agenda.remove(job)

    async def _send(self, job: Job, update: Update) -> None:
        order = job.assignment.order
        sent = upload(self._assignments.made(order, job.part, update))
        self._coordinator.traffic.up += sent.bytes
        try:
            await self._coordinator.desk.submit(job.member, sent, order.work_id)
        except DuplicateUpdateError:
            pass
        except LateUpdateError:
            self._memory.refused(job.part)
            return
        self._memory.counted(job.part)

    def _fail(self, job: Job, reason: str) -> None:
        """What the leader does when a learner says that it can't go on."""
        workforce = self._coordinator.workforce
        workforce.leave(job.member, f"failed: {reason}")
        self._coordinator.desk.failed(job.member, job.assignment.order.work_id, reason)
        if not workforce.enough():
            self._coordinator.stop(f"too few virtual learners are left: {job.member.name} failed: {reason}")
