"""An identity of this machine on disk, held by one process at a time: key, certificate, whom it trusts.

    ~/.flockstep/identities/FLEET/NAME/    key.pem  cert.pem  ca.pem  about.json  witness.json  lock
    ~/.flockstep/edges/FLEET/NAME/         of edges and aggregators

FLOCKSTEP_HOME is another place for ~/.flockstep.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

from cryptography import x509

from protos import trust_pb2
from utils.errors import ConfigError, ForbiddenError, PayloadError
from utils.files import hold, read_secret, replace_file
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.token import JoinToken

_log = logging.getLogger(__name__)
LEARNERS, EDGES = "identities", "edges"  # folders at home
_NAMELESS = "joining-"  # begins the folder of an identity whose name the leader has not told yet


class Identity:
    """An identity that this process holds: a key, and a certificate once it has joined.

    Raises ConfigError where a file is damaged or can't be written, or others can read the key.
    """

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder = folder
        self._lock = lock
        path = folder / "key.pem"
        if not path.exists():  # on disk before the leader hears of it, so its answer may get lost
            replace_file(path, pki.key_to_pem(pki.new_key()), mode=0o600)
        self.key = pki.key_from_pem(read_secret(path), str(path))
        self.certificate = _certificate(folder)
        self._about = _json(folder / "about.json")
        self._witnessed = _json(folder / "witness.json").get("number", 0)

    @property
    def credentials(self) -> Credentials:
        """What it shows and trusts."""
        shown, roots = ((self.folder / name).read_bytes() for name in ("cert.pem", "ca.pem"))
        return Credentials(pki.key_to_pem(self.key), shown, roots)

    @property
    def ends_at(self) -> float:
        """Unix seconds at which its certificate ends; 0 = it has none yet."""
        return pki.ends_at(self.certificate) if self.certificate else 0.0

    @property
    def valid(self) -> bool:
        """Whether it has a certificate that has not ended."""
        return self.ends_at > time.time()

    @property
    def renew_at(self) -> float:
        """Unix seconds at which half its certificate's life is over."""
        assert self.certificate
        return float(self._about.get("renew_at", pki.half_of(self.certificate)))

    @property
    def serves(self) -> bool:
        """Whether the leader may dial it."""
        assert self.certificate
        return pki.serves(self.certificate)

    def take(self, credential: trust_pb2.Credential, ca_key: pki.PublicKey | None = None) -> None:
        """Keep what the leader has issued; raises ForbiddenError or PayloadError if that is not for this key.

        Args:
            ca_key: that the CA must have; None = the connection has proven that it is the leader's.
        """
        try:
            certificate = x509.load_der_x509_certificate(credential.certificate)
            roots = [x509.load_der_x509_certificate(root) for root in credential.roots]
            ca = roots[0]
        except (IndexError, ValueError) as error:
            raise PayloadError(f"the leader's answer holds no certificate: {error}") from None
        identity = pki.identity_of(certificate, ca)
        if certificate.public_key() != self.key.public_key() or (ca_key and ca.public_key() != ca_key):
            raise ForbiddenError("the leader's answer is for another key, or of another CA; nothing is kept")
        self._write("ca.pem", *map(pki.to_pem, roots))
        self._note(renew_at=credential.renew_at)
        self._write("cert.pem", pki.to_pem(certificate))
        self.certificate = certificate
        place = self.folder.parent.parent / identity.fleet / identity.name
        if self.folder.name.startswith(_NAMELESS) and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            self.folder = self.folder.rename(place)
        end = certificate.not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")
        _log.info(
            "admitted as %s (%s) until %s; what proves it is in %s",
            identity.name,
            identity.role,
            end,
            self.folder,
        )

    def remember(self, address: str) -> None:
        """The leader is at this address: from now on nothing more need be said than that."""
        known = self._about.get("addresses", [])
        if address not in known:
            self._note(addresses=[*known, address])

    def _note(self, **facts: Any) -> None:
        self._about |= facts
        self._write("about.json", json.dumps(self._about).encode())

    def _write(self, name: str, *parts: bytes, sync: bool = True) -> None:
        try:
            replace_file(self.folder / name, *parts, sync=sync)
        except OSError as error:
            raise ConfigError(f"can't write {self.folder / name}: {error.strerror}; free the disk") from None

    def witness(self, number: int, head: bytes) -> None:
        """Keep the newest head of the leader's audit chain, so that it can't change what it has told."""
        if number > self._witnessed:
            self._witnessed = number
            said = {"number": number, "head": f"{number}:{head.hex()}"}
            self._write("witness.json", json.dumps(said).encode(), sync=False)

    def close(self) -> None:
        """Let other processes have it."""
        self._lock.close()


