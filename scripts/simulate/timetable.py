"""The timetable: when which work is done in virtual time, kept for a simulation that is resumed."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from leader.events import Event, StepApplied
from scripts.simulate.agenda import Agenda, Due
from scripts.simulate.clock import VirtualClock
from utils.errors import CheckpointError
from utils.files import write_atomically


class _Then(BaseModel):
    """Where the simulation was when a round's step was made."""

    model_config = ConfigDict(extra="forbid")

    now: FiniteFloat
    due: Due
    free: dict[str, FiniteFloat]


class Timetable:
    """Event subscriber that writes `path` before each checkpoint, for the newest `keep` rounds."""

    def __init__(self, path: Path, clock: VirtualClock, agenda: Agenda, keep: int) -> None:
        self._path = path
        self._clock = clock
        self._agenda = agenda
        self._keep = keep
        self._rounds: dict[int, str] = {}  # as JSON

    def resume(self, round_: int) -> None:
        """Go on as after `round_`, if that is known; raises CheckpointError for a damaged file."""
        try:
            told = json.loads(self._path.read_bytes()) if self._path.exists() else {}
            self._rounds = {int(number): text for number, text in told.items() if int(number) <= round_}
            if round_ in self._rounds:
                then = _Then.model_validate_json(self._rounds[round_])
                self._clock.advance(then.now)
                self._agenda.resume(then.due, then.free)
        except (ValueError, AttributeError, ValidationError) as error:
            raise CheckpointError(
                f"{self._path} is damaged; remove it, and the simulation goes on in another order"
            ) from error

    def on_event(self, event: Event) -> None:
        """Take in that a step was made."""
        if isinstance(event, StepApplied):
            now = self._clock.now()
            then = _Then(now=now, due=self._agenda.due, free=self._agenda.busy(now))
            self._rounds[event.round] = then.model_dump_json()
            self._rounds = dict(sorted(self._rounds.items())[-self._keep :])
            write_atomically(self._path, [json.dumps(self._rounds).encode()])
