"""Downloads: framed messages to one caller, under the limits of the run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

from leader.config import LimitsConfig
from leader.places import Places
from leader.training.round_metrics import Traffic
from utils.wire.contract import Context

_COMPLAINT = "the download made no progress; fetch it again"


class Downloads:
    """Sends streams of messages, only so many at once."""

    def __init__(
        self, limits: LimitsConfig, traffic: Traffic, at_chunk: Callable[[], None] = lambda: None
    ) -> None:
        """`at_chunk` is called after each message."""
        self._places = Places(limits.transfers, limits.slow_bytes_per_s, limits.transfers)
        self._stall_s = limits.stall_s
        self._traffic = traffic
        self._at_chunk = at_chunk

    async def send(
        self, messages: AsyncIterator[bytes], context: Context, caller: str, *, ranked: bool
    ) -> None:
        """Stream framed messages; who takes none for limits.stall_s is let go: raises StalledError or BusyError."""
        async with (
            self._places.hold(caller, 1, ranked=ranked) as place,
            place.moving(self._stall_s, _COMPLAINT),
        ):
            await begin_answer(context)
            async for message in messages:
                await context.write(message)
                place.moved(len(message))
                self._traffic.sent(len(message))
                self._at_chunk()


async def each(messages: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Messages that are all here."""
    for message in messages:
        yield message


async def begin_answer(context: Context) -> None:
    """Send the headers of an answer by themselves.

    With a first message that is not read they would not count as sent: gRPC would send them again to refuse the call,
    and could not.
    """
    await context.send_initial_metadata(())
