"""An upload that broke at one edge goes on at another, by what stands in Redis: real edges, a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import pytest
from grpc import aio

from leader.distributed.cipher import Cipher
from leader.edge.service import EdgeDesk
from leader.services.cache import model_key, open_cache
from protos import leader_pb2
from tests.leader.edge.parents import KEY, MODEL, VERSION, Learner, Parent, edge_of, mean_of, play, stub_of
from tests.leader.edge.test_edge import model, upload_status
from tests.tools.needs import needs
from tests.tools.ports import closed_address
from tests.tools.redis import in_redis, redis_server
from utils.errors import ChecksumError, PayloadError
from utils.wire.contract import LeaderStub
from utils.wire.framing import frame, frames
from utils.wire.status import failures_told

pytestmark = needs("redis")
CHUNK = 512


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Where a Redis is."""
    address = closed_address()
    with redis_server(address, tmp_path):
        yield f"redis://{address}"


async def cut(learner: Learner, stub: LeaderStub, messages: int = 6) -> None:
    """Begin an upload and hang up."""
    with pytest.raises(PayloadError), failures_told():
        await stub.accumulate(islice(learner.messages(CHUNK), messages))


def chunk_of(message: bytes) -> bytes:
    return leader_pb2.GradientData.FromString(message).chunk


def place_of(learner: Learner) -> str:
    said = learner.held.said
    return f"flockstep:run:upload:{said.work_id}:{said.total_bytes}:{said.crc32}"


TwoEdges = Callable[[Parent, LeaderStub, LeaderStub], Awaitable[None]]


def at_two_edges(story: TwoEdges, url: str) -> None:
    """A story at the first edge, which leaves after it, and a second one."""

    async def whole(parent: Parent) -> None:
        async with edge_of(parent, redis_url=url), edge_of(parent, redis_url=url):
            one, two = parent.hub.addresses
            async with stub_of(one) as first, stub_of(two) as second:
                parent.open(1)
                await story(parent, first, second)

    play(whole)


async def until_shared(learner: Learner, url: str, before: Mapping[str, object] = {}) -> dict[str, object]:
    """What is in Redis once the learner's upload is, all of it put after `before` was seen."""
    async with asyncio.timeout(30):
        while True:
            found = await asyncio.to_thread(in_redis, url)
            values: dict[str, object] = {key: value for key, (_, value) in found.items()}
            wanted = [f"{place_of(learner)}:{number}" for number in range(2)]
            if all(key in values and values[key] != before.get(key) for key in wanted):
                return values
            await asyncio.sleep(0.01)


def test_an_upload_that_is_cut_at_one_edge_ends_at_another_with_the_rest_alone(url: str) -> None:
    async def story(parent: Parent, first: LeaderStub, second: LeaderStub) -> None:
        learner, other = Learner(1, parent), Learner(2, parent)
        await cut(learner, first)
        received = (await upload_status(first, learner)).received
        total = learner.held.said.total_bytes
        assert 0 < received < total
        await until_shared(learner, url)
        assert {(await upload_status(second, learner)).received for _ in range(2)} == {received}
        await second.accumulate(learner.held.messages(b"", CHUNK, received, learner.sealed))
        await other.send(second)
        assert [receipt.size for receipt in parent.receipts] == [
            total - received,
            other.held.said.total_bytes,
        ]
        assert await parent.gather() == frozenset()
        assert parent.sum.finish().mean.tobytes() == mean_of(parent, learner, other)
        assert {key: 0 < ttl <= 600_000 for key, (ttl, _) in in_redis(url).items()} == {
            f"{place_of(learner)}:{number}": True for number in range(2)
        }

    at_two_edges(story, url)


def test_what_broke_twice_goes_on_where_it_broke_last(url: str) -> None:
    async def story(parent: Parent, first: LeaderStub, second: LeaderStub) -> None:
        learner = Learner(1, parent)
        await cut(learner, first, 3)
        before = await until_shared(learner, url)
        begun = (await upload_status(second, learner)).received
        rest = learner.held.messages(b"", CHUNK, begun, learner.sealed)
        with pytest.raises(PayloadError), failures_told():
            await second.accumulate(islice(rest, 5))
        received = (await upload_status(second, learner)).received
        assert received > begun
        await until_shared(learner, url, before)
        async with edge_of(parent, redis_url=url), stub_of(parent.hub.addresses[2]) as third:
            assert (await upload_status(third, learner)).received == received

    at_two_edges(story, url)


