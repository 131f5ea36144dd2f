"""The ledger of a run's privacy, privacy.jsonl: what is charged is on disk before anything of it is told.

A line is JSON with the SHA-256 of the line before as `prev`. A release is keyed by its round and by what is released:
the same again, after a crash, is charged once; anything else is charged anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leader.dp.accountant import Accountant
from utils.errors import CheckpointError, PrivacyError
from utils.files import sync_folder

ADJACENCY = "zero-out"
_NEXT = "restore the file or start a new run"
_LEAST = 1e-12  # noise multiplier that an entry can have; the most is as far from 1
_SET_DIGITS = 16  # of the hash that names a set of parts


@dataclass(frozen=True)
class Head:
    """The newest of so many entries."""

    entries: int = 0
    digest: str = "0" * 64  # SHA-256 of its line, in hex


@dataclass(frozen=True)
class Release:
    """What is about to be told: a sum of the updates of some parts."""

    round: int
    of: str  # stands for what is released, in hex
    mechanism: str  # who clips and adds noise, as dp.mode
    multiplier: float  # z: noise over clip
    clip: float
    parts: Sequence[str]
    attempt: int = 0


class Ledger:
    """The entries of one run, each on disk when it counts; `accountant` is told of all of them.

    Raises PrivacyError where entries that a checkpoint knows of, up to `known`, are missing or not as they were.
    """

    def __init__(
        self, path: Path, accountant: Accountant, run: str, sampling: str, known: Head | None = None
    ) -> None:
        self.accountant = accountant
        self.head = Head()
        self._path = path
        self._sets: dict[str, list[str]] = {}  # parts, by name of the set
        self._charged: set[tuple[int, str]] = set()
        #: Releases that `known` does not know of: round and parts of each.
        self.ahead: list[tuple[int, list[str]]] = []
        budget = {"epsilon": accountant.epsilon, "delta": accountant.delta}
        self._opening = {"kind": "open", "run": run, **budget, "adjacency": ADJACENCY, "sampling": sampling}
        self._read(known or Head())
        if not self.head.entries:
            self._append(self._opening)
            sync_folder(path.parent)

    def charge(self, release: Release) -> None:
        """Have the release on disk as paid; one that is there already costs nothing.

        Raises PrivacyError where a part can't pay it, and CheckpointError where it can't be written; then it is
        not charged and must not be made.
        """
        if (release.round, release.of) in self._charged:
            return
        parts, multiplier = sorted(release.parts), release.multiplier
        if broke := [part for part in parts if not self.accountant.can_pay(part, multiplier)]:
            raise PrivacyError(self.refusal(release.round, broke[0], multiplier))
        name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_SET_DIGITS]
        entries: list[Mapping[str, Any]] = []
        if name not in self._sets:
            entries.append({"kind": "parts", "set": name, "parts": parts})
        entries.append(
            {
                "kind": "release",
                "round": release.round,
                "attempt": release.attempt,
                "of": release.of,
                "mechanism": release.mechanism,
                "z": multiplier,
                "clip": release.clip,
                "set": name,
            }
        )
        self._append(*entries)

    def refusal(self, round_: int, part: str, multiplier: float) -> str:
        """Why a round can't be paid, by this part."""
        after, budget = self.accountant.spent_after(part, multiplier), self.accountant.epsilon
        return f"privacy budget: round {round_} would bring {part} to epsilon {after:.2f} of {budget:g}"

    def _append(self, *entries: Mapping[str, Any]) -> None:
        head, lines = self.head, []
        for entry in entries:
            line = json.dumps({**entry, "prev": head.digest}, sort_keys=True, separators=(",", ":")).encode()
            head = Head(head.entries + 1, hashlib.sha256(line).hexdigest())
            lines.append(line + b"\n")
        try:
            before = self._path.stat().st_size if self._path.exists() else 0
            try:
                with self._path.open("ab") as file:
                    file.write(b"".join(lines))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    os.truncate(self._path, before)
                raise
        except OSError as error:
            raise CheckpointError(
                f"can't write {self._path}: {error.strerror}; free the disk or fix the folder, then resume the run"
            ) from error
        self.head = head
        for entry in entries:
            self._take(entry)

    def _take(self, entry: Mapping[str, Any]) -> None:
        match entry["kind"]:
            case "parts":
                if not all(isinstance(part, str) for part in entry["parts"]):
                    raise ValueError("a part is no text")
                self._sets[entry["set"]] = list(entry["parts"])
            case "release":
                if not _LEAST <= entry["z"] <= 1 / _LEAST:
                    raise ValueError("z can't be")
                self._charged.add((entry["round"], entry["of"]))
                self.accountant.charge(self._sets[entry["set"]], entry["z"])

    # --- what an earlier process left ------------------------------------------------------

    def _read(self, known: Head) -> None:
        try:
            content = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise PrivacyError(f"{self._path} can't be read: {error.strerror}; {_NEXT}") from error
        *lines, torn = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            entry = self._read_line(number, line)
            if number > known.entries and entry["kind"] == "release":
                self.ahead.append((entry["round"], self._sets[entry["set"]]))
            if number == known.entries and self.head != known:
                raise PrivacyError(f"{self._path}: entry {number} is not what the checkpoint knows; {_NEXT}")
        if self.head.entries < known.entries:
            raise PrivacyError(
                f"{self._path} has {self.head.entries} entries, the checkpoint knows of {known.entries}; {_NEXT}"
            )
        if torn:  # by a crash; nothing was released of it
            os.truncate(self._path, len(content) - len(torn))

    def _read_line(self, number: int, line: bytes) -> Mapping[str, Any]:
        try:
            entry: Mapping[str, Any] = json.loads(line)
            if entry["prev"] != self.head.digest:
                raise PrivacyError(f"{self._path}: entry {number} does not follow the one before; {_NEXT}")
            if number == 1 and {**self._opening, "prev": entry["prev"]} != entry:
                raise PrivacyError(f"{self._path} is of another run or budget ({line[:200]!r}); {_NEXT}")
            self._take(entry)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PrivacyError(
                f"{self._path}: entry {number} is damaged ({error!r:.200}); {_NEXT}"
            ) from error
        self.head = Head(number, hashlib.sha256(line).hexdigest())
        return entry
