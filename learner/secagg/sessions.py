"""A learner's part in the masking sessions of its run: one member at a time, for the newest order."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence

from learner.noise_key import NoiseKeys
from learner.secagg.member import Floors, MaskMember, Phase, Signing
from learner.secagg.vow import Vows
from protos import leader_pb2
from utils import faults
from utils.batches import held_out
from utils.dp.shares import check_noise
from utils.errors import LateUpdateError, PayloadError, WireError

_log = logging.getLogger(__name__)
_POINTS = {
    "roster": "learner.advertised",
    "shares": "learner.shared",
    "survivors": "learner.agreeing",
    "reveal": "learner.revealing",
}


class MaskSessions:
    """Answers what the leader says in sessions, and tells when an update can be masked."""

    def __init__(
        self,
        vows: Vows,
        floors: Floors,
        examples: int,
        *,
        required: bool = False,
        signing: Callable[[], Signing | None] = lambda: None,
        noise_keys: NoiseKeys | None = None,
    ) -> None:
        """`signing` is how this learner proves who it is at the time, if it can."""
        self._vows = vows
        self._noise_keys = noise_keys or NoiseKeys(None)
        self._floors = floors
        self._signing = signing
        self._examples = examples  # of its own, as registered
        self._trained = examples  # of them, in this run
        self._required = required
        self._name, self._run = "", ""
        self._order: leader_pb2.WorkOrder | None = None  # the newest that is to be masked
        self._opened: tuple[str, bytes] = ("", b"")  # work id and session that the leader asked keys for last
        self._member: MaskMember | None = None
        self._changed = asyncio.Event()

    def registered(self, name: str, run: str, holdout: float = 0.0) -> None:
        """The leader knows this learner by this name; in this run it keeps that share of its examples from training."""
        self._trained = self._examples - held_out(self._examples, holdout)
        if (name, run) != (self._name, self._run):
            self._name, self._run = name, run
            self._order, self._member = None, None

    def ordered(self, order: leader_pb2.WorkOrder) -> leader_pb2.MaskUp | None:
        """A work order came; what is said to that. Raises PayloadError for one that this learner must not do."""
        if not order.HasField("masking"):
            if self._required:
                asked = "signed" if self._floors.signed else "require"
                raise PayloadError(
                    f"the leader asks for an update without masks, and this learner masks all (--secagg {asked})"
                )
            if order.HasField("noise"):
                raise PayloadError("a share of the noise hides nothing of an update that comes without masks")
            return None
        self._check(order)
        if self._order is None or self._order.work_id != order.work_id:
            self._forget()
            self._order = order
        return self._join()

    def _check(self, order: leader_pb2.WorkOrder) -> None:
        """Each learner does its share: the sum of one update and of nothing else would be that update."""
        if order.HasField("shard") or order.exchange != "delta" or not order.local_steps:
            raise PayloadError("masked updates are of own data, and of training")
        self._floors.check(order.masking)  # no later session would have another plan, so this learner can go
        if order.HasField("noise"):
            check_noise(order.noise, order.masking)
        epochs = order.masking.epochs
        if epochs and order.local_steps != epochs * math.ceil(self._trained / max(1, order.batch_size)):
            raise PayloadError(
                f"{order.local_steps} steps are not {epochs} passes through this learner's {self._trained} examples"
            )

    def heard(self, message: leader_pb2.MaskDown) -> leader_pb2.MaskUp | None:
        """What is answered to a message of a session, if anything is."""
        kind = message.WhichOneof("kind")
        if kind == "open":
            self._opened = (message.open.work_id, message.session)
            return self._join()
        member = self._member
        if member is None or member.session != message.session:
            return None if kind == "over" else _refused(message.session, "this learner is in no such session")
        if kind == "over":
            _log.debug("masking session is over: %s", message.over.reason)
            self._forget()
            return None
        if kind in _POINTS and self._order is not None:
            faults.reach(_POINTS[kind], self._order.round)
        try:
            answer = member.heard(message, self._allow)
        except WireError as error:
            _log.warning("masks: %s", error)
            answer = _refused(message.session, str(error), member.unopened)
        self._changed.set()
        return answer

    def _join(self) -> leader_pb2.MaskUp | None:
        """The advert for the session that was opened for the order, once both are here."""
        work_id, session = self._opened
        if self._order is None or work_id != self._order.work_id:
            return None
        if self._member is None or self._member.session != session:
            self._forget()
            try:
                self._member = MaskMember(self._name, session, self._order, self._floors, self._signing())
            except WireError as error:
                _log.warning("masks: %s", error)
                return _refused(session, str(error))
        return self._member.advert

    def _allow(self, work_id: str, survivors: bytes) -> bool:
        assert self._order is not None
        return self._vows.allow(self._run, self._order.round, work_id, survivors, self._order.step)

    def noise_key(self, order: leader_pb2.WorkOrder) -> bytes:
        """What the noise of the order's update comes from; empty where it brings none."""
        return self._noise_keys.of(self._run, order.round) if order.HasField("noise") else b""

    async def ready(self, work_id: str) -> MaskMember:
        """The member that masks, or has masked, this work's update; raises LateUpdateError if its round is over."""
        while True:
            if self._order is None or self._order.work_id != work_id:
                raise LateUpdateError("the round is over")
            if self._member is not None and self._member.phase not in (Phase.ADVERTISED, Phase.SHARED):
                return self._member
            self._changed.clear()
            await self._changed.wait()

    async def again(self, work_id: str, session: bytes) -> bool:
        """Whether this work is to be sent under the masks of another session than this; waits until that is known.

        False at once for work without masks, else when its round is over.
        """
        while self._order is not None and self._order.work_id == work_id:
            if self._member is not None and self._member.session != session:
                return True
            self._changed.clear()
            await self._changed.wait()
        return False

    def committed(self, round_: int) -> None:
        """A round is on disk: nobody needs what unmasks it any more."""
        if self._order is not None and (self._order.last_round or self._order.round) <= round_:
            self._forget()
            self._order = None

    def _forget(self) -> None:
        if self._member is not None:
            self._member.forget()
        self._member = None
        self._changed.set()


def _refused(session: bytes, reason: str, unopened: Sequence[int] = ()) -> leader_pb2.MaskUp:
    said = leader_pb2.MaskRefused(reason=reason[:256], unopened=unopened)
    return leader_pb2.MaskUp(session=session, refused=said)
