"""Runs whose edges share models by Redis: the bits of the run without, also where Redis goes or never was."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from leader.condition import Signal
from leader.events import RoundCommitted
from leader.rpc.service import LeaderService
from leader.services.redis import RedisCache
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.cluster.test_edges import EDGED, FOUR
from tests.clusters import TIMEOUT_S, Settings, join, play, train
from tests.tools.needs import needs
from tests.tools.ports import closed_address
from tests.tools.redis import in_redis, redis_server
from utils.wire.contract import Context

pytestmark = needs("redis")
AWAY = "models come from the leader, broken uploads begin anew"


async def begun(cluster: Cluster, url: str) -> None:
    """Two edges that share, then four learners."""
    for name in ("east", "west"):
        cluster.edge(name, redis_url=url)
    await cluster.until(lambda: len(cluster.app.edges) == 2, "no edges")
    for name in "abcd":
        join(cluster, name)


def with_redis(address: str) -> Settings:
    return {**EDGED, "services.redis.url": f"redis://{address}", "services.redis.ttl_s": 40}


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The versions that edges ask of the leader."""
    asked: list[int] = []
    get_model = LeaderService._get_model

    async def noted(self: LeaderService, request: leader_pb2.Empty, context: Context) -> None:
        asked.append(request.version)
        await get_model(self, request, context)

    monkeypatch.setattr(LeaderService, "_get_model", noted)
    return asked


@pytest.fixture
def put_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks for a model waits until the leader has put it, which may take longer than to ask for it."""
    put, get, there, done = RedisCache.put, RedisCache.get, Signal(), set[str]()

    async def noted(self: RedisCache, key: str, chunks: Iterable[bytes], ttl_s: float) -> None:
        await put(self, key, chunks, ttl_s)
        done.add(key)
        there.notify()

    async def awaited(self: RedisCache, key: str, most_bytes: int) -> list[bytes] | None:
        whole = key.partition(":from:")[0]  # which is put last
        assert await there.wait_until(lambda: ":model:" not in key or whole in done, TIMEOUT_S)
        return await get(self, key, most_bytes)

    monkeypatch.setattr(RedisCache, "put", noted)
    monkeypatch.setattr(RedisCache, "get", awaited)


@pytest.mark.usefixtures("put_first")
@pytest.mark.parametrize("settings", [{}, {"codec.down": "int8"}], ids=str)
def test_edges_have_models_from_redis_and_the_bits_are_those_without(
    settings: Settings, tmp_path: Path, downloads: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    address = closed_address()

    async def scenario(cluster: Cluster) -> None:
        await begun(cluster, f"redis://{address}")
        await cluster.finished()

    with redis_server(address, tmp_path):
        through = play(scenario, {**with_redis(address), **settings})
        found = in_redis(f"redis://{address}")
    assert downloads == []
    run_id = through.app.description.run_id
    assert all(key.startswith(f"flockstep:{run_id}:model:") for key in found)
    assert all(0 < ttl_ms <= 40_000 for ttl_ms, _ in found.values())
    wholes = {key.split(":")[3] for key in found if ":from:" not in key}
    changes = {key.split(":")[3] for key in found if ":from:" in key}
    assert len(wholes) >= 3
    assert len(changes) >= (2 if settings else 0)
    assert bool(changes) == bool(settings)
    assert AWAY not in caplog.text
    assert through.model_sha256 == play(train, {**FOUR, **settings}).model_sha256


def test_redis_may_go_in_a_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = closed_address()

    async def scenario(cluster: Cluster) -> None:
        with redis_server(address, tmp_path) as server:
            await begun(cluster, f"redis://{address}")
            await cluster.committed(1)
            server.kill()
            await asyncio.to_thread(server.wait)
            await cluster.finished()

    with caplog.at_level(logging.INFO):
        through = play(scenario, {**with_redis(address), "rounds": 6})
    assert [event.learners for event in through.seen(RoundCommitted)] == [4] * 6
    # One of the leader, which puts each version, and one of each edge that asked before the end.
    assert 1 <= sum(AWAY in message for message in caplog.messages) <= 3
    assert through.model_sha256 == play(train, {**FOUR, "rounds": 6}).model_sha256


def test_redis_may_be_away_from_the_start(downloads: list[int], caplog: pytest.LogCaptureFixture) -> None:
    address = closed_address()

    async def scenario(cluster: Cluster) -> None:
        await begun(cluster, f"redis://{address}")
        await cluster.finished()

    through = play(scenario, with_redis(address))
    assert len(set(downloads)) == 3
    lines = [message for message in caplog.messages if AWAY in message]
    assert 2 <= len(lines) <= 3
    assert all(line.startswith("Redis is away (ConnectionError: ") for line in lines)
    assert through.model_sha256 == play(train, FOUR).model_sha256
