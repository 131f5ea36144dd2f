"""Every call goes through here: who calls, whether it may, how often and how many at once; then its handler."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, cast

from grpc import aio

from leader.condition import Signal
from leader.config import LimitsConfig
from leader.places import Places
from leader.trust.access import roles
from leader.trust.access.connections import CALLING, LEARNERS, STREAMS, Connections, End, end_of
from leader.trust.access.limiter import Limiter, Quota
from leader.trust.identities.callers import _CALLER, DOOR, Caller, anonymous, ended
from utils.errors import BusyError, LimitError, StalledError, WireError
from utils.trust import contract as trust
from utils.wire.contract import UNKNOWN, Call, Context, Door
from utils.wire.rpc import SERVICE
from utils.wire.status import refuse

Refused = Callable[[str, WireError, Caller], None]  # the method's name, why, and whose call it was
_CERTIFYING = {f"/{trust.SERVICE}/{method.name}" for method in (trust.ENROL, trust.RENEW)}
_REGISTER = f"/{SERVICE}/RegisterLearner"
_UP = {f"/{SERVICE}/{name}" for name in ("AccumulateGradients", "ExchangeGradients")}
_DOWN = {f"/{SERVICE}/{name}" for name in ("GetModel", "GetData", "ExchangeGradients")}

_OVER_S = 1.0
_MADE_ROOM = 64  # calls that end at once where there are too many


class Identifying(Protocol):
    """Finds out whose calls they are."""

    identified: bool  # whether callers prove who they are

    async def of(self, context: Context) -> Caller:
        """The caller of one call; raises ForbiddenError where it is nobody who may call."""
        ...

    def check(self, caller: Caller) -> None:
        """Raises ForbiddenError or NotReadyError where it counts no more."""
        ...

    def carries(self, context: Context) -> bool:
        """Whether it is a gateway's connection, over which others call."""
        ...


@dataclass(eq=False)
class _LiveCall:
    """A call under way, which ends when its deadline is moved to now."""

    caller: Caller
    peer: str
    number: int
    deadline: asyncio.Timeout
    due: float | None = None  # loop's clock at which it ends in any case
    hello_s: float = math.inf  # that its first message may take
    heard: bool = False  # whether that is here
    why: WireError | None = None  # it was ended

    @property
    def is_due(self) -> bool:
        """Whether it ends in any case."""
        return self.due is not None and asyncio.get_running_loop().time() >= self.due

    def is_asked(self) -> None:
        """Its first message is awaited from now on."""
        if not self.deadline.expired():
            now = asyncio.get_running_loop().time()
            self.deadline.reschedule(min(now + self.hello_s, self.due or math.inf))

    def has_spoken(self) -> None:
        """Its first message is here, or its caller has none to send."""
        if not self.heard and not self.deadline.expired():
            self.heard = True
            self.deadline.reschedule(self.due)

    def end(self, why: WireError) -> None:
        """Let go of it now."""
        if not self.deadline.expired():
            self.why = why
            self.deadline.reschedule(asyncio.get_running_loop().time())


#: Holds what the first message of a call takes while it comes.
First = Callable[[_LiveCall], AbstractAsyncContextManager[object]]


class _Requests:
    """The messages of a call, which tells when the first is here."""

    def __init__(self, messages: AsyncIterable[Any], call: _LiveCall, first: First) -> None:
        self._messages = messages
        self._first = first
        self._call = call
        self._iterator: AsyncGenerator[Any, None] | None = None

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        if self._call.heard:
            return await anext(self._asked())
        async with self._first(self._call):
            self._call.is_asked()
            message = await anext(self._asked(), None)
            self._call.has_spoken()
        if message is None:
            raise StopAsyncIteration
        return message

    def _asked(self) -> AsyncGenerator[Any, None]:
        """What gRPC reads by, which warns if it is made and not asked."""
        if self._iterator is None:
            self._iterator = cast(AsyncGenerator[Any, None], aiter(self._messages))
        return self._iterator

    async def aclose(self) -> None:
        """Let go of what gRPC keeps for those that don't come any more."""
        if self._iterator is not None:
            await self._iterator.aclose()


