"""Errors on the wire: one table between the error tree and gRPC status codes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from grpc import aio

from utils.errors import (
    ChecksumError,
    DuplicateUpdateError,
    FlockstepError,
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
    IncompatibleError: grpc.StatusCode.FAILED_PRECONDITION,
    NotReadyError: grpc.StatusCode.UNAVAILABLE,
}

_BY_STATUS = {code: kind for kind, code in STATUS.items()}


#: What the details of a status begin with when Flockstep itself refused the call.
REFUSED = "leader: "


def status_of(error: WireError) -> grpc.StatusCode:
    """The gRPC status code that tells `error` to the peer."""
    return STATUS[type(error)]


def error_of(code: grpc.StatusCode, details: str) -> FlockstepError:
    """The error that a peer meant with this status; UnreachableError for a transport failure."""
    if not details.startswith(REFUSED):
        # gRPC's own words, such as "failed to connect to all addresses; last error: ...".
        return UnreachableError(details.rpartition("last error: ")[2] or code.name)
    kind = _BY_STATUS.get(code, UnreachableError)
    return kind(details.removeprefix(REFUSED))


@contextmanager
def failures_told() -> Iterator[None]:
    """Failed calls as the errors that they mean."""
    try:
        yield
    except aio.AioRpcError as error:
        raise error_of(error.code(), error.details() or "") from None
    except aio.UsageError as error:  # the channel was closed before the call
        raise UnreachableError(str(error)) from None
    except asyncio.CancelledError:
        # A channel that is closed cancels its calls, which looks as if this task were to end.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise UnreachableError("the connection was closed in the middle of a call") from None
