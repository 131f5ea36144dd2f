"""buffers.jsonl: which work was given out and counted in which buffer of an asynchronous run, in its order.

A line is written when it happens, and is on disk before the checkpoint of its round. What a killed leader had
counted is thus known to the next one, which counts it again first.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leader.rounds.script import Happened, What
from utils.errors import CheckpointError
from utils.files import remedy

_log = logging.getLogger(__name__)


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    round: Annotated[int, Field(ge=1, lt=1 << 63)]
    what: What
    part: str = ""
    turn: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    group: Annotated[int, Field(ge=0, lt=1 << 63)] = 0


class BufferLog:
    """The log of a run whose last committed round is `after`; in memory alone, and of no use, without a path.

    What is behind a line that is cut off or damaged is not known. Raises CheckpointError where it can't be
    read or written.
    """

    def __init__(self, path: Path | None, after: int) -> None:
        self._path = path
        self._scripts: dict[int, list[Happened]] = {}
        self._followed = 0  # the round whose script is followed
        if path is not None and path.exists():
            try:
                self._read(path, after)
            except OSError as error:
                raise _failed(path, error) from error

    def _read(self, path: Path, after: int) -> None:
        sound = 0
        with path.open("rb") as file:
            for text in file:
                if not text.endswith(b"\n"):
                    break
                try:
                    line = _Line.model_validate_json(text)
                except ValidationError:
                    _log.warning("%s is damaged after %d bytes; what comes behind is not used", path, sound)
                    break
                sound += len(text)
                if line.what == "begun":
                    self._scripts = {
                        number: told for number, told in self._scripts.items() if number < line.round
                    }
                if line.round > after:
                    told = self._scripts.setdefault(line.round, [])
                    if line.what != "begun":
                        told.append(Happened(line.what, line.part, line.turn, line.group))
        os.truncate(path, sound)

    def script(self, round_: int) -> list[Happened] | None:
        """What was told of a round before this process began, once; None if it was not begun."""
        told = self._scripts.pop(round_, None)
        self._followed = round_ if told else 0
        return told

    def note(self, round_: int, happened: Happened) -> None:
        """Write what happened in a round."""
        if happened.what == "begun" and self._followed:
            _log.warning(
                "round %d can't be filled as before the restart, for somebody's work is missing: it goes on in "
                "another order",
                round_,
            )
            self._followed = 0
        if happened.what == "begun":
            self._scripts.clear()  # they came after what is told anew
        if self._path is not None:
            line = _Line(round=round_, **asdict(happened))
            try:
                with self._path.open("ab") as file:
                    file.write(line.model_dump_json(exclude_defaults=True).encode() + b"\n")
            except OSError as error:
                raise _failed(self._path, error) from error

    def sync(self) -> None:
        """Have all that was written on disk when this returns."""
        if self._path is None:
            return
        try:
            with suppress(FileNotFoundError), self._path.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise _failed(self._path, error) from error


def _failed(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"can't write {path}: {error.strerror}; {remedy(error)}, then resume the run")
