"""Files written atomically: the old or the new content survives any crash."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from utils.errors import CheckpointError


def write_atomically(
    path: Path, parts: list[bytes | memoryview], half_written: Callable[[], None] = lambda: None
) -> None:
    """Replace `path` by a file of these parts: the old or the new content survives any crash.

    `half_written` is called when the first part is written. Raises CheckpointError, for example
    when the disk is full; the old file is then untouched.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            for number, part in enumerate(parts):
                file.write(part)
                if number == 0:
                    half_written()
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise CheckpointError(
            f"can't write {path}: {error.strerror}; free the disk or fix the folder, then resume the run"
        ) from error


def replace_file(path: Path, content: bytes, sync: bool = True) -> None:
    """Write `content` so that `path` always holds all of the old or all of the new bytes.

    Without `sync` that is true when the process is killed, but not when the power fails.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
