"""The vow: an update is revealed in one set of survivors, ever, whatever the leader forgets or asks for."""

from __future__ import annotations

import json
from pathlib import Path

from utils.errors import ConfigError
from utils.files import replace_file
from utils.secagg.roster import MOST_ATTEMPTS

_ROUNDS = 1000  # that are remembered
_MALFORMED = "is no file of vows; move it away, and take part in a new run"


class Vows:
    """What was revealed, by round and work; on disk before the answer goes out, where there is a folder."""

    def __init__(self, folder: Path | None) -> None:
        """Raises ConfigError for a file that can't be read."""
        self._path = folder / "vows.json" if folder else None
        self._made: dict[str, dict[str, str]] = {}  # digest of the survivors, by work id, by run and round
        if self._path is not None and self._path.exists():
            self._made = _read(self._path)

    def allow(self, run: str, round_: int, work_id: str, survivors: bytes, turn: int = 0) -> bool:
        """Whether this update may be revealed with these survivors: the first set, and the same again.

        In a round of an asynchronous run each `turn` is other work. Raises ConfigError where that can't be written
        down.
        """
        place = f"{run}/{round_}-{turn}" if turn else f"{run}/{round_}"
        known = self._made.get(place, {})
        if work_id in known:
            return known[work_id] == survivors.hex()
        if len(known) >= MOST_ATTEMPTS:
            return False
        self._made[place] = {**known, work_id: survivors.hex()}
        while len(self._made) > _ROUNDS:
            del self._made[next(iter(self._made))]
        self._write()
        return True

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            replace_file(self._path, json.dumps(self._made).encode(), mode=0o600)
        except OSError as error:
            raise ConfigError(f"can't write {self._path}: {error.strerror}; free the disk") from None


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        made = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} {_MALFORMED} ({error})") from None
    if not isinstance(made, dict) or not all(isinstance(one, dict) for one in made.values()):
        raise ConfigError(f"{path} {_MALFORMED}")
    return made
