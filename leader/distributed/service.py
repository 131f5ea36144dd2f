"""Serving EdgeService: messages in, the hub's answers out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from leader.distributed import contract
from leader.distributed.hub import Hub
from protos import edge_pb2, leader_pb2
from utils.wire.contract import Context, Refuse, serve


def edge_handler(hub: Callable[[], Hub], refuse: Refuse) -> grpc.GenericRpcHandler:
    """EdgeService as a handler to add to a server; `hub` is that of now, and raises the WireError if there is none."""

    async def join(messages: AsyncIterator[edge_pb2.EdgeUp], context: Context) -> None:
        await hub().join(messages, context.write)

    async def put_sum(chunks: AsyncIterator[edge_pb2.SumChunk], context: Context) -> leader_pb2.Ack:
        await hub().put(chunks)
        return leader_pb2.Ack(success=True, message="taken")

    calls: dict[Any, Any] = {contract.JOIN: join, contract.PUT_SUM: put_sum}
    return serve(calls, refuse)
