"""Redis servers of loopback, and a cache in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import Popen

from leader.condition import Signal
from tests.tools.needs import need_commands
from tests.tools.servers import TIMEOUT_S, serving


@contextmanager
def redis_server(address: str, folder: Path, flags: Sequence[str] = ()) -> Iterator[Popen[bytes]]:
    """A server at an address of loopback that keeps all in memory; `flags` come last."""
    need_commands("redis-server", install=".ci/services")
    host, _, port = address.rpartition(":")
    told = ["--bind", host, "--port", port, "--save", "", "--maxmemory", "64mb", *flags]
    with serving(["redis-server", *told], int(port), folder) as process:
        yield process


def in_redis(url: str) -> dict[str, tuple[int, bytes]]:
    """Each key's milliseconds to live (-1: for ever) and value."""
    from redis import Redis

    with closing(Redis.from_url(url)) as client:
        return {
            key.decode(): (client.pttl(key), client.execute_command("GET", key)) for key in client.scan_iter()
        }


class MemoryCache:
    """Cache in this process, without an end of anything."""

    def __init__(self) -> None:
        self.lists: dict[str, list[bytes]] = {}
        self._changed = Signal()

    async def has(self, key: str) -> None:
        """Wait until there is a list."""
        assert await self._changed.wait_until(lambda: key in self.lists, TIMEOUT_S)

    async def get(self, key: str, most_bytes: int) -> list[bytes] | None:
        """See Cache."""
        chunks = self.lists.get(key)
        return chunks if chunks is not None and sum(map(len, chunks)) <= most_bytes else None

    async def put(self, key: str, chunks: Iterable[bytes], ttl_s: float) -> None:
        """See Cache."""
        self.lists[key] = list(chunks)
        self._changed.notify()

    async def close(self) -> None:
        """See Cache."""
