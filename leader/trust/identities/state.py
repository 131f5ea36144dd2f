"""`state.json`: tokens, identities, and who was revoked; several processes change it, each call looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leader.trust.identities.revocations import MOST, Revocations, replaced, revoked
from utils.errors import CheckpointError, ConfigError, ForbiddenError, PayloadError
from utils.files import alone_at, remedy, replace_file
from utils.trust.names import is_name

Stamp = tuple[int, int, int]  # of the file that was read: inode, mtime in ns, size in bytes
BY_JWT = "jwt"  # how an identity came to be that a JWT was exchanged for
_NO_FILE: Stamp = (0, 0, 0)
_Serial = Annotated[str, Field(pattern="^[0-9a-f]{1,40}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TokenEntry(_Entry):
    """A join token that was made; its secret is not kept."""

    key: str  # public key of the token, a compressed point, hex
    role: str
    name: str  # the only name that may join with it; "" = any
    uses: int  # 0 = any number
    until: float  # unix seconds
    replace: bool  # whether the name may be another key's by now
    used: list[str] = []  # key_sha256 of those who joined with it
    by: str = ""  # who made it


class IdentityEntry(_Entry):
    """Somebody who was admitted."""

    role: str
    key_sha256: str  # of its SubjectPublicKeyInfo, hex
    serials: list[str] = []  # of its newest certificates, hex; no other is admitted
    until: float = 0.0  # unix seconds: when they have all ended
    since: float = 0.0
    by: str = ""  # how it came to be: "token ID", "jwt", "issued by NAME"


class Revocation(_Entry):
    """Why somebody is admitted no more."""

    when: float  # unix seconds
    why: str
    by: str


class Records(_Entry):
    """All that is in the file."""

    tokens: dict[str, TokenEntry] = {}  # by id
    identities: dict[str, IdentityEntry] = {}  # by name
    revoked: dict[str, Revocation] = {}  # by name
    #: Certificates that were forgotten or replaced: serials, hex, and when they have all ended, unix seconds.
    withdrawn: dict[_Serial, float] = {}

    def withdraw(self, entry: IdentityEntry, now: float) -> None:
        """Note that no certificate of an entry counts any more, for those that have a longer memory than this one."""
        kept = {serial: until for serial, until in self.withdrawn.items() if until > now}
        self.withdrawn = kept | dict.fromkeys(entry.serials, entry.until)

    @property
    def revocations(self) -> Revocations:
        """What others must be told of those that are admitted no more."""
        names = sorted(self.revoked, key=lambda name: self.revoked[name].when)
        serials = (int(serial, 16) for serial in [*self.withdrawn][-MOST:])
        return Revocations(frozenset(names[-MOST:]), frozenset(serials))

    def check_name(self, name: str) -> None:
        """Raise PayloadError for what is no name, ForbiddenError for one that was revoked."""
        if not is_name(name):
            raise PayloadError(f"name {name[:64]!r} is not 1 to 64 of letters, digits, '.', '_' and '-'")
        if name in self.revoked:
            raise revoked(name)

    def check_shown(self, name: str, role: str, serial: int) -> None:
        """Raise ForbiddenError unless `name` may use what it has shown: a certificate of our CA, or, serial 0, a JWT.

        A JWT may speak for a name that is free or came by one itself.
        """
        self.check_name(name)
        entry = self.identities.get(name)
        if not serial and entry and entry.by != BY_JWT:
            raise ForbiddenError(
                f"{name} is an identity that came by no JWT; there: python -m leader.trust list"
            )
        if serial and (entry is None or entry.role != role or f"{serial:x}" not in entry.serials):
            raise replaced(name)


class TrustState:
    """The file in a folder of trust, and its lock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.json"
        self._lock = folder / "lock"
        self._seen: tuple[Stamp, Records] = (_NO_FILE, Records())

    def read(self) -> Records:
        """What the file holds now: the same object as long as it is the same file; not to be changed.

        Raises ConfigError when it is damaged or can't be read.
        """
        stamp, seen = self._stamp(), self._seen  # once: threads that read beside this one may be behind
        if stamp != seen[0]:
            seen = self._seen = (stamp, self._load())
        return seen[1]

    def locked(self) -> AbstractContextManager[int]:
        """Keep every other process and thread from changing this folder."""
        return alone_at(self._lock)

    @contextmanager
    def edit(self) -> Iterator[Records]:
        """Records to change, under the lock; they are on disk when the block ends, unless it raises.

        Raises CheckpointError when they can't be written.
        """
        with self.locked():
            records = self._load()
            yield records
            try:
                replace_file(self._path, records.model_dump_json(indent=1).encode(), b"\n", mode=0o600)
            except OSError as error:
                raise CheckpointError(
                    f"can't write {self._path}: {error.strerror}; {remedy(error)}"
                ) from error

    def _stamp(self) -> Stamp:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return _NO_FILE
        except OSError as error:
            raise ConfigError(f"{self._path} can't be read: {error.strerror}") from error
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _load(self) -> Records:
        try:
            return Records.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Records()
        except OSError as error:
            raise ConfigError(f"{self._path} can't be read: {error.strerror}") from error
        except ValidationError as error:
            raise ConfigError(f"{self._path} is damaged; put back a copy, else nobody is revoked") from error
