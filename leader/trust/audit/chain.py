"""The audit: what happens to identities and runs, in one signed chain of lines that can't be changed unseen.

A line is JSON: its number `n` in the file, the time, who did what from where and what belongs to that, `prev`
(SHA-256 of the line before) and `sig` (Ed25519 over all before it and the closing brace). `audit_check.py`
reads it. Leader and command line write to one file: each line goes on from the last on disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import mmap
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from utils.errors import CheckpointError, ConfigError
from utils.files import alone_at, read_secret, remedy, replace_file

FILE, KEY, PUBLIC_KEY = "audit.jsonl", "audit.key", "audit.pub"
LINE = re.compile(rb'(\{"n":([0-9]{1,18}),.*),"sig":"([0-9a-f]{128})"\}\n')
_GATHER_S = 0.1  # a sync keeps writers out, so one is made for all lines of this time
_MOST_TEXT = 300
_MOST_NAMES = 1000
#: What must never stand in a line, whoever sent it: join tokens, JWTs, private keys.
_SECRET = re.compile(r"flk1_[\w-]*|eyJ[\w-]+\.[\w-]+(\.[\w-]*)?|-----BEGIN [A-Z ]*PRIVATE KEY.*", re.DOTALL)

Value = str | int | float | None | Sequence[str]
_log = logging.getLogger(__name__)


class Head(NamedTuple):
    """A line that stands for all up to it; as text N:HASH."""

    number: int  # 0 = the chain has not begun
    digest: bytes  # SHA-256 of the line without its line feed

    def __str__(self) -> str:
        return f"{self.number}:{self.digest.hex()}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """The head that is written so; raises ConfigError."""
        match = re.fullmatch("([0-9]{1,18}):([0-9a-f]{64})", text.strip())
        if match is None:
            raise ConfigError(f"{text!r} is no head of an audit: it must be NUMBER:HASH, with 64 hex digits")
        return cls(int(match[1]), bytes.fromhex(match[2]))


BEGINNING = Head(0, b"")


class Audit:
    """Writes the audit of a trust folder; any number of these may write at once, from any process and thread."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """Go on with the audit in `folder`, or begin it; raises ConfigError."""
        self._path = folder / FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._syncer = ThreadPoolExecutor(1, "audit")
        self._sync_due = False
        self._closing = threading.Event()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with alone_at(self._path) as file:
                self._key = _open_key(folder, begun=os.fstat(file).st_size > 0)
                self._head, _ = _end(file)
        except OSError as error:
            raise ConfigError(f"can't go on with {self._path}: {error}; put back what is missing") from error

    @property
    def head(self) -> Head:
        """The last line, as it was found or written here."""
        return self._head

    def record(self, what: str, *, who: str = "", role: str = "", ip: str = "", **fields: Value) -> None:
        """Append a line; it outlives this process once this returns, and a power cut 0.1 s later.

        Texts are cut at 300 characters, lists at 1000 entries, and secrets known by their form are left out.
        Raises CheckpointError where the file can't be written.
        """
        told = {"what": what, "who": who, "role": role, "ip": ip, **fields}
        assert not told.keys() & {"n", "t", "prev", "sig"}
        try:
            with self._lock, alone_at(self._path) as file:
                self._append(file, {name: _told(value) for name, value in told.items()})
        except OSError as error:
            raise CheckpointError(f"can't write {self._path}: {error}; {remedy(error)}") from error
        if not self._sync_due:
            self._sync_due = True
            self._syncer.submit(self._sync)

    def _append(self, file: int, entry: Mapping[str, Value]) -> None:
        head, torn = _end(file)
        text = b""
        if torn:  # by a crash: what is left of that line gives way to a note of it
            os.ftruncate(file, os.fstat(file).st_size - len(torn))
            digest = hashlib.sha256(torn).hexdigest()
            head, text = self._line(head, {"what": "repaired", "bytes": len(torn), "sha256": digest})
        head, line = self._line(head, entry)
        text += line
        if os.write(file, text) < len(text):
            raise OSError(errno.ENOSPC, "a line was cut short")
        self._head = head

    def _line(self, before: Head, entry: Mapping[str, Value]) -> tuple[Head, bytes]:
        """The line after `before`."""
        now = round(self._clock(), 3)
        body = {"n": before.number + 1, "t": now, **entry, "prev": before.digest.hex()}
        text = json.dumps(body, separators=(",", ":")).encode()
        line = text[:-1] + b',"sig":"%s"}' % self._key.sign(text).hex().encode()
        return Head(before.number + 1, hashlib.sha256(line).digest()), line + b"\n"

    def _sync(self) -> None:
        self._closing.wait(_GATHER_S)
        self._sync_due = False
        try:
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            _log.error("can't sync %s: %s", self._path, error)

    def close(self) -> None:
        """Have all lines on disk; nothing is recorded after this."""
        self._closing.set()
        self._syncer.shutdown()


def _end(file: int) -> tuple[Head, bytes]:
    """The last whole line, and what a crash left after it."""
    size = os.fstat(file).st_size
    if not size:
        return BEGINNING, b""
    with mmap.mmap(file, size, prot=mmap.PROT_READ) as text:
        feed = text.rfind(b"\n")
        torn = text[feed + 1 :]
        if feed < 0:
            return BEGINNING, torn
        line = text[text.rfind(b"\n", 0, feed) + 1 : feed]
        # A spoilt line is gone on from too: the check tells of it, and nobody can stop the leader by spoiling one.
        match = LINE.fullmatch(line + b"\n")
        number = int(match[2]) if match else text[: feed + 1].count(b"\n")
    return Head(number, hashlib.sha256(line).digest()), torn


def _told(value: Value) -> Value:
    """A value as it may stand in a line."""
    if isinstance(value, str):
        return _SECRET.sub("[secret]", value[: 4 * _MOST_TEXT])[:_MOST_TEXT]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return [str(_told(text)) for text in value[:_MOST_NAMES]]
    return value


def _open_key(folder: Path, *, begun: bool) -> Ed25519PrivateKey:
    """The key that signs, made if nothing was signed yet; raises ConfigError or OSError."""
    path = folder / KEY
    if not begun and not path.exists():
        key = Ed25519PrivateKey.generate()
        replace_file(folder / PUBLIC_KEY, key.public_key().public_bytes_raw().hex().encode())
        replace_file(path, key.private_bytes_raw(), mode=0o600)
    secret = read_secret(path)
    try:
        return Ed25519PrivateKey.from_private_bytes(secret)
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}; put back the right file") from error