class Guard(Door):
    """Lets a call reach its handler once its caller is known, may make it and has not made too many."""

    def __init__(self, callers: Identifying, limits: LimitsConfig, refused: Refused) -> None:
        super().__init__(self._answer)
        self._callers = callers
        self._refused = refused
        self._hello_s = limits.hello_s
        self._at_once = limits.calls_at_once if callers.identified else STREAMS
        self._most = 4 * limits.max_learners + 64  # each has a session and makes a call or two beside it
        firsts = max(2, limits.upload_bytes // (2 * limits.message_bytes))
        self._firsts = Places(firsts, limits.slow_bytes_per_s)
        self._numbers = itertools.count()
        self._live: defaultdict[str, set[_LiveCall]] = defaultdict(set)  # by Caller.place
        self._count = 0  # of all live calls
        self._changed = Signal()
        #: Caller.place of each that is registered.
        self.learners: Callable[[], Collection[str]] = frozenset
        self.connections = Connections(self._worth)
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
        for call in self._calls_under_way():
            try:
                self._callers.check(call.caller)
            except WireError as error:
                call.end(error)

    def _worth(self) -> Mapping[End, int]:
        """What each connection with a call under way is worth, and each that a learner is known by."""
        learners = self.learners()
        worth = {end_of(place): LEARNERS for place in learners if place.startswith("ipv")}
        for call in self._calls_under_way():
            end = end_of(call.peer)
            ours = call.caller.known or call.caller.place in learners
            worth[end] = max(worth.get(end, CALLING), LEARNERS if ours else CALLING)
        return worth

    def _calls_under_way(self) -> Iterator[_LiveCall]:
        return itertools.chain.from_iterable(self._live.values())

    async def over(self) -> None:
        """Wait until calls that were cut off are over, which takes a moment; else gRPC logs a traceback of each."""
        await self._changed.wait_until(lambda: not self._count, _OVER_S)

    async def _answer(self, method: str, answer: Call, request: Any, context: Context) -> Any:
        try:
            return await self._answered(method, answer, request, context)
        except aio.InternalError:  # its caller is gone; gRPC would log a traceback
            raise asyncio.CancelledError from None

    async def _answered(self, method: str, answer: Call, request: Any, context: Context) -> Any:
        peer = context.peer()
        caller = await self._admitted(method, context)
        _CALLER.set(caller)
        try:
            async with asyncio.timeout(None) as deadline:
                with self._under_way(caller, peer, deadline) as call:
                    first: First = (
                        nullcontext if method in _UP else self._first
                    )  # those have places of their own
                    return await answer(_Requests(request, call, first), context)
        except TimeoutError:
            if not deadline.expired():
                raise
            await self._refuse(method, context, caller, self._ended(call))
        except WireError as error:
            await self._refuse(method, context, caller, error)
        except aio.AbortError:  # the handler has refused the call itself
            if method == UNKNOWN:
                self._came_to_nothing(method, context, caller)
            if self._is_nobody(caller):
                self._refusals.add(caller.address)
            raise
        except (asyncio.CancelledError, aio.InternalError):  # its caller has broken it off
            self._came_to_nothing(method, context, anonymous(peer))
            raise

    @asynccontextmanager
    async def _first(self, call: _LiveCall) -> AsyncIterator[None]:
        """A place for the first message of a call: gRPC makes room for all of it as soon as it is asked for."""
        caller = call.caller
        ranked = caller.known or caller.place in self.learners()
        async with self._firsts.hold(caller.place, 1, ranked=ranked) as place, place.moving(math.inf, ""):
            yield

    @contextmanager
    def _under_way(self, caller: Caller, peer: str, deadline: asyncio.Timeout) -> Iterator[_LiveCall]:
        """A call that ends at `deadline`; raises BusyError if its caller has too many, or all together."""
        if self._count >= self._most:
            self._make_room()
        calls = self._live[caller.place]
        if len(calls) >= self._at_once:
            raise BusyError(f"{len(calls)} calls are under way already (limits.calls_at_once)", 1.0)
        now = asyncio.get_running_loop().time()
        call = _LiveCall(caller, peer, next(self._numbers), deadline, hello_s=self._hello_s)
        if caller.role == DOOR:  # anybody may knock, and must not stand there for ever
            call.due = now + self._hello_s
        elif not math.isinf(caller.until):
            call.due = now + caller.until - time.time()
        deadline.reschedule(call.due)  # uploads wait for their places, and are asked for nothing until then
        calls.add(call)
        self._count += 1
        try:
            yield call
        finally:
            self._count -= 1
            calls.remove(call)
            if not calls:
                self._live.pop(caller.place, None)
            self._changed.notify()

    def _make_room(self) -> None:
        """End calls of strangers, the mute ones first; raises BusyError where there are none."""
        learners = self.learners()
        strange = [
            call
            for call in self._calls_under_way()
            if not (call.caller.known or call.caller.place in learners or call.why)
        ]
        if not strange and self._count >= self._most + _MADE_ROOM:
            raise BusyError(f"{self._count} calls are under way already (limits.max_learners)", 1.0)
        for call in sorted(strange, key=lambda call: (call.heard, call.number))[:_MADE_ROOM]:
            call.end(BusyError("there are too many calls, and those of learners come first", 1.0))

    async def _admitted(self, method: str, context: Context) -> Caller:
        caller = anonymous(context.peer())
        try:
            if self._callers.identified and not context.auth_context().get("x509_pem_cert"):
                self._refusals.check(caller.address)  # a JWT costs more to check than to send
            caller = await self._callers.of(context)
            self._admit(method, caller)
        except WireError as error:
            await self._refuse(method, context, caller, error)
        return caller

    def _is_nobody(self, caller: Caller) -> bool:
        """Whether it has proven no identity where that is asked for."""
        return self._callers.identified and not caller.known

    def _admit(self, method: str, caller: Caller) -> None:
        """Raises ForbiddenError or BusyError unless the caller may make this call now."""
        identified = self._callers.identified
        if identified and method != UNKNOWN:
            roles.check(caller, method)
        if self._is_nobody(caller):
            self._refusals.check(caller.address)
        self._calls.take(caller.place)
        if method == _REGISTER and identified:  # behind a connection there may be many who register
            self._registrations.take(caller.place)
        if method in _UP:
            self.up_quota.check(caller.place)
        if method in _DOWN:
            self.down_quota.check(caller.place)
        if caller.role == DOOR:
            self._enrolments.take(caller.address)
        elif method in _CERTIFYING:  # each writes the state, which all calls then read anew
            self._renewals.take(caller.place)

    def _ended(self, call: _LiveCall) -> WireError:
        """Why a call was ended while it was under way."""
        if call.why:
            return call.why
        if call.caller.role == DOOR or not (call.heard or call.is_due):
            return StalledError(f"no whole request in {self._hello_s:g} s (limits.hello_s); call again")
        try:
            self._callers.check(call.caller)
        except WireError as error:
            return error
        return ended(call.caller)  # the clocks differ by a little

    async def _refuse(self, method: str, context: Context, caller: Caller, error: WireError) -> NoReturn:
        """End a call; those of nobody beyond limits.refusals_per_min leave no other trace."""
        _CALLER.set(caller)
        self._came_to_nothing(method, context, caller, error)
        if self._is_nobody(caller):
            self._refusals.add(caller.address)
        await refuse(context, error)

    def _came_to_nothing(
        self, method: str, context: Context, caller: Caller, error: WireError | None = None
    ) -> None:
        """Tell of a call that was refused, or of a connection that is ended, as that was one too many."""
        peer = context.peer()
        if not peer or self.connections.is_doomed(peer):  # it is ended already, or about to be
            return
        if not self._callers.carries(context) and self.connections.in_vain(peer, broken_off=error is None):
            error = LimitError("too many calls over its connection were broken off or refused; it is ended")
        if error and not (self._is_nobody(caller) and self._refusals.wait_s(caller.address)):
            self._refused(method.rpartition("/")[2], error, caller)


def _a_minute(limit: float, what: str) -> Limiter:
    return Limiter(limit, 60.0, limit, f"{what} a minute (limits.{what}_per_min)")
