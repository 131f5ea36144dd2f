"""Models at an edge: fetched once, bounded in number, and never half of one for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from leader.edge.models import Models
from utils.errors import LateUpdateError, LimitError, NotReadyError

Asked = tuple[int, int | None]


class Source:
    """A parent whose models come when a test says so."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None

    async def fetch(self, version: int, have: int | None) -> AsyncIterator[bytes]:
        self.asked.append((version, have))
        yield b"begin %d " % version
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        yield b"end"


async def whole(models: Models, version: int, have: int | None = None) -> bytes:
    return b"".join([message async for message in models.stream(version, have)])


def play(story: Callable[[Source, Models], Awaitable[None]], most_bytes: int = 1000) -> None:
    async def run() -> None:
        source = Source()
        async with asyncio.timeout(30):
            await story(source, Models(source.fetch, most_bytes))

    asyncio.run(run())


def test_the_newest_two_versions_are_kept() -> None:
    async def story(source: Source, models: Models) -> None:
        for version in (1, 2, 1, 3, 2, 3, 1):
            assert await whole(models, version) == b"begin %d end" % version
        assert source.asked == [(1, None), (2, None), (3, None), (1, None)]

    play(story)


def test_whoever_makes_up_what_it_has_fills_nothing() -> None:
    async def story(source: Source, models: Models) -> None:
        for have in range(100):
            assert await whole(models, 7, have) == b"begin 7 end"
        assert source.asked == [(7, 0), (7, 1), (7, 2), (7, None)]
        assert len(models._models) == 4

    play(story)


def test_a_failure_reaches_all_that_wait_and_the_next_one_asks_again() -> None:
    async def story(source: Source, models: Models) -> None:
        source.may_end.clear()
        source.error = NotReadyError("gone")
        waiting = [asyncio.ensure_future(whole(models, 1)) for _ in range(3)]
        await asyncio.sleep(0)
        source.may_end.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(error) for error in found] == ["gone"] * 3
        assert (
            len({id(error) for error in found}) == 3
        )  # a call that is refused clears the frames of its error
        source.error = None
        assert await whole(models, 1) == b"begin 1 end"
        assert source.asked == [(1, None)] * 2

    play(story)


def test_a_download_whose_version_makes_room_ends_by_name_and_a_whole_one_goes_on() -> None:
    async def story(source: Source, models: Models) -> None:
        assert await whole(models, 1) == b"begin 1 end"
        slow = models.stream(1, None)
        assert await anext(slow) == b"begin 1 "
        source.may_end.clear()
        cut = models.stream(2, None)
        assert await anext(cut) == b"begin 2 "
        others = [asyncio.ensure_future(whole(models, version)) for version in (3, 4)]
        with pytest.raises(LateUpdateError, match="was replaced during the download"):
            await anext(cut)
        assert [message async for message in slow] == [b"end"]
        source.may_end.set()
        assert await asyncio.gather(*others) == [b"begin 3 end", b"begin 4 end"]

    play(story)


def test_a_parent_that_sends_too_much_is_not_listened_to() -> None:
    async def story(source: Source, models: Models) -> None:
        with pytest.raises(LimitError, match="more than 9 bytes of a model"):
            await whole(models, 1)

    play(story, most_bytes=9)
