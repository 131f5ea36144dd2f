"""Named points where a test or the chaos script can make this process fail.

FLOCKSTEP_FAULTS=ACTION@POINT[:ROUND],... with the actions `kill` (SIGKILL) and `stop` (SIGSTOP);
without a round the first time counts. Each fault strikes once. Unset, a point costs one test of
an empty tuple.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from utils.errors import ConfigError

LEADER_POINTS = (
    "leader.selecting",  # before the cohort is chosen
    "leader.downloading",  # in the middle of a model download
    "leader.uploading",  # in the middle of an upload
    "leader.collected",  # all updates of an exchange are in
    "leader.stepping",  # mean taken, optimizer step not done
    "leader.checkpointing",  # half of the checkpoint is written
    "leader.committed",  # checkpoint on disk, nobody told
)
PRIVATE_POINTS = (  # of a leader, in runs with dp.mode
    "leader.charged",  # paid on disk, nothing released
)
LEARNER_POINTS = (
    "learner.downloading",  # in the middle of a model download
    "learner.training",  # after the first local step
    "learner.trained",  # the update is made, nothing sent
    "learner.uploading",  # in the middle of an upload
    "learner.uploaded",  # the update is counted
)
MASKED_POINTS = (  # of leader and learners, in runs with secagg.mode
    "leader.pending",  # the sum and who is in it are on disk, nobody was asked to reveal
    "leader.revealed",  # all that takes the masks off is here
    "leader.unmasked",  # in asynchronous runs: the sum without its masks is on disk, the buffer is without it
    "learner.advertised",  # its keys are with the leader, its shares are not
    "learner.shared",  # its shares are with the others
    "learner.agreeing",  # signed: it is asked whether it agrees to who is in the sum
    "learner.revealing",  # it is asked for what takes the masks off
)
TREE_POINTS = (  # of a leader, in runs with edges
    "leader.receipt",  # an edge says that it has an update, which does not count yet
    "leader.closing",  # all updates count, no edge is asked for its sum
    "leader.merged",  # the sum of an edge is in the leader's
)
EDGE_POINTS = (
    "edge.opened",  # it takes updates of an exchange
    "edge.uploading",  # in the middle of an upload
    "edge.received",  # an upload is whole, and not added
    "edge.added",  # an update is in its sum, nobody knows
    "edge.judged",  # the parent counts an update, its learner does not know
    "edge.closing",  # it is asked for its sum
    "edge.giving",  # the sum is made, nothing of it sent
    "edge.sending",  # in the middle of sending the sum
    "edge.given",  # the sum is the parent's
)
_POINTS = LEADER_POINTS + PRIVATE_POINTS + LEARNER_POINTS + MASKED_POINTS + TREE_POINTS + EDGE_POINTS
_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_FAULT = re.compile(r"(\w+)@([\w.]+)(?::(\d+))?")


@dataclass(frozen=True)
class Fault:
    """One failure that is to happen."""

    action: str
    point: str
    round: int | None


def parse_faults(text: str) -> tuple[Fault, ...]:
    """The faults that the text of FLOCKSTEP_FAULTS names; raises ConfigError."""
    faults = []
    for item in filter(None, text.split(",")):
        match = _FAULT.fullmatch(item)
        if match is None or match[1] not in _ACTIONS or match[2] not in _POINTS:
            raise ConfigError(f"FLOCKSTEP_FAULTS: {item!r} is not kill@POINT[:ROUND] or stop@POINT[:ROUND]")
        faults.append(Fault(match[1], match[2], int(match[3]) if match[3] else None))
    return tuple(faults)


_pending: tuple[Fault, ...] = ()


def arm(environ: Mapping[str, str]) -> None:
    """Take the faults from the environment; raises ConfigError."""
    global _pending
    _pending = parse_faults(environ.get("FLOCKSTEP_FAULTS", ""))


def reach(point: str, round_: int) -> None:
    """This process is at `point` of `round_`: fail here if that was asked for."""
    global _pending
    for fault in _pending:
        if fault.point == point and fault.round in (None, round_):
            _pending = tuple(other for other in _pending if other is not fault)
            os.kill(os.getpid(), _ACTIONS[fault.action])
