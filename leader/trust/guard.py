"""Every call of a run with trust goes through here: who calls, whether it may, and how often; then its handler."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from grpc import aio

from leader.config import LimitsConfig
from leader.trust import roles
from leader.trust.callers import _CALLER, DOOR, Caller, Callers, anonymous, ended
from leader.trust.limiter import Limiter, Quota
from utils.errors import BusyError, StalledError, WireError
from utils.trust import contract as trust
from utils.wire.contract import Call, Context, Door
from utils.wire.rpc import SERVICE
from utils.wire.status import refuse

Refused = Callable[[str, WireError, Caller], None]  # the method's name, why, and whose call it was
_CERTIFYING = {f"/{trust.SERVICE}/{method.name}" for method in (trust.ENROL, trust.RENEW)}
_REGISTER = f"/{SERVICE}/RegisterLearner"
_UP = {f"/{SERVICE}/{name}" for name in ("AccumulateGradients", "ExchangeGradients")}
_DOWN = {f"/{SERVICE}/{name}" for name in ("GetModel", "GetData", "ExchangeGradients")}


class Guard(Door):
    """Lets a call reach its handler once its caller is known, may make it and has not made too many."""

    def __init__(self, callers: Callers, limits: LimitsConfig, refused: Refused) -> None:
        super().__init__(self._answer)
        self._callers = callers
        self._refused = refused
        self._hello_s = limits.hello_s
        self._at_once = limits.calls_at_once
        self._live: defaultdict[str, dict[asyncio.Timeout, Caller]] = defaultdict(
            dict
        )  # calls, by Caller.place
        calls = limits.calls_per_s
        self._calls = Limiter(calls, 1.0, 2 * calls, "calls a second (limits.calls_per_s)")
        self._registrations = _a_minute(limits.registrations_per_min, "registrations")
        self._enrolments = _a_minute(limits.enrolments_per_min, "enrolments")
        self._renewals = _a_minute(limits.enrolments_per_min, "enrolments")  # of each identity
        self.up_quota = Quota(limits.upload_bytes_per_hour, "upload")
        self.down_quota = Quota(limits.download_bytes_per_hour, "download")
        self._refusals = _a_minute(limits.refusals_per_min, "refusals")

    def review(self) -> None:
        """The identities have changed: end the calls of those that count no more."""
        now = asyncio.get_running_loop().time()
        for calls in self._live.values():
            for deadline, caller in calls.items():
                try:
                    self._callers.check(caller)
                except WireError:
                    if not deadline.expired():
                        deadline.reschedule(now)

    async def _answer(self, method: str, answer: Call, request: Any, context: Context) -> Any:
        caller = await self._admitted(method, context)
        _CALLER.set(caller)
        left_s = None if math.isinf(caller.until) else caller.until - time.time()
        if caller.role == DOOR:  # anybody may knock, and must not stand there for ever
            left_s = self._hello_s
        try:
            async with asyncio.timeout(left_s) as deadline:
                with self._under_way(caller, deadline):
                    return await answer(request, context)
        except TimeoutError:
            if not deadline.expired():
                raise
            await self._refuse(method, context, caller, self._ended(caller))
        except WireError as error:
            await self._refuse(method, context, caller, error)
        except aio.AbortError:  # the handler has refused the call itself
            if not caller.known:
                self._refusals.add(caller.address)
            raise

    @contextmanager
    def _under_way(self, caller: Caller, deadline: asyncio.Timeout) -> Iterator[None]:
        """A call that ends when `deadline` is moved to now; raises BusyError if its caller has too many."""
        calls = self._live[caller.place]
        if len(calls) >= self._at_once:
            raise BusyError(f"{len(calls)} calls are under way already (limits.calls_at_once)", 1.0)
        calls[deadline] = caller
        try:
            yield
        finally:
            del calls[deadline]
            if not calls:
                self._live.pop(caller.place, None)

    async def _admitted(self, method: str, context: Context) -> Caller:
        caller = anonymous(context.peer())
        try:
            if not context.auth_context().get("x509_pem_cert"):
                self._refusals.check(caller.address)  # a JWT costs more to check than to send
            caller = await self._callers.of(context)
            self._admit(method, caller)
        except WireError as error:
            await self._refuse(method, context, caller, error)
        return caller

    def _admit(self, method: str, caller: Caller) -> None:
        """Raises ForbiddenError or BusyError unless the caller may make this call now."""
        roles.check(caller, method)
        if not caller.known:
            self._refusals.check(caller.address)
        self._calls.take(caller.place)
        if method == _REGISTER:
            self._registrations.take(caller.place)
        if method in _UP:
            self.up_quota.check(caller.place)
        if method in _DOWN:
            self.down_quota.check(caller.place)
        if caller.role == DOOR:
            self._enrolments.take(caller.address)
        elif method in _CERTIFYING:  # each writes the state, which all calls then read anew
            self._renewals.take(caller.place)

    def _ended(self, caller: Caller) -> WireError:
        """Why a call was ended while it was under way."""
        if caller.role == DOOR:
            return StalledError(f"no whole request in {self._hello_s:g} s (limits.hello_s); call again")
        try:
            self._callers.check(caller)
        except WireError as error:
            return error
        return ended(caller)  # the clocks differ by a little

    async def _refuse(self, method: str, context: Context, caller: Caller, error: WireError) -> NoReturn:
        """End a call; those of nobody beyond limits.refusals_per_min leave no other trace."""
        _CALLER.set(caller)
        if caller.known or not self._refusals.wait_s(caller.address):
            self._refused(method.rpartition("/")[2], error, caller)
        if not caller.known:
            self._refusals.add(caller.address)
        await refuse(context, error)


def _a_minute(limit: float, what: str) -> Limiter:
    return Limiter(limit, 60.0, limit, f"{what} a minute (limits.{what}_per_min)")
