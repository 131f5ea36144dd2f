"""The faults of a plan, injected into a run one after the other, never before it went on from the last."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterable
from functools import partial

from tests.chaos.ledger import Ledger
from tests.chaos.options import Options
from tests.chaos.plan import LEADER, Fault, Kind
from tests.chaos.process import Entry
from tests.chaos.run import TrainingRun
from tests.tools.proxy import Direction

_MISSED_ROUNDS = 3  # after which a process does not reach its fault point by itself any more
_REDIAL_S = 1.5  # within which learners that were cut off dial again
_LONGEST_S = 30.0  # that a bad network stays bad without a commit


class Injector:
    """Strikes a run with the faults of a plan."""

    def __init__(
        self,
        run: TrainingRun,
        ledger: Ledger,
        options: Options,
        *,
        round_s: float,
        update_bytes: int,
    ) -> None:
        self._run = run
        self._ledger = ledger
        self._options = options
        self._round_s = round_s  # of an undisturbed round
        self._update_bytes = update_bytes

    async def inject(self, plan: Iterable[Fault]) -> None:
        """Strike with all of `plan` in turn."""
        for fault in plan:
            if fault.kind is Kind.KILL_AT:  # it strikes by itself
                await self._run.expect(partial(self._is_past, fault), None)
                if self._run.is_armed(fault):  # its process never comes there
                    self._run.pass_over(fault)
            elif fault.kind is Kind.STOP_AT:
                await self._wake(fault)
            else:
                await self._run.expect(partial(self._is_due, fault), None)
                await asyncio.sleep(fault.moment * self._round_s)
                self._ledger.struck(fault)
                await self._strike(fault)

    async def _wake(self, fault: Fault) -> None:
        """Have an edge that stops by itself go on once it is given up; then it is started with its next fault."""
        edge, given_up = fault.target, self._run.given_up
        await self._run.expect(lambda *said: edge in given_up or self._is_past(fault, *said), None)
        if edge in given_up:
            self._ledger.struck(fault)
            self._run.signal(edge, signal.SIGCONT)
            await self._run.expect(partial(_has_joined, edge), 4 * self._options.lease_s)
        self._run.pass_over(fault)

    def _is_past(self, fault: Fault, target: int, entry: Entry) -> bool:
        return not self._run.is_armed(fault) or self._run.round > fault.round + _MISSED_ROUNDS

    def _is_due(self, fault: Fault, target: int, entry: Entry) -> bool:
        """Whether a round has begun that `fault` may strike in: the one before it was committed."""
        if target != LEADER or entry["event"] != "RoundStarted" or entry["round"] < fault.round:
            return False
        before = self._ledger.injuries[-1].round if self._ledger.injuries else 0
        return int(entry["round"]) > before and (fault.target <= LEADER or fault.target in self._run.working)

    async def _strike(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL:
                self._run.signal(fault.target, signal.SIGKILL)
            case Kind.LEAVE:
                self._run.signal(fault.target, signal.SIGTERM)
            case Kind.FREEZE:
                await self._freeze(fault)
            case _:
                await self._spoil_network(fault)

    async def _freeze(self, fault: Fault) -> None:
        self._run.signal(fault.target, signal.SIGSTOP)
        try:
            await self._lease_over(fault.target)
        finally:
            self._run.signal(fault.target, signal.SIGCONT)

    async def _lease_over(self, target: int) -> None:
        """Wait until the leader gives the learner up; the leader itself stays away for as long as that takes."""
        lease_s = self._options.lease_s
        if target == LEADER:
            await asyncio.sleep(1.5 * lease_s)
            return
        self._run.given_up.discard(target)
        await self._run.expect(
            lambda who, entry: (
                (entry["event"] == "LearnerLeft" and self._run.target_of(entry) == target)
                or target in self._run.given_up
            ),
            4 * lease_s,
        )
        self._run.given_up.discard(target)

    async def _spoil_network(self, fault: Fault) -> None:
        proxy = self._run.proxies[fault.target]
        direction: Direction = "up" if fault.detail == "up" else "down"
        match fault.kind:
            case Kind.CUT:
                proxy.cut()
            case Kind.CUT_AFTER:
                proxy.cut_after(round(fault.amount * self._update_bytes), direction)
            case Kind.HALF_CLOSE:
                proxy.half_close(direction)
            case Kind.SILENCE:
                proxy.pause()
                await self._lease_over(fault.target)
                proxy.resume()
            case Kind.DELAY:
                proxy.set_delay(0.05 + 0.45 * fault.amount)
                await self._commit()
                proxy.set_delay(0.0)
            case Kind.BANDWIDTH:
                proxy.set_bandwidth(self._update_bytes * (0.5 + fault.amount))
                await self._commit()
                proxy.set_bandwidth(None)
            case Kind.REFUSE:
                proxy.refuse(True)
                proxy.cut()
                await asyncio.sleep(1.0 + 2.0 * fault.amount)
                proxy.refuse(False)
            case Kind.REORDER:
                await self._reorder(fault)

    async def _commit(self) -> None:
        await self._run.expect(
            lambda who, entry: who == LEADER and entry["event"] == "RoundCommitted", _LONGEST_S
        )

    async def _reorder(self, fault: Fault) -> None:
        proxies = list(self._run.proxies.values())
        random.Random(fault.amount).shuffle(proxies)
        for proxy in proxies:
            proxy.hold_new(1 << 20)
            proxy.cut()
        await asyncio.sleep(_REDIAL_S)
        for proxy in proxies:
            proxy.hold_new(0)


def _has_joined(edge: int, target: int, entry: Entry) -> bool:
    return target == edge and str(entry.get("message", "")).startswith("joined run")
