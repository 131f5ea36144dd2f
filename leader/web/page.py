"""The live page: its files, and the state of its runs as JSON and as server-sent events."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from leader.condition import Signal
from leader.events import Event
from leader.web.run_view import RunView

_STATIC = Path(__file__).with_name("static")
_FILES = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css", "/icon.svg": "icon.svg"}
_MOST_VIEWERS = 50
_EVERY_S = 5.0  # a viewer hears at least so often, also of a run in which nothing happens


class Page:
    """The page of one run that goes on, or of several that have ended."""

    def __init__(self, runs: Sequence[RunView]) -> None:
        self._runs = runs
        self._tick = 0
        self._ticked = self._happened = -math.inf
        self._last = False
        self._signal = Signal()
        self._viewers = 0
        self._said: dict[int, bytes] = {}  # what changed since a tick, as it is now

    def on_event(self, event: Event, at: float) -> None:
        """Take in what happened in the run that goes on."""
        self._runs[0].on_event(event, at, self._tick + 1)
        self._happened = at

    def tick(self, *, last: bool) -> None:
        """Have viewers told what is new."""
        now = time.monotonic()
        if not last and self._happened < self._ticked and now - self._ticked < _EVERY_S:
            return
        self._ticked, self._last = now, last
        self._tick += 1
        self._said.clear()
        self._signal.notify()

    def routes(self) -> Sequence[BaseRoute]:
        """The page and its state."""
        files = [Route(path, partial(_file, _STATIC / name)) for path, name in _FILES.items()]
        return [*files, Route("/api/run", self._whole), Route("/api/events", self._events)]

    def _since(self, tick: int) -> bytes:
        if tick not in self._said:
            now = time.monotonic()
            runs = [_finite(run.since(tick, now)) for run in self._runs]
            self._said[tick] = json.dumps({"runs": runs}, allow_nan=False).encode()
        return self._said[tick]

    def _is_past(self, tick: int) -> bool:
        return self._tick > tick

    async def _whole(self, request: Request) -> Response:
        return Response(self._since(0), media_type="application/json")

    async def _events(self, request: Request) -> Response:
        if self._viewers >= _MOST_VIEWERS:
            return PlainTextResponse(f"{_MOST_VIEWERS} viewers are here already\n", 503)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        """All that is known, then what changes; a viewer that reads slowly is told less often, never more."""
        self._viewers += 1
        try:
            name, told = "whole", 0
            while True:
                tick, last = self._tick, self._last
                yield b"retry: 1000\nevent: %s\ndata: %s\n\n" % (name.encode(), self._since(told))
                if last:
                    return
                name, told = "change", tick
                await self._signal.wait_until(partial(self._is_past, tick))
        finally:
            self._viewers -= 1


async def _file(path: Path, request: Request) -> Response:
    return FileResponse(path)


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
