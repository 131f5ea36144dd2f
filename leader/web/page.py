"""The live page: its state from the run's events, as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from leader.config import RunConfig
from leader.events import Event
from leader.reporting.progress import RunProgress


class Page:
    """The page of one run."""

    def __init__(self, config: RunConfig) -> None:
        self._at = 0.0
        self._progress = RunProgress(config.rounds, lambda: self._at)

    def on_event(self, event: Event, at: float) -> None:
        """Take in what happened."""
        self._at = at
        self._progress.apply(event)

    def tick(self, *, last: bool) -> None:
        """Nothing is sent yet."""

    def routes(self) -> Sequence[BaseRoute]:
        """The run as JSON."""
        return [Route("/api/run", self._run)]

    async def _run(self, request: Request) -> JSONResponse:
        progress = self._progress
        started = progress.started
        return JSONResponse(
            {
                "run": started.run_id if started else "",
                "rounds": progress.rounds,
                "committed": progress.committed,
                "loss": progress.loss,
            }
        )
