"""What the edges of a run share beside what each has in memory: model versions, and uploads that broke."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from leader.config.sections.operation.services import filled
from leader.global_model.versions import VersionStore


class Cache(Protocol):
    """Lists of chunks by key, each for its time. Nothing is raised: a failure is a miss."""

    async def get(self, key: str, most_bytes: int) -> list[bytes] | None:
        """The whole list, also where it is still being put; None where it is not there or has more bytes than that."""
        ...

    async def put(self, key: str, chunks: Iterable[bytes], ttl_s: float) -> None:
        """Keep a list in place of what has its key; no chunk is empty, or of more than 2 MiB."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class NoCache:
    """Cache: the memory of each edge is all there is."""

    async def get(self, key: str, most_bytes: int) -> list[bytes] | None:
        """See Cache."""
        return None

    async def put(self, key: str, chunks: Iterable[bytes], ttl_s: float) -> None:
        """See Cache."""

    async def close(self) -> None:
        """See Cache."""


def open_cache(setting: str, url: str, key: bytes) -> Cache:
    """The cache at the URL that `setting` holds, under the run's `key`; raises ConfigError for none that there is."""
    if not url:
        return NoCache()
    from leader.services.redis import RedisCache  # here, so that no run without it needs its package

    return RedisCache(filled(setting, url), key)


def model_key(run_id: str, version: int, have: int | None = None) -> str:
    """Where a model version is, or what makes it of the version `have`."""
    return f"flockstep:{run_id}:model:{version}" + ("" if have is None else f":from:{have}")


async def share_models(cache: Cache, run_id: str, versions: VersionStore, ttl_s: float) -> None:
    """Put each version that is served from now on, once; those that come too fast are passed over."""
    shared: int | None = None

    def is_new() -> bool:
        return versions.number not in (None, shared)

    while await versions.changed.wait_until(is_new):
        version = versions.get(None)
        shared = version.number
        if (change := version.change) is not None:
            await cache.put(model_key(run_id, shared, change.base), change.messages, ttl_s)
        await cache.put(model_key(run_id, shared), version.messages, ttl_s)
