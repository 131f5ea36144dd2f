"""Driving a simulation: hands the coordinator one update after the other, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leader.app import App
from leader.learners.membership import Member
from learner.memory import Memory
from learner.secagg.sessions import MaskSessions
from learner.training.update import Assignment, Update
from learner.work.workbench import Assignments
from scripts.simulate.agenda import Agenda, Job
from scripts.simulate.clock import VirtualClock
from scripts.simulate.wire import upload
from utils.errors import ConfigError, DuplicateUpdateError, FlockstepError, LateUpdateError

#: Changes an update before it is sent: (part, its assignment, the honest update) to what goes out.
Tamper = Callable[[str, Assignment, Update], Update]


@dataclass
class Driver:
    """Moves virtual time on; the order in which updates arrive depends on nothing else."""

    app: App
    clock: VirtualClock
    agenda: Agenda
    assignments: Assignments
    memory: Memory
    tamper: Tamper | None
    masks_of: Callable[[Member], MaskSessions]
    _starved: int | None = None  # model version at which nobody had work left

    async def run(self) -> None:
        """Deliver updates for ever."""
        while True:
            await self.clock.changed.wait_until(lambda: self.clock.awaited)
            job, deadline = self.agenda.next(), self.clock.deadline
            if job is not None and (deadline is None or job.finish <= deadline):
                self.clock.advance(job.finish)
                await self._deliver(job)
            elif self._is_stuck(job):
                self.app.coordinator.stop(
                    f"round {self.app.coordinator.state.round + 1} can't be closed: no virtual learner has work left"
                )
                return
            else:
                self.clock.expire()

    def _is_stuck(self, job: Job | None) -> bool:
        """Whether nobody has work, and had none at the last deadline for the same model either."""
        if job is not None:
            return False
        version, before = self.app.coordinator.versions.number, self._starved
        self._starved = version
        return version == before or self.clock.deadline is None

    async def _deliver(self, job: Job) -> None:
        assignment = job.assignment
        if not self.app.coordinator.desk.is_open(assignment.order.work_id):
            self.agenda.remove(job)
            return
        await self.app.evaluated()  # a model that is due is never skipped because training is faster
        try:
            update = await job.training.update()
            if self.tamper is not None:
                update = self.tamper(job.part, assignment, update)
            await self._send(job, update)
        except ConfigError:
            raise  # it is the simulation that can't work, not this learner
        except FlockstepError as error:
            self._fail(job, str(error))
        finally:
            self.agenda.remove(job)

    async def _send(self, job: Job, update: Update) -> None:
        order = job.assignment.order
        made = self.assignments.made(order, job.assignment.base, job.part, update)
        sent = upload(await made.travelling(self.masks_of(job.member)))
        self.app.coordinator.traffic.up += sent.bytes
        try:
            await self.app.coordinator.desk.submit(job.member, sent, order.work_id)
        except DuplicateUpdateError:
            pass
        except LateUpdateError:
            self.memory.refused(job.part)
            return
        self.memory.counted(job.part)

    def _fail(self, job: Job, reason: str) -> None:
        """What the leader does when a learner says that it can't go on."""
        workforce = self.app.coordinator.workforce
        if workforce.get(job.member.learner_id) is not None:
            workforce.leave(job.member, f"failed: {reason}")
            self.clock.stir()  # no time passes before its parts have gone to others
        self.app.coordinator.desk.failed(job.member, job.assignment.order.work_id, reason)
        if not workforce.enough():
            self.app.coordinator.stop(
                f"too few virtual learners are left: {job.member.name} failed: {reason}"
            )
