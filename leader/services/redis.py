"""Redis, which keeps what edges share: it can read none of it, and what others have written there is a miss.

Each chunk has a key of its own and its end, so that nothing stays for longer; it is sealed for that key. Chunks begin
with the number of their put, as another one may be under way; an empty one ends the list.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from leader.distributed.cipher import SEAL_BYTES, Cipher
from utils.console import printable
from utils.errors import ConfigError, ForbiddenError

if TYPE_CHECKING:
    from redis.asyncio import Redis

_log = logging.getLogger(__name__)
_PUT_BYTES = 16
_MOST_BYTES = (2 << 20) + _PUT_BYTES + SEAL_BYTES  # of a sealed chunk
_TIMEOUT_S = 2.0  # of a call
_NEXT_S = 2.0  # for which the next chunk of a list may be on its way
_LOOK_S = 0.02  # between looks for it: Redis tells nobody that a key is there
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_AT_ONCE = 8  # lists that are read or written
_REASON = 200  # characters


def open_client(url: str) -> Redis:
    """A client for `url`, which is not called yet; raises ConfigError where there is none, or the URL is none."""
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise ConfigError(f"Redis needs a package: pip install 'flockstep[redis]' ({error})") from error
    try:
        client = Redis.from_url(
            url,
            # Where it times writes itself, Python 3.11 may lose the cancellation of whoever waits for that.
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 1),  # a connection that was idle may have been ended
            protocol=2,
        )
        client.connection_pool.make_connection()  # not connected: options are looked at here alone
    except (TypeError, ValueError) as error:  # its text may quote the URL
        raise ConfigError(
            f"the URL of Redis can't be used ({type(error).__name__}): check it as redis-py's manual has it"
        ) from None
    return client


class RedisCache:
    """Cache: in Redis, under the run's key. Where that is away nothing is asked of it for a while, ever longer."""

    def __init__(self, url: str, key: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = open_client(url)
        self._cipher = Cipher(key, "flockstep cache")
        self._clock = clock
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._pause_s = 0.0  # until the next try; 0 while it is up
        self._again_at = 0.0

    async def get(self, key: str, most_bytes: int) -> list[bytes] | None:
        """See Cache."""
        chunks: list[bytes] = []
        size, put = 0, b""
        async with self._turns:
            while message := await self._message(f"{key}:{len(chunks)}", put):
                put, chunk = message[:_PUT_BYTES], message[_PUT_BYTES:]
                size += len(chunk)
                if not chunk:
                    return chunks
                if size > most_bytes:
                    break
                chunks.append(chunk)
        return None

    async def _message(self, place: str, put: bytes) -> bytes:
        """What a chunk's key holds, for a while awaited if its list has begun with `put`; empty if there is nothing."""
        until = self._clock() + _NEXT_S if put else 0.0
        while True:
            sealed = await self._ask("GETRANGE", place, 0, _MOST_BYTES)
            message = await self._opened(place, sealed) if isinstance(sealed, bytes) else None
            if message is None:
                return b""
            if message.startswith(put) or self._clock() >= until:
                return message if message.startswith(put) else b""
            await asyncio.sleep(_LOOK_S)

    async def _opened(self, place: str, sealed: bytes) -> bytes | None:
        """The message; empty where nothing is yet, None where what is there is nothing of this run."""
        try:
            return await asyncio.to_thread(self._cipher.open, place, sealed) if sealed else b""
        except ForbiddenError as error:
            _log.debug("in Redis: %s", error)
            return None

    async def put(self, key: str, chunks: Iterable[bytes], ttl_s: float) -> None:
        """See Cache."""
        put = os.urandom(_PUT_BYTES)
        async with self._turns:
            for number, chunk in enumerate(chain(chunks, (b"",))):
                place = f"{key}:{number}"
                sealed = await asyncio.to_thread(self._cipher.seal, place, put + chunk)
                if await self._ask("SET", place, sealed, "PX", int(1000 * ttl_s)) is None:
                    break

    async def _ask(self, *command: str | bytes | int) -> bytes | bool | None:
        """What Redis answers; None where it does not."""
        from redis.exceptions import RedisError

        if self._clock() < self._again_at:
            return None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer: bytes | bool = await self._client.execute_command(*command)
        except (RedisError, OSError) as error:
            self._failed(error)
            return None
        if self._pause_s:
            _log.info("Redis is back")
            self._pause_s = 0.0
        return answer

    def _failed(self, error: Exception) -> None:
        if not self._pause_s:
            told = printable(f"{type(error).__name__}: {error}"[:_REASON])
            _log.warning("Redis is away (%s): models come from the leader, broken uploads begin anew", told)
        if self._clock() >= self._again_at:  # else others have failed with it
            self._pause_s = min(max(_FIRST_PAUSE_S, 2 * self._pause_s), _LONGEST_PAUSE_S)
            self._again_at = self._clock() + self._pause_s

    async def close(self) -> None:
        """See Cache."""
        from redis.exceptions import RedisError

        with suppress(RedisError, OSError):  # it is gone either way
            await self._client.aclose()
