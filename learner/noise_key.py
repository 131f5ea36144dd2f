"""The key that a learner's noise comes from: it ratchets with the rounds of a run, so that no earlier key is kept."""

from __future__ import annotations

import hmac
import json
import secrets
from pathlib import Path

from utils.errors import ConfigError
from utils.files import replace_file

KEY_BYTES = 32
_MOST_ROUNDS = 100_000  # at once; beyond, a new key


class NoiseKeys:
    """The key of the newest round; where there is a folder, on disk before it is used, so that a restart has it too.

    Raises ConfigError for a file that can't be read.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "noise-key.json" if folder else None
        self._run, self._round, self._key = "", 0, b""
        if self._path is not None and self._path.exists():
            self._run, self._round, self._key = _read(self._path)

    def of(self, run: str, round_: int) -> bytes:
        """The key of this round, another one where it was let go of; raises ConfigError if it can't be written down."""
        if (run, round_) == (self._run, self._round):
            return self._key
        ahead = round_ - self._round
        key = self._key if run == self._run and 0 < ahead <= _MOST_ROUNDS else b""
        for _ in range(ahead if key else 0):
            key = hmac.digest(key, b"flockstep dp 1 next", "sha256")
        key = key or secrets.token_bytes(KEY_BYTES)
        self._write(run, round_, key)
        self._run, self._round, self._key = run, round_, key
        return key

    def _write(self, run: str, round_: int, key: bytes) -> None:
        if self._path is None:
            return
        said = json.dumps({"run": run, "round": round_, "key": key.hex()})
        try:
            replace_file(self._path, said.encode(), mode=0o600)
        except OSError as error:
            raise ConfigError(f"can't write {self._path}: {error.strerror}; free the disk") from None


def _read(path: Path) -> tuple[str, int, bytes]:
    try:
        said = json.loads(path.read_bytes())
        run, round_, key = str(said["run"]), int(said["round"]), bytes.fromhex(said["key"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path} is no noise key ({error}); move it away") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path} is no noise key; move it away")
    return run, round_, key
