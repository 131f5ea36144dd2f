"""What waits to go down one ExchangeGradients stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from utils.errors import StalledError

_MOST_ANSWERS = 1000  # short messages in a queue


class GradientLink:
    """A queue of messages for one stream; those who fill it share what they put in, and don't wait.

    What it holds is bounded: a stream gets the weights of an exchange only once it has read those of the
    last one it got, and one that has not read them when another exchange is over is ended.
    """

    def __init__(self) -> None:
        self._outbox: asyncio.Queue[tuple[bytes, ...] | None] = asyncio.Queue()
        self._weights = 0  # slices of weights in the queue, and in the hands of who sends
        self._late = False
        self._failed: StalledError | None = None

    def weights(self, messages: tuple[bytes, ...]) -> None:
        """Queue a slice of new weights."""
        self._weights += 1
        self._outbox.put_nowait(messages)

    def tell(self, message: bytes) -> None:
        """Queue a short message; a learner that has others sent to it, and reads none, is let go."""
        if self._outbox.qsize() - self._weights < _MOST_ANSWERS:
            self._outbox.put_nowait((message,))
        else:
            self._fail("messages were not read; open a new stream")

    def end(self) -> None:
        """Close the stream after what is queued."""
        self._outbox.put_nowait(None)

    def check_read(self) -> None:
        """Before it gets an exchange's weights; raises StalledError if others are still in the queue."""
        self._late = False
        if self._weights:
            raise StalledError("an update came, but the weights before it were not read; open a new stream")

    def tick(self) -> None:
        """An exchange is over."""
        if self._weights and self._late:
            self._fail("new weights were not read for a whole exchange; open a new stream")
        self._late = self._weights > 0

    def _fail(self, why: str) -> None:
        self._failed = StalledError(why)
        while not self._outbox.empty():
            self._outbox.get_nowait()
        self.end()

    async def messages(self) -> AsyncIterator[bytes]:
        """What to send, until the end; raises StalledError for a stream that was let go."""
        while (messages := await self._outbox.get()) is not None:
            for message in messages:
                if self._failed is not None:
                    break
                yield message
            self._weights -= len(messages) > 1
        if self._failed is not None:
            raise self._failed


class GradientLinks:
    """The open streams, one a learner: a new one takes the place of one that may have broken unnoticed."""

    def __init__(self) -> None:
        self._links: dict[int, GradientLink] = {}

    def open(self, learner_id: int) -> GradientLink:
        """A link for a learner's new stream."""
        if learner_id in self._links:
            self._links[learner_id].end()
        link = self._links[learner_id] = GradientLink()
        return link

    def close(self, learner_id: int, link: GradientLink) -> None:
        """The stream has ended."""
        if self._links.get(learner_id) is link:
            del self._links[learner_id]

    def tick(self) -> None:
        """An exchange is over."""
        for link in self._links.values():
            link.tick()

    def end(self) -> None:
        """The run is over: close all streams after what is queued."""
        for link in self._links.values():
            link.end()
