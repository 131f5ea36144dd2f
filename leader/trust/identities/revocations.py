"""Who is admitted no more, as whoever knows only the CA must be told: by name, or by the serial of a certificate."""

from __future__ import annotations

from dataclasses import dataclass

from utils.errors import ForbiddenError

MOST = 65_536  # that are told of each kind, the newest


@dataclass(frozen=True)
class Revocations:
    """Names that were revoked, and serials of certificates that were replaced or forgotten and have not ended."""

    names: frozenset[str] = frozenset()
    serials: frozenset[int] = frozenset()

    def check(self, name: str, serial: int = 0) -> None:
        """Raise ForbiddenError if `name`, or the certificate of it that was shown, counts no more."""
        if name in self.names:
            raise revoked(name)
        if serial in self.serials:
            raise replaced(name)


def revoked(name: str) -> ForbiddenError:
    """What an identity is told that was revoked."""
    return ForbiddenError(f"{name} was revoked; ask the leader's operator")


def replaced(name: str) -> ForbiddenError:
    """What one is told whose certificate is not, or no more, among those that the CA keeps for its name."""
    return ForbiddenError(f"the certificate of {name} was replaced or forgotten; join with a new token")
