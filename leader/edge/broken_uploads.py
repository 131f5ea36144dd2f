"""Broken uploads that edges take up from each other: who goes to another edge sends the rest there."""

from __future__ import annotations

import asyncio
import logging

from leader.rpc.uploads import Key, Uploads, key_of
from leader.services.cache import Cache
from protos import leader_pb2
from utils.errors import WireError
from utils.wire.framing import framed_bytes, rechunk, unframe
from utils.wire.payload import PayloadReader

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 20
_TTL_S = 600.0
_WAIT_S = 5.0  # for what is elsewhere; a learner waits for no more than ten


class BrokenUploads:
    """What broken streams leave at an edge goes into a cache, one after the other, and comes out of it at another."""

    def __init__(self, uploads: Uploads, cache: Cache, run_id: str) -> None:
        self._uploads = uploads
        self._cache = cache
        self._run_id = run_id
        self._sharing: set[asyncio.Task[None]] = set()
        # One copy of an update at a time is beyond the budget of uploads, each way.
        self._one_out, self._one_in = asyncio.Lock(), asyncio.Lock()
        uploads.left = self._left

    def _left(self, key: Key, reader: PayloadReader) -> None:
        task = asyncio.ensure_future(self._share(key, reader))
        self._sharing.add(task)
        task.add_done_callback(self._sharing.discard)

    async def _share(self, key: Key, reader: PayloadReader) -> None:
        async with self._one_out:
            if self._uploads.holds(key, reader):
                await self._cache.put(self._key(key), rechunk(reader.taken, _CHUNK_BYTES), _TTL_S)

    async def received(self, caller: str, request: leader_pb2.UploadRequest) -> int:
        """Bytes that an earlier, broken stream of this update left, here or at another edge."""
        if not self._uploads.received(request) and request.total_bytes <= self._uploads.max_bytes:
            try:
                async with asyncio.timeout(_WAIT_S), self._one_in:
                    await self._fetch(caller, request)
            except (TimeoutError, WireError) as error:
                _log.debug("what is elsewhere of work %s is of no use: %s", request.work_id, error)
        return self._uploads.received(request)

    async def _fetch(self, caller: str, request: leader_pb2.UploadRequest) -> None:
        most = framed_bytes(request.total_bytes, _CHUNK_BYTES)
        messages = await self._cache.get(self._key(key_of(request)), most)
        if messages is not None:
            await self._uploads.restore(caller, request, filter(None, map(unframe, messages)))

    def _key(self, key: Key) -> str:
        work_id, total_bytes, crc32 = key
        return f"flockstep:{self._run_id}:upload:{work_id}:{total_bytes}:{crc32}"

    async def close(self) -> None:
        """Wait for a while until what is here is where other edges find it."""
        if self._sharing:
            await asyncio.wait(self._sharing, timeout=_WAIT_S)
        for task in self._sharing:
            task.cancel()
