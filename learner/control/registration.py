"""Registration: what the leader is told of this learner, and how long it goes on trying to be taken."""

from __future__ import annotations

import logging

import torch

from learner.options import LearnerOptions
from learner.wire.connection import Connection
from model.device import memory_bytes
from protos import leader_pb2
from utils.codecs import CUT, KINDS
from utils.ecs import PLACE
from utils.errors import (
    BusyError,
    FlockstepError,
    IncompatibleError,
    NameTakenError,
    NotReadyError,
    StalledError,
    UnknownLearnerError,
)
from utils.secagg.roster import VERSION
from utils.version import EXAMPLE_PRIVACY, PROTOCOL, RELEASE
from utils.wire.contract import LeaderStub
from utils.wire.rpc import INLINE_BYTES
from utils.wire.status import failures_told

_log = logging.getLogger(__name__)
_CALL_TIMEOUT_S = 10.0
#: What a new registration can mend.
MENDABLE = (UnknownLearnerError, NotReadyError, NameTakenError, StalledError, BusyError)


class Registration:
    """Registers one learner, as often as need be: it keeps its name, and proves with its token who it was."""

    def __init__(
        self,
        options: LearnerOptions,
        device: torch.device,
        own_data: leader_pb2.OwnData | None,
        frozen: str = "",
    ) -> None:
        control = leader_pb2.CONTROL_DIALLED if options.network_addr else leader_pb2.CONTROL_SESSION
        self._leader = options.leader
        self._info = leader_pb2.LearnerInfo(
            network_addr=options.network_addr,
            protocol=PROTOCOL,
            release=RELEASE,
            name=options.name,
            device=describe_device(device),
            control=control,
            own_data=own_data,
            tags=options.tags.split(",") if options.tags else (),
            device_kind=device.type,
            memory_bytes=memory_bytes(device),
            codecs=(*KINDS, CUT, "zstd"),
            example_privacy=EXAMPLE_PRIVACY,
            frozen=frozen,
            secagg=VERSION if control == leader_pb2.CONTROL_SESSION else 0,
            inline_bytes=INLINE_BYTES,
        )

    def _elsewhere(self) -> IncompatibleError:
        return IncompatibleError(
            f"{self._leader} takes no learners: give --leader where the leader listens for them (listen; the file "
            "`address` of its run folder), not where edges listen or come"
        )

    async def register(self, stub: LeaderStub) -> Connection:
        """What the leader has agreed to; raises the error that it refuses with."""
        with failures_told(unknown=self._elsewhere):
            reply = await stub.register(self._info, _CALL_TIMEOUT_S)
        if not reply.success:
            raise FlockstepError(f"the leader refused this learner: {reply.message}")
        self._info.name, self._info.token = reply.name, reply.token
        PLACE.run, PLACE.learner = reply.run.run_id, reply.name
        _log.info("registered as learner %d (%s) for run %s", reply.learner_id, reply.name, reply.run.run_id)
        return Connection(stub, reply.token, reply.name, reply.run)


def describe_device(device: torch.device) -> str:
    """The device as a person reads it."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{device} ({threads} thread{'s' if threads > 1 else ''})" if device.type == "cpu" else str(device)
