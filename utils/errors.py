"""Every error that Flockstep raises on purpose, in one tree; utils/wire/status.py tells them to peers.

A message says what is wrong, where, and what to do next; each argument is one line of it, whatever it quotes.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

from utils.console import printable, say

P = ParamSpec("P")
INTERRUPTED = 130  # the shell's exit code for a program that was interrupted


class FlockstepError(Exception):
    """Base of all errors that a user or a peer can cause."""

    exit_code = 1

    def __str__(self) -> str:
        """The arguments, each as one line that no terminal acts on."""
        return "\n".join(printable(str(line)) for line in self.args)


class ConfigError(FlockstepError):
    """A flag, environment variable or config key is wrong; names key, value and what is allowed."""

    exit_code = 2


class DataError(FlockstepError):
    """A dataset is missing, damaged or of the wrong kind."""

    exit_code = 3


class CheckpointError(FlockstepError):
    """A checkpoint can't be written, found or trusted."""

    exit_code = 4


class PrivacyError(FlockstepError):
    """What the ledger of privacy does not allow: entries are missing, or a release can't be paid."""

    exit_code = 8


class UnreachableError(FlockstepError):
    """The other side did not answer within the time allowed."""

    exit_code = 5


class TooFewLearnersError(FlockstepError):
    """The run could not go on: too few learners were there for too long, or answered."""

    exit_code = 6


class WireError(FlockstepError):
    """Base of the errors that are told to the peer as a gRPC status."""


class PayloadError(WireError):
    """A payload is malformed: framing, safetensors header, dtype, shape, name or offsets."""


class ValueRangeError(WireError):
    """A value is NaN, infinite or beyond the range of the round plan."""


class ChecksumError(WireError):
    """A payload arrived but its checksum differs from the one announced."""


class LimitError(WireError):
    """Something from outside exceeds a configured limit (`limits.*`)."""


class StalledError(WireError):
    """A peer made no progress for longer than `limits.stall_s`."""


class LateUpdateError(WireError):
    """An update is for a round or step that is no longer open."""


class DuplicateUpdateError(WireError):
    """This piece of work was already counted; sending it again changes nothing."""


class UnknownLearnerError(WireError):
    """A call came from a learner or with a token that is not registered."""


class NameTakenError(WireError):
    """Another live learner already uses this name."""


class ForbiddenError(WireError):
    """The caller may not do this: no identity, one that has ended or was revoked, or a role that may not."""

    exit_code = 7


class EndedError(ForbiddenError):
    """What the caller proves itself with has ended; the same call with a new one may do."""


class BusyError(WireError):
    """The caller asks for more at once, or more often, than its share (`limits.*`); try again later."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s  # 0 = not said


class IncompatibleError(WireError):
    """Peer and leader can't work together: protocol, model, classes or data holder differ."""


class NotReadyError(WireError):
    """The leader can't answer this yet; try again later."""


def program(main: Callable[P, int]) -> Callable[P, int]:
    """`main`, which returns an exit code; an error is told in one line, and its exit code returned."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except FlockstepError as error:
            say(*f"error: {error}".split("\n"), file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            return INTERRUPTED
        except Exception:
            say(*traceback.format_exc().splitlines(), file=sys.stderr)  # as Python would, but safe
            return FlockstepError.exit_code

    return run
