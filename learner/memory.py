"""What a learner keeps of a part between rounds: control variates, local tensors, a personal model.

It belongs to committed rounds: what an update would change is staged until the leader has counted
the update and committed its round, so that work done twice starts from the same memory.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from utils.errors import ConfigError

_log = logging.getLogger(__name__)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")

Vectors = Mapping[str, NDArray[np.float32]]


class Memory:
    """Named vectors of each part; written to `folder`, if there is one, at every commit.

    Raises ConfigError where the folder can't be used or a file in it is damaged.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._run = ""
        self._kept: dict[str, Vectors] = {}
        self._staged: dict[str, tuple[int, Vectors]] = {}  # by part: round of the update, its memory
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

    def of(self, part: str) -> Vectors:
        """The vectors of a part as of the last committed round that it took part in; empty at first."""
        if part not in self._kept:
            self._kept[part] = self._load(part)
        return self._kept[part]

    def stage(self, part: str, round_: int, vectors: Vectors) -> None:
        """What the part's memory will be if the update of `round_` counts."""
        self._staged[part] = (round_, vectors)
        self._counted.discard(part)

    def counted(self, part: str) -> None:
        """The leader has counted the staged update of the part; the commit may have been heard before."""
        self._counted.add(part)
        self._settle()

    def committed(self, round_: int) -> None:
        """All rounds up to this one are on disk: what counted in them holds."""
        self._committed = max(self._committed, round_)
        self._settle()

    def _settle(self) -> None:
        for part in sorted(self._counted & self._staged.keys()):
            made, vectors = self._staged[part]
            if made <= self._committed:
                del self._staged[part]
                self._counted.discard(part)
                self._kept[part] = vectors
                self._save(part, vectors)

    def _path(self, part: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / _UNSAFE.sub("_", self._run) / f"{_UNSAFE.sub('_', part)}.safetensors"

    def _load(self, part: str) -> Vectors:
        path = self._path(part)
        if path is None or not path.exists():
            return {}
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"--state-dir: {path} can't be read: {error}; delete it to start afresh"
            ) from None

    def _save(self, part: str, vectors: Vectors) -> None:
        path = self._path(part)
        if path is None or not vectors:
            return
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(save({name: np.ascontiguousarray(vector) for name, vector in vectors.items()}))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise ConfigError(f"--state-dir: can't write {path}: {error.strerror}") from None