def home(kind: str = LEARNERS) -> Path:
    """Where identities of this kind are."""
    return Path(os.environ.get("FLOCKSTEP_HOME") or "~/.flockstep").expanduser() / kind


def chosen(
    address: str,
    folder: Path | None,
    token: JoinToken | None,
    name: str,
    kind: str = LEARNERS,
    *,
    joins: bool = False,
) -> Identity | None:
    """The identity in `folder`, else one of the token's fleet, else one that is known at this address, if there is one.

    Raises ConfigError for a folder without one, unless it `joins` in another way than by the token.
    """
    if folder:
        if not (token or joins or (folder / "cert.pem").exists()):
            raise ConfigError(f"--identity: {folder} holds no certificate; join with --join TOKEN")
        return in_folder(folder)
    if token:
        return of_fleet(pki.fleet_of(token.ca_public_key()), name, kind)
    return of_address(address, name, kind)


def in_folder(folder: Path) -> Identity:
    """The identity in a folder, a new one where there is none; raises ConfigError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if identity := _held(folder):
            return identity
    except OSError as error:
        raise ConfigError(f"can't use the identity in {folder}: {error.strerror}") from None
    raise ConfigError(f"another process uses the identity in {folder}; give each its own")


def of_fleet(fleet: str, name: str, kind: str = LEARNERS) -> Identity:
    """A free identity of this fleet, of this name if one is given; a new one where there is none."""
    # One that has no key yet is about to be held by whoever has just made it.
    found = _free((key.parent for key in (home(kind) / fleet).glob("*/key.pem")), name)
    return found or in_folder(home(kind) / fleet / (name or _NAMELESS + token_hex(4)))


def of_address(address: str, name: str, kind: str = LEARNERS) -> Identity | None:
    """A free identity for the leader at this address, if it was ever joined there.

    Raises ForbiddenError where other processes hold all of them.
    """
    about = home(kind).glob("*/*/about.json")
    known = [path.parent for path in about if address in _json(path).get("addresses", [])]
    newest = max(known, key=_ends_at, default=home(kind))  # the leader may have got another CA since
    fleet = [folder for folder in known if folder.parent == newest.parent and name in ("", folder.name)]
    found = _free(fleet, name)
    if fleet and found is None:
        raise ForbiddenError(
            f"other processes use all identities that this machine has for leader {address}: start this "
            "one once with --join TOKEN (there: python -m leader.trust token)"
        )
    return found


def _free(folders: Iterable[Path], name: str) -> Identity | None:
    """Of the identities that no other process holds, the one whose certificate ends last."""
    for folder in sorted(folders, key=_ends_at, reverse=True):
        with suppress(FileNotFoundError):  # it has got its name just now
            if name in ("", folder.name) and (identity := _held(folder)):
                return identity
    return None


def _held(folder: Path) -> Identity | None:
    lock = hold(folder / "lock")
    if lock is None:
        return None
    try:
        return Identity(folder, lock)
    except BaseException:
        lock.close()
        raise


def _certificate(folder: Path) -> x509.Certificate | None:
    path = folder / "cert.pem"
    return pki.from_pem(path.read_bytes(), str(path)) if path.exists() else None


def _ends_at(folder: Path) -> float:
    certificate = _certificate(folder)
    return pki.ends_at(certificate) if certificate else 0.0


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}; delete it and join again") from None
    return found
