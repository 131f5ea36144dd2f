"""Side files: what a large run's checkpoints say alike about its many parts, written once and known by its SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leader.state import RunState
from leader.storage.saved_state import Arrays, Beside
from utils.files import write_atomically
from utils.wire.payload import DTYPES, PayloadReader, encode_header

_FORMAT = "flockstep-beside-1"
_CODES = {dtype: code for code, dtype in DTYPES.items()}


class SideFiles:
    """The side files in a folder of checkpoints, each kept as long as a checkpoint there refers to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: tuple[Beside, str] = (Beside({}, {}, ()), "")
        self._used: dict[str, str] = {}  # digests, by the name of a checkpoint that this process wrote

    def write(self, state: RunState) -> str:
        """Have on disk what lies beside a state's checkpoint; its SHA-256, "" if nothing does.

        Raises CheckpointError.
        """
        beside, (before, digest) = Beside.of(state), self._written
        if all(new is old or not (new or old) for new, old in zip(beside, before, strict=True)):
            return digest
        digest = self._write(beside) if any(beside) else ""
        self._written = beside, digest
        return digest

    def _write(self, beside: Beside) -> str:
        arrays = beside.arrays()
        tensors = [(name, _CODES[array.dtype], array.shape) for name, array in arrays.items()]
        header = encode_header(tensors, {"format": _FORMAT, "state": beside.fields()})
        parts: list[bytes | memoryview] = [header]
        parts += [np.ascontiguousarray(array).data.cast("B") for array in arrays.values()]
        digest = hashlib.sha256(b"".join(parts)).hexdigest()
        write_atomically(self._path(digest), parts, mode=0o600)
        return digest

    def keep(self, path: Path, digest: str, kept: Sequence[Path]) -> None:
        """The checkpoint `path` refers to `digest`, and `kept` are all that are left; what they don't need goes."""
        self._used[path.name] = digest
        self._used = {one.name: self._used[one.name] for one in kept if one.name in self._used}
        if len(self._used) < len(kept):
            return  # an earlier process wrote some, and they are not read for this
        needed = set(map(self._path, self._used.values()))
        for side in set(self._folder.glob("beside-*")) - needed:
            side.unlink()

    def read(self, digest: str) -> tuple[str, Arrays]:
        """JSON and tensors of a side file; raises ValueError, PayloadError or OSError."""
        content = self._path(digest).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{self._path(digest).name}, which it needs, is damaged")
        reader = PayloadReader(max_bytes=len(content), header_bytes=len(content))
        reader.feed(content)
        payload = reader.finish()
        return payload.manifest.metadata.get("state", ""), payload.arrays()

    def _path(self, digest: str) -> Path:
        return self._folder / f"beside-{digest}.safetensors"
