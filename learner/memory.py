"""What a learner keeps of a part between exchanges: control variates, local tensors, a codec's residuals.

It belongs to committed rounds: what an update would change is staged, on disk before the update is
sent, until the leader has counted the update and committed its round. Work done twice thus starts
from the same memory, and a learner that dies between the two finds what it staged: work of a later
round tells that the leader has closed the round, and most orders which one's sum the part was last in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from utils.errors import ConfigError
from utils.files import hold, replace_file, sync_folder

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")

Vectors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Staged:
    """What the memory of a part will be once the update of an exchange counts."""

    round: int
    step: int  # exchange within the round
    vectors: Vectors
    told: bool = False  # whether a later order will tell if it counted, and nothing else


class Memory:
    """Named vectors of each part; kept in `folder` too, if there is one.

    Raises ConfigError where the folder can't be used or a file in it is damaged.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._run = ""
        self._kept: dict[str, Vectors] = {}
        self._staged: dict[
            str, list[_Staged]
        ] = {}  # of the newest two exchanges of one round, in their order
        self._counted: set[str] = set()  # parts whose staged update the leader has counted
        self._committed = 0  # last round known to be on disk

    def begin(self, run_id: str) -> None:
        """Memory belongs to one run: another one starts with none, or with its files."""
        if run_id == self._run:
            return
        self._run = run_id
        self._kept.clear()
        self._staged.clear()
        self._counted.clear()
        self._committed = 0

    def of(self, part: str, round_: int, step: int = 0, counted: int | None = None) -> Vectors:
        """The vectors of a part that work of exchange `step` in `round_` starts from; empty at first.

        The leader has closed all earlier rounds, and the round's earlier exchanges. An update of one of them
        that it has not refused was counted, though its answer may be lost; unless the order says which was the
        last round that `counted` one.
        """
        if part not in self._kept:
            self._load(part)
        staged = self._staged.get(part, [])
        if staged and staged[-1].round < round_:
            if counted is not None and staged[-1].round != counted:
                self.refused(part)
                return self._kept[part]
            self._keep(part)
            return self._kept[part]
        before = [one for one in staged if one.round == round_ and one.step < step]
        return before[-1].vectors if before else self._kept[part]

    def stage(
        self,
        part: str,
        round_: int,
        vectors: Vectors,
        step: int = 0,
        *,
        durable: bool = True,
        told: bool = False,
    ) -> None:
        """What the part's memory will be if the update of exchange `step` in `round_` counts.

        Without `durable` it goes to disk only once its round is known to be committed: a round of many
        exchanges is redone from its beginning if this process dies. `told` is for an update that is not known to
        count when it was taken in, such as one in a sum whose masks may stay on; see `of`.
        """
        self._counted.discard(part)
        before = [one for one in self._staged.get(part, []) if one.round == round_ and one.step < step]
        self._staged[part] = [*before[-1:], _Staged(round_, step, vectors, told)]
        path = self._path(part, ".staged")
        if path and durable:
            _write(path, vectors, {"round": str(round_), "step": str(step)})

    def refused(self, part: str) -> None:
        """The leader has closed the round without the staged update of the part."""
        self._counted.discard(part)
        staged = self._staged.pop(part, [])[:-1]
        if staged:
            self._staged[part] = staged
        if path := self._path(part, ".staged"):
            path.unlink(missing_ok=True)

    def counted(self, part: str) -> None:
        """The leader has counted the staged update of the part; the commit may have been heard before."""
        self._counted.add(part)
        self._settle()

    def committed(self, round_: int) -> None:
        """All rounds up to this one are on disk: what counted in them holds."""
        self._committed = max(self._committed, round_)
        self._settle()

    def _settle(self) -> None:
        for part in sorted(self._counted):
            staged = self._staged.get(part)
            if staged and staged[-1].round <= self._committed and not staged[-1].told:
                self._keep(part)

    def _keep(self, part: str) -> None:
        """What is staged is the memory from now on."""
        self._counted.discard(part)
        vectors = self._kept[part] = self._staged.pop(part)[-1].vectors
        staged, kept = self._path(part, ".staged"), self._path(part)
        if staged is None or kept is None:
            return
        try:
            staged.replace(kept)
            sync_folder(kept.parent)
        except FileNotFoundError:
            _write(kept, vectors, {})
        except OSError as error:
            raise ConfigError(f"--state-dir: can't write {kept}: {error.strerror}") from None

    def _path(self, part: str, kind: str = "") -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"run-{_safe(self._run)}" / f"{_safe(part)}{kind}.safetensors"

    def _load(self, part: str) -> None:
        """What an earlier process left of the part."""
        kept, staged = self._path(part), self._path(part, ".staged")
        self._kept[part] = _read(kept)[0] if kept else {}
        if part not in self._staged and staged and staged.exists():
            vectors, metadata = _read(staged)
            round_, step = int(metadata.get("round", "0")), int(metadata.get("step", "0"))
            self._staged[part] = [_Staged(round_, step, vectors)]


@contextmanager
def alone_in(folder: Path | None) -> Iterator[None]:
    """Keep other processes out of a --state-dir: two learners would overwrite each other's memory.

    Raises ConfigError if one is there already, or the folder can't be made.
    """
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold(folder / "lock")
    except OSError as error:
        raise ConfigError(f"--state-dir: can't write to {folder}: {error.strerror}") from None
    if lock is None:
        raise ConfigError(f"--state-dir: another learner uses {folder}; give each learner its own")
    with lock:
        yield


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name)


def _read(path: Path) -> tuple[Vectors, Mapping[str, str]]:
    """The vectors in a file, and what was written beside them; nothing if it is not there."""
    if not path.exists():
        return {}, {}
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"--state-dir: {path} can't be read: {error}; delete it to start afresh") from None


def _write(path: Path, vectors: Vectors, metadata: Mapping[str, str]) -> None:
    """The file as a whole or not at all, on disk when this returns."""
    contiguous = {name: np.ascontiguousarray(vector) for name, vector in vectors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, save(contiguous, dict(metadata)), mode=0o600)  # it tells of the data
    except OSError as error:
        raise ConfigError(f"--state-dir: can't write {path}: {error.strerror}") from None
