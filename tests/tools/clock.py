"""Time that passes when a test says so."""

from __future__ import annotations

import asyncio


def skip(seconds: float) -> None:
    """Let so much time pass at once for all that waits on this event loop."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[method-assign]
