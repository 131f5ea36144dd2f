"""Masked runs with everything that goes wrong in them, without sockets and clocks: for tests.

The machines, vows and files are the real ones; what is in between is carried by hand, and lost by chance. An onlooker
notes all that learners reveal: whoever has two sums of one update has their difference.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from leader.secagg.pending import PendingFile, PendingSum
from leader.secagg.session import Action, Check, Failed, MaskSession, Phase, Ready, Send, Unmask
from leader.secagg.unmasking import seeds
from learner.secagg.member import Floors
from learner.secagg.member import Phase as MemberPhase
from learner.secagg.sessions import MaskSessions
from learner.secagg.vow import Vows
from protos import leader_pb2
from tests.secagg import MODEL, TIMES, plan
from utils.errors import ForbiddenError, PayloadError
from utils.secagg.masks import add_streams
from utils.secagg.roster import need, order_bytes, seats_of

SIZE, WIDE, ROUNDS = 40, 3, 2
M = TypeVar("M", leader_pb2.MaskUp, leader_pb2.MaskDown)
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


class Story:
    """A run of two rounds by `count` learners, in which what happens is drawn from `seed`."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        names = [f"learner-{n}" for n in range(self.random.choice([3, 4, 5]))]
        self.signed = seed % 2 == 1
        self.learners = {name: Learner(name, folder / name, self.signed) for name in names}
        self.shown: dict[
            tuple[bytes, frozenset[str]], set[str]
        ] = {}  # who has, by session and updates in the sum
        self.committed = 0
        self.crashes = 0
        self._path = folder / "pending"
        self._sum: Words
        self._in_sum: list[str]
        self.now = 0.0
        self.lossy = 0.03  # share of the messages with which a connection breaks
        self.calm = False
        self._start()

    # --- the leader ------------------------------------------------------------------------

    @property
    def _check(self) -> Check | None:
        return Signer("").check if self.signed else None

    def _start(self) -> None:
        """The leader's process begins; what it knows is on disk."""
        self._file = PendingFile(self._path)
        self._open_round()

    def _open_round(self) -> None:
        self.round = self.committed + 1
        pending = self._file.read(self.round)
        self._open_attempt()
        if pending:
            self.session = MaskSession.resumed(pending.closed, TIMES, self._check)
            self._sum, self._in_sum = (pending.values.astype(np.uint32), pending.wide), list(pending.parts)
            self._do(self.session.unmask(self.now))

    def _open_attempt(self) -> None:
        attempt = self._file.attempt(self.round)
        masking = plan(len(self.learners), attempt=attempt, signed=self.signed)
        self.orders = {
            name: leader_pb2.WorkOrder(
                round=self.round,
                exchange="delta",
                local_steps=1,
                batch_size=8,
                work_id=f"{self.round}-{attempt}-{name}",
                masking=masking,
            )
            for name in self.learners
        }
        self._sum, self._in_sum = (np.zeros(SIZE, np.uint32), np.zeros(WIDE, np.uint64)), []
        self._ready: frozenset[str] = frozenset()
        alike = order_bytes(next(iter(self.orders.values())))
        work = {name: order.work_id for name, order in self.orders.items()}
        session = self.random.randbytes(16)
        self.session = MaskSession(session, masking, alike, work, self.now, TIMES, self._check)
        self._do(self.session.open())
        for name in self.learners:
            self._give(name)

    def _give(self, name: str) -> None:
        learner = self.learners[name]
        if (
            learner.here
            and name not in self._in_sum
            and (said := learner.sessions.ordered(self.orders[name]))
        ):
            self._hear(name, said)

    def _hear(self, name: str, said: leader_pb2.MaskUp) -> None:
        if said.HasField("revealed"):
            self._note(said.session, self.learners[name])
        heard = self.carry(name, said)
        if heard is not None and heard.session == self.session.session:
            with suppress(PayloadError, ForbiddenError):  # which the leader's log has
                self._do(self.session.heard(name, heard, self.now))

    def carry(self, name: str, message: M) -> M | None:
        """What arrives of a message to or from this learner."""
        return message

    def _note(self, session: bytes, learner: Learner) -> None:
        """The onlooker: shares are shown that take the masks off one sum."""
        seated, survivors = self.session._seated, self.session.survivors
        if self.session.session != session or self.session.phase is not Phase.REVEALING:
            return
        names = (seated.seats[seat].name for seat in seats_of(survivors.in_sum, len(seated.seats)))
        work = frozenset(self.orders[name].work_id for name in names)
        self.shown.setdefault((session, work), set()).add(learner.name)

    @property
    def known(self) -> list[frozenset[str]]:
        """The sums that the onlooker knows, as the ids of the work in each."""
        needed = self.session.plan.threshold
        return [work for (_, work), names in self.shown.items() if len(names) >= needed]

    def _do(self, actions: Iterable[Action]) -> None:
        session = self.session
        for action in actions:
            if session is not self.session:
                return
            match action:
                case Send(name, message) if self.learners[name].here:
                    if self.random.random() < self.lossy:
                        self.learners[name].here = False
                    else:
                        self._say(name, message)
                case Ready(names):
                    self._ready = frozenset(names)
                case Failed():
                    self._failed()
                case Unmask():
                    self._commit(action)

    def _say(self, name: str, message: leader_pb2.MaskDown) -> None:
        heard = self.carry(name, message)
        answer = self.learners[name].sessions.heard(heard) if heard is not None else None
        if answer is not None:
            self._hear(name, answer)

    def _failed(self) -> None:
        if self._ready or self._in_sum:
            self._file.failed(self.round)
        self.now += TIMES.keys_s
        self._open_attempt()

    def upload(self, name: str) -> None:
        """A learner sends its update, if it can and may."""
        learner = self.learners[name]
        if self.session.phase is not Phase.COLLECTING or not learner.here or name in self._in_sum:
            return
        sent = learner.masked(self.orders[name].work_id, self.session.session)
        if sent is None or name not in self._ready:
            return
        values, wide = sent
        self._sum = self._sum[0] + values, self._sum[1] + wide
        self._in_sum.append(name)

    def close(self, crash: bool = False) -> None:
        """The round closes, if it may; the leader perhaps ends when that is written down."""
        if self.session.phase is not Phase.COLLECTING or len(self._in_sum) < need(self.session.plan):
            return
        session = self.session
        self._do(session.close(self._in_sum, self.now))
        values, wide = self._sum
        self._file.write(PendingSum(self.round, tuple(self._in_sum), session.closed, values, wide))
        if crash:
            self.crash()
        else:
            self._do(session.unmask(self.now))

    def _commit(self, event: Unmask) -> None:
        """The sum is unmasked, and must be that of the survivors' updates."""
        try:
            found = seeds(event.seated, event.survivors, event.answers, MODEL)
        except PayloadError as error:
            self._do(self.session.misfit(self.now, str(error)))
            return
        values, wide = self._sum[0].copy(), self._sum[1].copy()
        add_streams(values, [s[:32] for s in found.plus], [s[:32] for s in found.minus])
        add_streams(wide, [s[32:] for s in found.plus], [s[32:] for s in found.minus])
        work = frozenset(self.orders[name].work_id for name in self._in_sum)
        each = [update(work_id) for work_id in work]
        assert (values == sum(one for one, _ in each)).all()
        assert (wide == sum(other for _, other in each)).all()
        if self.random.random() < 4 * self.lossy:  # ends before the checkpoint is written
            self.crash()
            return
        self.committed = self.round
        for learner in self.learners.values():
            if learner.here and self.random.random() > self.lossy:
                learner.sessions.committed(self.round)
        if self.committed < ROUNDS:
            self._open_round()

    # --- what happens ----------------------------------------------------------------------

    def crash(self) -> None:
        """The leader is killed, and goes on from its files."""
        self.crashes += 1
        self._start()

    def roll_back(self) -> None:
        """The newest checkpoint is damaged, or the folder a copy of before: the leader goes on from there."""
        self.committed = max(0, self.committed - 1)
        if self.random.random() < 0.5:
            self._path.unlink(missing_ok=True)
        self.crash()

    def return_(self, name: str) -> None:
        """A learner is connected again; it is told what it was told last."""
        self.learners[name].here = True
        self._give(name)
        self._do(self.session.returned(name))

    def happen(self) -> None:
        """One thing."""
        name = self.random.choice(list(self.learners))
        match self.random.choices(range(8), [10, 3, 3, 2, 1, 1, 2, 1])[0]:
            case 0:
                self.upload(name)
            case 1:
                self.return_(name)
            case 2:
                self.close()
            case 3:
                self.learners[name].here = False
            case 4:
                self.learners[name].restart()
                self.return_(name)
            case 5:
                self.crash()
            case 6:
                self.tick()
            case _:
                self.roll_back()

    def tick(self) -> None:
        """All that was waited for is late; a round that too few have sent updates for is given up, and begun again."""
        self.now += TIMES.keys_s
        if self.session.phase is not Phase.COLLECTING:
            self._do(self.session.tick(self.now))
            return
        self._do(self.session.over("the round is over"))
        self._open_attempt()

    def tell(self) -> None:
        """All of it: a while of trouble, then calm, in which the run ends unless learners have shown too much."""
        for _ in range(self.random.randrange(60)):
            if self.committed < ROUNDS:
                self.happen()
        self.lossy, self.calm = 0.0, True
        for _ in range(40):
            for name in self.learners:
                if self.committed < ROUNDS:
                    self.return_(name)
            for step in (self.upload, self._close_if_all):
                for name in self.learners:
                    if self.committed < ROUNDS:
                        step(name)
            if self.committed < ROUNDS:
                self.tick()

    def _close_if_all(self, name: str) -> None:
        if self.committed < ROUNDS:
            self.close()

    @property
    def end(self) -> str:
        """How it went."""
        return "all rounds" if self.committed == ROUNDS else f"{self.committed} rounds"


def told(seed: int, folder: Path, kind: type[Story] = Story) -> Story:
    """A story that has been told; raises AssertionError where an update is in two sums that can be unmasked."""
    folder.mkdir()
    story = kind(seed, folder)
    story.tell()
    known = [work_id for work in story.known for work_id in work]
    assert len(known) == len(set(known)), (seed, story.known)
    return story
