"""The agenda: which virtual learner has which order in hand, and when it will be done in virtual time."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from leader.learners.membership import Member
from learner.training.update import Assignment
from scripts.simulate.pool import Training
from utils.seeds import derive_seed

Due = dict[str, float]  # when work will be done in virtual time, by work id
_EXAMPLES_PER_S = 10_000.0  # that a virtual learner of speed 1 trains on, in virtual seconds


@dataclass(frozen=True)
class Job:
    """One order in the hands of a virtual learner."""

    member: Member
    part: str
    assignment: Assignment
    finish: float  # virtual time
    training: Training

    @property
    def last_round(self) -> int:
        """The commit of this round ends the work."""
        return self.assignment.order.last_round or self.assignment.order.round


class Agenda:
    """Orders in hand, by (finish, part); a virtual learner does one after the other."""

    def __init__(self, seed: int, speed_spread: float) -> None:
        self._seed = seed
        self._spread = speed_spread
        self._heap: list[tuple[float, str, str]] = []  # finish, part, work id
        self._jobs: dict[str, Job] = {}  # by work id; what is no longer here was given up
        self._free: dict[str, float] = {}  # by learner: when it will have nothing to do
        self._resumed: Due = {}  # of work that was in hand when the simulation was stopped

    def __contains__(self, work_id: str) -> bool:
        return work_id in self._jobs

    @property
    def due(self) -> Due:
        """When which order in hand will be done."""
        return {work_id: job.finish for work_id, job in self._jobs.items()}

    def busy(self, now: float) -> dict[str, float]:
        """Until when learners have something to do, of those that do."""
        return {learner: until for learner, until in self._free.items() if until > now}

    def resume(self, due: Due, free: dict[str, float]) -> None:
        """Go on from there: orders that come again are done when they would have been."""
        self._resumed, self._free = due, free

    def finish(self, learner: str, assignment: Assignment, now: float) -> float:
        """When a learner that takes this assignment now will be done with it."""
        order = assignment.order
        if order.work_id in self._resumed:
            return self._resumed.pop(order.work_id)
        examples = order.local_steps * min(order.batch_size, len(assignment.examples))
        begin = max(now, self._free.get(learner, 0.0))
        return begin + examples / (_EXAMPLES_PER_S * self.speed(learner))

    def speed(self, learner: str) -> float:
        """Log-normal over the learners, with median 1."""
        if not self._spread:
            return 1.0
        draw = int(np.random.PCG64(derive_seed(self._seed, "speed", learner)).random_raw())
        return math.exp(self._spread * NormalDist().inv_cdf(((draw >> 12) + 0.5) * 2.0**-52))

    def add(self, job: Job) -> None:
        """Take an order in hand."""
        work_id = job.assignment.order.work_id
        self._jobs[work_id] = job
        self._free[job.member.name] = max(job.finish, self._free.get(job.member.name, 0.0))
        heapq.heappush(self._heap, (job.finish, job.part, work_id))

    def next(self) -> Job | None:
        """The job that is done first; None if nobody has any."""
        while self._heap and self._heap[0][2] not in self._jobs:
            heapq.heappop(self._heap)
        return self._jobs[self._heap[0][2]] if self._heap else None

    def remove(self, job: Job) -> None:
        """The job is done, or given up; in that case its training is cancelled."""
        self._jobs.pop(job.assignment.order.work_id, None)
        job.training.cancel()

    def give_up(self, round_: int, now: float) -> None:
        """Let go of the work that the commit of this round has ended."""
        for job in [job for job in self._jobs.values() if job.last_round <= round_]:
            self.remove(job)
            self._free[job.member.name] = min(now, self._free[job.member.name])
