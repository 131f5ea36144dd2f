"""Refusals as they travel: what the status alone can't say goes along."""

from __future__ import annotations

import asyncio

import pytest
from grpc import aio

from protos import leader_pb2
from tests.tools.grpc_server import started
from utils.errors import (
    BusyError,
    FlockstepError,
    ForbiddenError,
    LimitError,
    NameTakenError,
    StalledError,
    WireError,
)
from utils.wire import contract
from utils.wire.contract import Context
from utils.wire.status import failures_told, refuse


async def heard(error: WireError, later: WireError | None = None) -> FlockstepError:
    """What a client is told that a server refuses with `error`, and, while it is at that, with a `later` one."""

    async def answer(request: object, context: Context) -> None:
        if later is None:
            raise error
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):  # over at the loop's next turn, when gRPC is at it
                await refuse(context, error)
        raise later

    server = aio.server()
    server.add_generic_rpc_handlers(
        (contract.serve({contract.GET_WORK: answer}, lambda name, context, why: refuse(context, why)),)
    )
    async with started(server) as address, aio.insecure_channel(address) as channel:
        with pytest.raises(FlockstepError) as caught, failures_told():
            await contract.GET_WORK.ask(channel, leader_pb2.WorkRequest())
    return caught.value


@pytest.mark.parametrize("kind", [ForbiddenError, NameTakenError, BusyError, LimitError])
def test_errors_that_share_a_status_are_told_apart(kind: type[WireError]) -> None:
    told = asyncio.run(heard(kind("no")))
    assert (type(told), str(told)) == (kind, "no")


def test_who_asks_too_much_hears_when_to_try_again() -> None:
    told = asyncio.run(heard(BusyError("slower", retry_after_s=1.2344)))
    assert isinstance(told, BusyError)
    assert told.retry_after_s == 1.235


def test_nobody_is_told_to_wait_for_ever() -> None:
    told = asyncio.run(heard(BusyError("slower", retry_after_s=1e12)))
    assert isinstance(told, BusyError)
    assert told.retry_after_s == 3600.0


def test_a_call_whose_time_is_up_while_it_is_refused_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    told = asyncio.run(heard(ForbiddenError("no"), StalledError("too late")))
    assert (type(told), str(told)) == (ForbiddenError, "no")
    assert caplog.records == []
