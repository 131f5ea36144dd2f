"""Waiting for enough learners: before the first round, and between rounds when too many are gone."""

from __future__ import annotations

from collections.abc import Callable

from leader.config import RunConfig
from leader.events import EventStream, WaitingForLearners
from leader.learners.workforce import Workforce
from utils.errors import TooFewLearnersError


class Rendezvous:
    """Waits on the workforce, for cohort.wait_s seconds at most; `over` says that nobody is needed any more."""

    def __init__(
        self,
        config: RunConfig,
        workforce: Workforce,
        events: EventStream,
        over: Callable[[], bool],
        trouble: Callable[[], str] = lambda: "",
        stop: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._config = config
        self._workforce = workforce
        self._events = events
        self._over = over
        self._trouble = trouble  # why all who were here could not do their work; "" = nothing of the kind
        self._stop = stop

    async def first(self, round_: int, *, resumed: bool) -> None:
        """Wait until all the learners that the run wants are here.

        A resumed run gives those it had one lease to come back, and then goes on with whoever is
        here. Raises TooFewLearnersError.
        """
        config = self._config
        self._tell()
        wait_s = config.cohort.lease_s if resumed else config.cohort.wait_s
        complete = await self._wait(lambda: self._workforce.eligible() >= config.learners, wait_s)
        if not complete and not resumed:
            raise TooFewLearnersError(
                f"{self._workforce.eligible()} of {config.learners} learners came within {wait_s:g} s (cohort.wait_s); "
                "start more, or lower --learners"
            )
        if not await self._wait(lambda: self._workforce.eligible() > 0, config.cohort.wait_s):
            raise self._too_few(round_)

    async def enough(self, round_: int) -> None:
        """Wait until the round after `round_` can begin; raises TooFewLearnersError.

        Where all who were here have failed, none of whom had done work before, others have a lease to come; then
        the run stops with that.
        """
        if self._over() or self._workforce.enough():
            return
        self._tell()
        if why := self._trouble():
            if not await self._wait(self._workforce.enough, self._config.cohort.lease_s):
                self._stop(why)
            return
        if not await self._wait(self._workforce.enough, self._config.cohort.wait_s):
            raise self._too_few(round_)

    def _tell(self) -> None:
        self._events.publish(WaitingForLearners(self._workforce.eligible(), self._config.learners))

    async def _wait(self, condition: Callable[[], bool], wait_s: float) -> bool:
        return await self._workforce.changed.wait_until(lambda: self._over() or condition(), wait_s)

    def _too_few(self, round_: int) -> TooFewLearnersError:
        return TooFewLearnersError(
            f"too few learners for {self._config.cohort.wait_s:g} s (cohort.wait_s) after round {round_}; "
            "start learners, then resume the run"
        )
