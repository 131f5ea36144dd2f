"""What a learner says when it registers: what it may say, and the name that it goes by."""

from __future__ import annotations

import re
import secrets

from leader.trust.identities.callers import PLAIN, Caller
from protos import leader_pb2
from utils.errors import ForbiddenError, IncompatibleError, PayloadError
from utils.version import PROTOCOL, RELEASE

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_TEXT = 256
_TAG = re.compile(r"[A-Za-z0-9._-]{1,32}")
_MAX_TAGS = 16
_MAX_CODECS = 64  # names, of so many characters each
_DEVICE_KIND = re.compile(r"[a-z0-9]{0,16}")
CONTROL_NAMES: dict[int, str] = {
    leader_pb2.CONTROL_PLAIN: "plain",
    leader_pb2.CONTROL_SESSION: "session",
    leader_pb2.CONTROL_DIALLED: "dialled",
}


def name_of(info: leader_pb2.LearnerInfo, caller: Caller) -> str:
    """The name to register under; raises ForbiddenError for one that belongs to another identity, or may."""
    if caller.role and info.name not in ("", caller.name):
        raise ForbiddenError(
            f"the name {info.name[:64]!r} is not this learner's: its certificate says {caller.name!r}; leave --name out"
            if caller.known
            else f"nobody without an identity may choose a name in this run; leave {info.name[:64]!r} out"
        )
    if caller.known or info.name:
        return caller.name or info.name
    if info.control != leader_pb2.CONTROL_PLAIN:
        return f"learner-{secrets.token_hex(4)}"
    # No identity has a slash in its name: where there are any, none can be kept out.
    return f"plain{'/' if caller.role else '-'}{info.network_addr or caller.place}"


def check(info: leader_pb2.LearnerInfo, caller: Caller) -> None:
    """Raises ForbiddenError, IncompatibleError or PayloadError unless this caller may say all that."""
    if caller.role == PLAIN and info.control != leader_pb2.CONTROL_PLAIN:
        raise ForbiddenError("without an identity a learner may speak the plain contract alone; join first")
    if info.protocol not in (0, PROTOCOL):
        raise IncompatibleError(
            f"learner speaks protocol {info.protocol}, this leader {PROTOCOL}; install flockstep {RELEASE} there"
        )
    if info.control not in CONTROL_NAMES:
        raise PayloadError(f"control {info.control} is none of this contract's; see leader.proto")
    if info.name and not _NAME.fullmatch(info.name):
        raise PayloadError(f"name {info.name[:64]!r} is not 1 to 64 of letters, digits, '.', '_' and '-'")
    for text in (info.network_addr, info.device, info.release, info.frozen, info.own_data.fingerprint):
        if len(text) > _MAX_TEXT or not text.isprintable():
            raise PayloadError(
                f"text of {len(text)} characters in LearnerInfo; printable, at most {_MAX_TEXT}"
            )
    if len(info.tags) > _MAX_TAGS or not all(_TAG.fullmatch(tag) for tag in info.tags):
        raise PayloadError(
            f"{len(info.tags)} tags in LearnerInfo; at most {_MAX_TAGS}, each of 1 to 32 letters, digits, "
            "'.', '_' and '-'"
        )
    if len(info.codecs) > _MAX_CODECS or any(len(kind) > _MAX_CODECS for kind in info.codecs):
        raise PayloadError(
            f"{len(info.codecs)} codecs in LearnerInfo; at most 64, each of at most 64 characters"
        )
    if not _DEVICE_KIND.fullmatch(info.device_kind):
        raise PayloadError(f"device_kind {info.device_kind[:64]!r} is no kind of device, such as cpu or cuda")
    if info.HasField("own_data") and not 0 < info.own_data.examples < 1 << 40:
        raise PayloadError(f"own_data.examples is {info.own_data.examples}; it must be from 1 to 2**40")
