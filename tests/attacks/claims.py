"""Learners that claim more than is theirs: examples, scores, a share of the rounds, an address."""

from __future__ import annotations

from collections.abc import Awaitable

from grpc import aio

from protos import leader_pb2
from tests.strangers import Stranger
from utils.trust.credentials import Credentials


async def refusal_of(call: Awaitable[object]) -> str:
    """What the leader refuses a call with; "" if it does not."""
    try:
        await call
    except aio.AioRpcError as error:
        return str(error.details())
    return ""


def own(examples: int, classes: int = 0) -> leader_pb2.OwnData:
    """A claim of so many examples of one's own."""
    return leader_pb2.OwnData(examples=examples, classes=classes, fingerprint="ff")


async def claim(address: str, examples: int, held: Credentials | None = None) -> str:
    """Register with so many examples of one's own; what the leader refuses that with."""
    async with Stranger(address, held) as thief:
        return await refusal_of(thief.register("thief", own_data=own(examples)))


def accuracy(value: float, examples: int) -> list[leader_pb2.Metric]:
    """A score on so many held-out examples."""
    return [leader_pb2.Metric(name="accuracy", value=value, examples=examples)]


async def answer_at_once(thief: Stranger, file: bytes) -> None:
    """Answer each order with the same update as soon as it comes, for ever."""
    while True:
        order = await thief.work()
        await thief.send(file, order.work_id)


async def name_addresses(address: str, network_addr: str, count: int) -> list[str]:
    """Ask so many times to be dialled at an address; what the leader refuses that with."""
    async with Stranger(address) as thief:
        said = {"control": leader_pb2.CONTROL_DIALLED, "network_addr": network_addr}
        return [await refusal_of(thief.register(f"thief-{number}", **said)) for number in range(count)]
