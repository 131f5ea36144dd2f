"""Caches of edges: one contract for both, and what a real Redis does to ours, by mistake or on purpose."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leader.distributed.cipher import Cipher
from leader.global_model.versions import VersionStore
from leader.services import redis as module
from leader.services.cache import Cache, NoCache, model_key, open_cache, share_models
from leader.services.redis import RedisCache
from tests.leader.edge.parents import LAYOUT
from tests.leader.trust.corporate import Corporation
from tests.tools.needs import needs
from tests.tools.ports import closed_address
from tests.tools.redis import MemoryCache, in_redis, redis_server
from utils.codecs.files import File
from utils.errors import ConfigError

pytestmark = needs("redis")
KEY = b"k" * 32
PIECES = [b"a" * 1000, b"b", b"c" * (2 << 20)]
MOST = sum(map(len, PIECES))
PASSWORD = "hunter2"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that answers is not away, nor is a put that goes on over, however busy the machine is."""
    for name in ("_TIMEOUT_S", "_NEXT_S"):
        monkeypatch.setattr(module, name, 30.0)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where a Redis is."""
    place = closed_address()
    with redis_server(place, tmp_path):
        yield place


@asynccontextmanager
async def opened(url: str, key: bytes = KEY) -> AsyncIterator[Cache]:
    cache = open_cache("--redis-url", url, key)
    try:
        yield cache
    finally:
        await cache.close()


def play(story: Callable[[Cache], Awaitable[None]], url: str) -> None:
    async def whole() -> None:
        async with asyncio.timeout(60), opened(url) as cache:
            await story(cache)

    asyncio.run(whole())


# --- the contract ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_lists_come_back_whole_or_not_at_all(kind: str, tmp_path: Path) -> None:
    async def story(cache: Cache) -> None:
        assert await cache.get("a", MOST) is None
        await cache.put("a", PIECES, 60)
        await cache.put("a:1", [], 60)
        assert await cache.get("a", MOST) == PIECES
        assert await cache.get("a", MOST - 1) is None
        assert await cache.get("a:1", 0) == []
        await cache.put("a", iter(PIECES[:1]), 60)
        assert await cache.get("a", MOST) == PIECES[:1]

    if kind == "memory":
        asyncio.run(story(MemoryCache()))
        return
    place = closed_address()
    with redis_server(place, tmp_path):
        play(story, f"redis://{place}")


def test_without_a_url_nothing_is_kept() -> None:
    async def story() -> None:
        cache = open_cache("services.redis.url", "", KEY)
        assert isinstance(cache, NoCache)
        await cache.put("a", PIECES, 60)
        assert await cache.get("a", MOST) is None

    asyncio.run(story())


# --- what stands in Redis ----------------------------------------------------------------------


def test_every_key_ends_and_shows_nothing(address: str) -> None:
    async def story(cache: Cache) -> None:
        await cache.put("flockstep:run:model:7", PIECES, 60.5)

    play(story, f"redis://{address}")
    found = in_redis(f"redis://{address}")
    assert set(found) == {f"flockstep:run:model:7:{number}" for number in range(4)}
    assert all(0 < ttl_ms <= 60_500 for ttl_ms, _ in found.values())
    assert all(b"aaaa" not in value and b"cccc" not in value for _, value in found.values())


def damage(client: Any) -> None:
    client.setrange("a:1", 20, b"\xff\x00")


def forge(client: Any) -> None:
    client.set("a:0", Cipher(b"x" * 32, "flockstep cache").seal("a:0", b"p" * 16 + b"evil"), keepttl=True)


def move(client: Any) -> None:
    client.copy("a:2", "a:1", replace=True)


def lose(client: Any) -> None:
    client.delete("a:2")


def cut(client: Any) -> None:
    client.delete("a:3")


def flood(client: Any) -> None:
    client.set("a:0", b"x" * (20 << 20))


def retype(client: Any) -> None:
    client.delete("a:0")
    client.lpush("a:0", "x")


@pytest.mark.parametrize(
    ("harm", "next_s"),
    [*((harm, 3600.0) for harm in (damage, forge, move, flood)), (lose, 0.0), (cut, 0.0)],
)
def test_what_was_changed_in_redis_is_a_miss_and_awaited_only_where_nothing_is(
    harm: Callable[[Any], None],
    next_s: float,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from redis import Redis

    monkeypatch.setattr(module, "_NEXT_S", next_s)

    async def story(cache: Cache) -> None:
        await cache.put("a", PIECES, 60)
        with Redis.from_url(f"redis://{address}") as client:
            harm(client)
        assert await cache.get("a", MOST) is None
        await cache.put("a", PIECES, 60)
        assert await cache.get("a", MOST) == PIECES

    play(story, f"redis://{address}")
    assert caplog.messages == []


def test_a_key_of_another_type_is_a_miss_and_said(address: str, caplog: pytest.LogCaptureFixture) -> None:
    from redis import Redis

    async def story(cache: Cache) -> None:
        await cache.put("a", PIECES, 60)
        with Redis.from_url(f"redis://{address}") as client:
            retype(client)
        assert await cache.get("a", MOST) is None

    play(story, f"redis://{address}")
    assert len(caplog.messages) == 1
    assert "Redis is away (ResponseError: WRONGTYPE" in caplog.text


def test_another_runs_lists_are_none_of_ours(address: str) -> None:
    async def story(cache: Cache) -> None:
        await cache.put("a", PIECES, 60)
        async with opened(f"redis://{address}", b"l" * 32) as other:
            assert await other.get("a", MOST) is None

    play(story, f"redis://{address}")


def test_a_list_that_is_being_put_is_awaited(address: str) -> None:
    async def story(cache: Cache) -> None:
        gate, begun = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def pieces() -> Iterator[bytes]:
            yield PIECES[0]
            begun.set()
            yield PIECES[1]

        ask = RedisCache._ask

        async def slow(self: RedisCache, *command: str | bytes | int) -> bytes | bool | None:
            if command[:2] == ("SET", "a:1"):
                await gate.wait()
            if command[:2] == ("GETRANGE", "a:1"):
                loop.call_soon(gate.set)
            return await ask(self, *command)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RedisCache, "_ask", slow)
            putting = asyncio.ensure_future(cache.put("a", pieces(), 60))
            await begun.wait()
            assert await cache.get("a", MOST) == PIECES[:2]
            await putting

    play(story, f"redis://{address}")


# --- Redis that is away, or lets nobody in -----------------------------------------------------


def test_away_and_back_are_a_line_each_and_nothing_is_asked_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place, now = closed_address(), [0.0]

    async def story() -> None:
        cache = RedisCache(f"redis://{place}", KEY, clock=lambda: now[0])
        await asyncio.gather(*(cache.get("a", MOST) for _ in range(5)))
        await cache.put("a", PIECES, 60)
        with redis_server(place, tmp_path):
            await cache.put("a", PIECES, 60)
            assert await cache.get("a", MOST) is None
            now[0] = 1.0
            await cache.put("a", PIECES, 60)
            assert await cache.get("a", MOST) == PIECES
        assert await cache.get("a", MOST) is None
        now[0] = 2.0
        assert await cache.get("a", MOST) is None
        await cache.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(story())
    away = "models come from the leader, broken uploads begin anew"
    assert [message[:15] for message in caplog.messages] == [
        "Redis is away (",
        "Redis is back",
        "Redis is away (",
    ]
    assert all(away in message for message in (caplog.messages[0], caplog.messages[2]))
    assert "ConnectionError" in caplog.messages[0]


def test_a_redis_that_is_frozen_is_given_up_after_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = closed_address()

    async def story(cache: Cache) -> None:
        await cache.put("a", PIECES, 60)
        monkeypatch.setattr(module, "_TIMEOUT_S", 0.1)
        server.send_signal(signal.SIGSTOP)
        assert [await cache.get("a", MOST) for _ in range(3)] == [None] * 3
        await cache.put("a", PIECES, 60)

    with redis_server(place, tmp_path) as server:
        play(story, f"redis://{place}")
    assert len(caplog.messages) == 1
    assert "Redis is away (TimeoutError" in caplog.text


@pytest.mark.filterwarnings(  # of a connection that is refused redis-py closes its end, and doesn't wait for that
    "ignore:Exception ignored in. <(socket|function _SelectorTransport):pytest.PytestUnraisableExceptionWarning"
)
def test_tls_a_certificate_and_a_user_let_ours_in_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own, others = Corporation("Own CA"), Corporation("Other CA")
    for folder, authority in (("own", own), ("others", others)):
        authority.write(tmp_path / folder, "redis", dns=("localhost",))
        authority.write(tmp_path / folder, "edge")
    acl = tmp_path / "users.acl"
    acl.write_text(
        f"user default off\nuser edge on >{PASSWORD} ~flockstep:* resetchannels -@all +get +getrange +set\n"
    )
    files = {"cert-file": "redis.pem", "key-file": "redis.key", "ca-cert-file": "ca.pem"}
    flags = [word for name, file in files.items() for word in (f"--tls-{name}", str(tmp_path / "own" / file))]
    address = closed_address()
    port = address.rpartition(":")[2]
    flags += ["--port", "0", "--tls-port", port, "--tls-auth-clients", "yes", "--aclfile", str(acl)]
    monkeypatch.setenv("PW", PASSWORD)
    monkeypatch.setenv("WRONG", "letmein")
    ca = f"?ssl_ca_certs={tmp_path}/own/ca.pem"
    shown = "&ssl_certfile={0}/edge.pem&ssl_keyfile={0}/edge.key"
    place = f"localhost:{port}/0{ca}"
    ours = shown.format(tmp_path / "own")

    def why(url: str, key: str = "flockstep:run:model:7") -> str:
        caplog.clear()

        async def story(cache: Cache) -> None:
            await cache.put(key, PIECES, 60)
            assert (await cache.get(key, MOST) == PIECES) == (not caplog.messages)

        play(story, url)
        gc.collect()  # what was refused goes in this test
        assert PASSWORD not in caplog.text
        assert len(caplog.messages) <= 1
        return caplog.text

    with redis_server(address, tmp_path, flags):
        assert why(f"rediss://edge:${{PW}}@{place}{ours}") == ""
        assert "NoPermissionError" in why(f"rediss://edge:${{PW}}@{place}{ours}", "other:model")
        assert "invalid username-password pair" in why(f"rediss://edge:${{WRONG}}@{place}{ours}")
        assert "Authentication required" in why(f"rediss://{place}{ours}")
        assert "ConnectionError" in why(f"rediss://edge:${{PW}}@{place}")  # shows no certificate
        assert "ConnectionError" in why(f"rediss://edge:${{PW}}@{place}{shown.format(tmp_path / 'others')}")
        other_ca = f"localhost:{port}/0?ssl_ca_certs={tmp_path}/others/ca.pem"
        assert "CERTIFICATE_VERIFY_FAILED" in why(f"rediss://edge:${{PW}}@{other_ca}{ours}")
        assert "ConnectionError" in why(f"redis://edge:${{PW}}@localhost:{port}")


def test_a_url_that_cant_be_used_and_a_missing_package_are_said_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="the URL of Redis can't be used"):
        open_cache("--redis-url", "redis://127.0.0.1:6379?no_such_option=1", KEY)
    with pytest.raises(ConfigError, match=r"--redis-url: \$\{NO_PW\} is not set in the environment"):
        open_cache("--redis-url", "redis://ann:${NO_PW}@127.0.0.1", KEY)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigError, match=r"pip install 'flockstep\[redis\]'"):
        open_cache("--redis-url", "redis://127.0.0.1:6379", KEY)


# --- models ------------------------------------------------------------------------------------


def test_versions_are_put_once_each_with_the_change_that_makes_them() -> None:
    cache, store = MemoryCache(), VersionStore(LAYOUT, 1024)
    vector = np.arange(LAYOUT.total, dtype=np.float32)
    change = File(b"h" * 64, np.ones(64, np.uint8))

    async def story() -> None:
        sharing = asyncio.ensure_future(share_models(cache, "run", store, 60))
        for version in (store.encode(1, vector), store.encode(2, vector + 1, change=(1, change))):
            store.publish(version)
            await cache.has(model_key("run", version.number))
            assert cache.lists[model_key("run", version.number)] == list(version.messages)
        sharing.cancel()
        await asyncio.wait((sharing,))

    asyncio.run(story())
    assert set(cache.lists) == {
        "flockstep:run:model:1",
        "flockstep:run:model:2",
        "flockstep:run:model:2:from:1",
    }
    assert b"".join(cache.lists["flockstep:run:model:2:from:1"]).endswith(b"\x01" * 64)
