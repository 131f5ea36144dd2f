"""Files written atomically: the old or the new content survives any crash."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from utils.errors import CheckpointError, ConfigError


def replace_file(
    path: Path,
    *parts: bytes | memoryview,
    sync: bool = True,
    mode: int = 0o666,
    half_written: Callable[[], None] = lambda: None,
) -> None:
    """Replace `path` by a file of these parts: it always holds all of the old or all of the new bytes.

    Without `sync` that is true when the process is killed, but not when the power fails. `mode` are the
    rights of the new file, less the umask: 0o600 for a secret. `half_written` is called when the first part
    is written. Raises OSError, for example when the disk is full; the old file is then untouched.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # a crash's, or somebody's who would read what is written into it
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            for number, part in enumerate(parts):
                file.write(part)
                if number == 0:
                    half_written()
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        if sync:
            sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def sync_folder(path: Path) -> None:
    """Have the names in a folder on disk when this returns; raises OSError."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_secret(path: Path) -> bytes:
    """What a file holds that others must not read; raises OSError, and ConfigError if they can."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others (mode {mode:04o}): chmod 600 {path}")
    return path.read_bytes()


def hold(path: Path) -> IO[bytes] | None:
    """A lock file that is this process's own until it is closed; None if another one holds it. Raises OSError."""
    lock = path.open("ab")  # what is in it stays: it may be a link that somebody laid out
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


@contextmanager
def alone_at(path: Path) -> Iterator[int]:
    """A file's descriptor, open for appending, once no other process or thread is at it; raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def remedy(error: OSError) -> str:
    """What to do where a file can't be written."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the number of files that may be open (ulimit -n), or lower limits.connections"
    return "free the disk or fix the folder"


def write_atomically(
    path: Path,
    parts: list[bytes | memoryview],
    half_written: Callable[[], None] = lambda: None,
    mode: int = 0o666,
) -> None:
    """`replace_file` for what a run can't go on without: raises CheckpointError that says what to do."""
    try:
        replace_file(path, *parts, mode=mode, half_written=half_written)
    except OSError as error:
        raise CheckpointError(
            f"can't write {path}: {error.strerror}; {remedy(error)}, then resume the run"
        ) from error
