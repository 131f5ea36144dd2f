"""Learners of masked runs, without sockets and clocks: what each masks, signs and keeps on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from learner.secagg.member import Floors
from learner.secagg.member import Phase as MemberPhase
from learner.secagg.sessions import MaskSessions
from learner.secagg.vow import Vows
from tests.secagg import MODEL
from utils.errors import ForbiddenError

SIZE, WIDE = 40, 3
Words = tuple[NDArray[np.uint32], NDArray[np.uint64]]


def update(work_id: str) -> Words:
    """What a learner makes of this work."""
    rng = np.random.default_rng(list(work_id.encode()))
    return rng.integers(0, 2**20, SIZE).astype(np.uint32), rng.integers(0, 2**40, WIDE).astype(np.uint64)


class Signer:
    """Signs with a key that all know; who forges signatures is not part of these stories."""

    def __init__(self, name: str) -> None:
        self.identity = name.encode()
        self._count = 0

    def sign(self, digest: bytes) -> bytes:
        """See Signing; each time another one, as ECDSA's are."""
        self._count += 1
        salt = self._count.to_bytes(8, "big")
        return salt + hashlib.sha256(salt + self.identity + digest).digest()

    def check(self, identity: bytes, name: str, digest: bytes, signature: bytes, what: str) -> None:
        """See Signing."""
        told = hashlib.sha256(signature[:8] + name.encode() + digest).digest()
        if (identity, signature[8:]) != (name.encode(), told):
            raise ForbiddenError(f"{what} of {name} is not signed by it")


class Learner:
    """One learner: its part in sessions, its vow, and what it has masked."""

    def __init__(self, name: str, folder: Path, signed: bool) -> None:
        self.name = name
        self.here = True
        self._signed = signed
        self._folder = folder
        folder.mkdir()
        self.restart()

    def restart(self) -> None:
        """Only the folder is left."""
        floors, signer = Floors(signed=self._signed), Signer(self.name)
        self.sessions = MaskSessions(Vows(self._folder), floors, 8, signing=lambda: signer)
        self.sessions.registered(self.name, "run")
        self._masked: dict[bytes, Words] = {}

    @property
    def phase(self) -> MemberPhase | None:
        """Where it stands in its session."""
        return self.sessions._member.phase if self.sessions._member else None

    def masked(self, work_id: str, session: bytes) -> Words | None:
        """Its update, if it has masks for that."""
        member = self.sessions._member
        if member is None or member.session != session or self.sessions._order is None:
            return None
        if member.phase is MemberPhase.READY:
            values, wide = update(work_id)
            member.mask(values, wide, MODEL)
            self._masked = {session: (values, wide)}
        return self._masked.get(session)
