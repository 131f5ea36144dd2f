"""Errors on the wire: one table between the error tree and gRPC status codes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from grpc import aio

from utils.errors import (
    BusyError,
    ChecksumError,
    DuplicateUpdateError,
    EndedError,
    FlockstepError,
    ForbiddenError,
    IncompatibleError,
    LateUpdateError,
    LimitError,
    NameTakenError,
    NotReadyError,
    PayloadError,
    StalledError,
    UnknownLearnerError,
    UnreachableError,
    ValueRangeError,
    WireError,
)

#: From the error tree to gRPC status codes; every WireError class has its own line here.
STATUS: dict[type[WireError], grpc.StatusCode] = {
    PayloadError: grpc.StatusCode.INVALID_ARGUMENT,
    ValueRangeError: grpc.StatusCode.OUT_OF_RANGE,
    ChecksumError: grpc.StatusCode.DATA_LOSS,
    LimitError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StalledError: grpc.StatusCode.DEADLINE_EXCEEDED,
    LateUpdateError: grpc.StatusCode.ABORTED,
    DuplicateUpdateError: grpc.StatusCode.ALREADY_EXISTS,
    UnknownLearnerError: grpc.StatusCode.UNAUTHENTICATED,
    NameTakenError: grpc.StatusCode.PERMISSION_DENIED,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    EndedError: grpc.StatusCode.UNAUTHENTICATED,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    IncompatibleError: grpc.StatusCode.FAILED_PRECONDITION,
    NotReadyError: grpc.StatusCode.UNAVAILABLE,
}

#: Trailing metadata that names the class of the error: some of them share a status code.
ERROR_KEY = "flockstep-error"
#: Trailing metadata of a BusyError: milliseconds after which to try again.
RETRY_KEY = "retry-after-ms"
_LONGEST_WAIT_S = 3600.0
_BY_NAME = {kind.__name__: kind for kind in STATUS}
_BY_STATUS = {code: kind for kind, code in reversed(STATUS.items())}  # the first of those that share one
#: What something in between, such as a gateway, refuses a caller with, in words of its own.
_NOT_ADMITTED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


#: What the details of a status begin with when Flockstep itself refused the call.
REFUSED = "leader: "
#: What the error begins with where it was something in between.
ON_THE_WAY = "refused on the way to the leader: "


async def refuse(context: aio.ServicerContext[Any, Any], error: WireError, who: str = REFUSED) -> NoReturn:
    """End a call with the status that tells `error` to the peer.

    Raises aio.AbortError, or CancelledError where the call's time ran out while another status was under way: that
    one is told.
    """
    trailing = [(ERROR_KEY, type(error).__name__)]
    if isinstance(error, BusyError):
        trailing.append((RETRY_KEY, str(math.ceil(1000 * error.retry_after_s))))
    try:
        await context.abort(STATUS[type(error)], f"{who}{error}", tuple(trailing))
    except aio.UsageError:  # that it is called twice; gRPC would log a traceback
        raise asyncio.CancelledError from None


def told(error: aio.AioRpcError) -> FlockstepError:
    """The error that a peer meant with a failed call; UnreachableError for a transport failure."""
    trailing = {key: str(value) for key, value in error.trailing_metadata() or ()}
    meant = error_of(error.code(), error.details() or "", trailing.get(ERROR_KEY, ""))
    after_ms = trailing.get(RETRY_KEY, "")
    if isinstance(meant, BusyError) and after_ms.isdecimal():
        meant.retry_after_s = min(int(after_ms) / 1000, _LONGEST_WAIT_S)
    return meant


def error_of(code: grpc.StatusCode, details: str, name: str = "") -> FlockstepError:
    """The error behind a status: that of this name, else the first one that has the code."""
    if not details.startswith(REFUSED):
        if code in _NOT_ADMITTED:
            return ForbiddenError(f"{ON_THE_WAY}{details}")
        # gRPC's own words, such as "failed to connect to all addresses; last error: ...".
        return UnreachableError(details.rpartition("last error: ")[2] or code.name)
    kind = _BY_NAME.get(name) or _BY_STATUS.get(code)
    return (kind or UnreachableError)(details.removeprefix(REFUSED))


def error_named(name: str, message: str, retry_after_s: float = 0.0) -> WireError:
    """The error of this name, as a peer tells it in a message; PayloadError for a name that is none."""
    error = _BY_NAME.get(name, PayloadError)(message)
    if isinstance(error, BusyError):
        error.retry_after_s = max(0.0, min(retry_after_s, _LONGEST_WAIT_S))
    return error


@contextmanager
def failures_told(unknown: Callable[[], FlockstepError] | None = None) -> Iterator[None]:
    """Failed calls as the errors that they mean; a method that there is not as what `unknown` makes, if given."""
    try:
        yield
    except aio.AioRpcError as error:
        if unknown is not None and error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise unknown() from None
        raise told(error) from None
    except aio.UsageError as error:  # the channel was closed before the call
        raise UnreachableError(str(error)) from None
    except asyncio.CancelledError:
        # A channel that is closed cancels its calls, which looks as if this task were to end.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise UnreachableError("the connection was closed in the middle of a call") from None