def test_an_edge_that_is_told_to_leave_hands_on_what_is_on_its_way(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = asyncio.Semaphore(0)
    monkeypatch.setattr(EdgeDesk, "_at_chunk", lambda desk: chunks.release())

    async def story(parent: Parent) -> None:
        parent.open(1)
        learner, never = Learner(1, parent), asyncio.Event()
        begun = [*islice(learner.messages(CHUNK), 6)]
        sent = [len(chunk) for chunk in map(chunk_of, begun) if chunk]

        async def half() -> AsyncIterator[bytes]:
            for message in begun:
                yield message
            await never.wait()

        async with edge_of(parent, redis_url=url):
            stays = parent.hub.addresses[0]
            async with edge_of(parent, redis_url=url), stub_of(parent.hub.addresses[1]) as stub:
                sending = asyncio.ensure_future(stub.accumulate(half()))
                for _ in sent:
                    await chunks.acquire()
            with pytest.raises((aio.AioRpcError, asyncio.CancelledError)):
                await sending
            async with stub_of(stays) as other:
                assert (await upload_status(other, learner)).received == sum(sent)

    play(story)


def forged(learner: Learner, prefix: bytes, key: bytes = KEY) -> bytes:
    cipher = Cipher(key, "flockstep cache")
    return cipher.seal(f"{place_of(learner)}:0", b"p" * 16 + prefix)


@pytest.mark.parametrize("harm", ["forged", "garbage", "another update's", "long"])
def test_what_is_no_beginning_of_the_update_is_a_miss_or_is_told_at_its_end(harm: str, url: str) -> None:
    from redis import Redis

    async def story(parent: Parent, first: LeaderStub, second: LeaderStub) -> None:
        learner, other = Learner(1, parent), Learner(2, parent)
        await cut(learner if harm != "another update's" else other, first)
        await until_shared(learner if harm != "another update's" else other, url)
        with Redis.from_url(url) as client:
            if harm == "forged":
                client.set(f"{place_of(learner)}:0", forged(learner, b"\x0a\x01x", b"x" * 32))
            elif harm == "garbage":  # by who has the key: another release
                client.set(f"{place_of(learner)}:0", forged(learner, b"no frame"))
            elif harm == "long":
                client.set(f"{place_of(learner)}:0", b"x" * (8 << 20))
            else:
                for number in range(2):
                    client.copy(f"{place_of(other)}:{number}", f"{place_of(learner)}:{number}")
        assert (await upload_status(second, learner)).received == 0
        await learner.send(second)
        assert parent.receipts[-1].size == learner.held.said.total_bytes
        assert await parent.gather() == frozenset()
        assert parent.sum.finish().mean.tobytes() == mean_of(parent, learner)

    at_two_edges(story, url)


def test_a_model_that_is_in_redis_is_not_asked_of_the_parent(url: str) -> None:
    async def story(parent: Parent, first: LeaderStub, second: LeaderStub) -> None:
        learner = Learner(1, parent)
        assert await model(first, learner) == MODEL
        assert parent.models == [(VERSION, None)]
        cache = open_cache("--redis-url", url, KEY)
        await cache.put(model_key("run", VERSION), frames(b"", MODEL, 1 << 20), 60)
        await cache.put(model_key("run", VERSION, 5), frames(b"", MODEL[:99], 1 << 20), 60)
        await cache.close()
        assert await model(second, learner) == MODEL
        assert await model(second, learner, have=4) == MODEL
        assert await model(second, learner, have=5) == MODEL[:99]
        assert parent.models == [(VERSION, None)]

    at_two_edges(story, url)


def test_a_prefix_with_other_bytes_than_the_update_is_told_by_its_checksum(url: str) -> None:
    """By an edge that lies: it has the key."""

    async def story(parent: Parent, first: LeaderStub, second: LeaderStub) -> None:
        learner = Learner(1, parent)
        data = learner.held.file.header + bytes(learner.held.file.body.data)
        prefix = data[: len(data) // 2 - 1] + bytes([data[len(data) // 2 - 1] ^ 1])
        cache = open_cache("--redis-url", url, KEY)
        await cache.put(place_of(learner), [frame(prefix)], 60)
        await cache.close()
        received = (await upload_status(second, learner)).received
        assert received == len(prefix)
        with pytest.raises(ChecksumError), failures_told():
            await second.accumulate(learner.held.messages(b"", CHUNK, received, learner.sealed))
        await learner.send(second)
        assert await parent.gather() == frozenset()
        assert parent.sum.finish().mean.tobytes() == mean_of(parent, learner)

    at_two_edges(story, url)


def test_more_than_an_update_may_have_is_not_looked_for(url: str) -> None:
    async def story(parent: Parent, first: LeaderStub, second: LeaderStub) -> None:
        learner = Learner(1, parent)
        for total in (0, 1 << 62):
            asked = leader_pb2.UploadRequest(
                ticket=learner.sealed, work_id=learner.ticket.work_id, total_bytes=total
            )
            assert (await first.get_upload(asked)).received == 0

    at_two_edges(story, url)
