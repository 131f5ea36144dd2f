"""Masked runs with everything that goes wrong in them, without sockets and clocks: for tests.

The machines, vows and files are the real ones; what is in between is carried by hand: in any order but that of one
connection, twice, or not at all. An onlooker notes all that learners reveal: whoever has two sums of one update has
their difference, and whoever has both secrets of a learner has its update.

  python -m tests.secagg_story 10000      tells so many, and says what was in them
"""

from __future__ import annotations

import logging
import random
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np

from leader.secagg.actions import Action, Failed, Ready, Send, Unmask
from leader.secagg.pending import PendingFile, PendingSum
from leader.secagg.session import Check, MaskSession, Phase
from leader.secagg.unmasking import seeds
from learner.secagg.member import Phase as MemberPhase
from protos import leader_pb2
from tests.secagg import MODEL, TIMES, plan
from tests.secagg_learner import SIZE, WIDE, Learner, Signer, Words, update
from utils.console import say
from utils.errors import ForbiddenError, PayloadError
from utils.secagg import shamir
from utils.secagg.masks import add_streams
from utils.secagg.roster import need, order_bytes, seats_of

ROUNDS = 2
_MASKED = (MemberPhase.MASKED, MemberPhase.AGREED)
M = TypeVar("M", leader_pb2.MaskUp, leader_pb2.MaskDown)


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
        #: What each learner has shown of an update: the sums that it said it is in.
        self.sums_of: defaultdict[str, set[tuple[bytes, bytes]]] = defaultdict(set)
        #: Kinds of shares that were shown of a learner's secrets, by session and learner.
        self.kinds_of: defaultdict[tuple[bytes, str], set[str]] = defaultdict(set)
        self.happened: Counter[str] = Counter()
        self._queue: dict[str, deque[tuple[MaskSession, leader_pb2.MaskUp | leader_pb2.MaskDown]]] = {
            name: deque() for name in names
        }  # under way to and from each learner, in order
        self.committed = 0
        self.crashes = 0
        self._path = folder / "pending"
        self._sum: Words
        self._in_sum: list[str]
        self.now = 0.0
        self.trouble = self.random.choice([0.03, 0.1, 0.5])
        last = Phase.AGREEING if self.signed else Phase.COLLECTING
        self.struck = self.random.choice([Phase.KEYS, Phase.SHARES, last, last, *[Phase.REVEALING] * 2])
        self.strikes = 2  # that are still to come in that phase
        self.lossy = 0.03 * self.trouble  # share of the messages with which a connection breaks
        self.calm = False
        self._start()

    # --- the leader ------------------------------------------------------------------------

    @property
    def _check(self) -> Check | None:
        return Signer("").check if self.signed else None

    def _start(self) -> None:
        """The leader's process begins; what it knows is on disk."""
        self._file = PendingFile(self._path)
        for queue in self._queue.values():
            queue.clear()
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
        """A learner says something; it is under way."""
        self._queue[name].append((self.session, said))

    def deliver(self, name: str) -> None:
        """What was under way longest, to or from this learner, arrives: perhaps twice."""
        if not self._queue[name]:
            return
        session, message = self._queue[name].popleft()
        for _ in range(1 + (self.random.random() < self.lossy)):
            if isinstance(message, leader_pb2.MaskDown):
                self._arrive(name, message)
            elif session is self.session:
                heard = self.carry(name, message)
                if heard is not None and heard.session == session.session:
                    with suppress(PayloadError, ForbiddenError):  # which the leader's log has
                        self._do(session.heard(name, heard, self.now))

    def flush(self) -> None:
        """All of it arrives, learners in any order."""
        while self._waiting:
            self.deliver(self.random.choice(self._waiting))

    @property
    def _waiting(self) -> list[str]:
        return [name for name, queue in self._queue.items() if queue]

    def _arrive(self, name: str, message: leader_pb2.MaskDown) -> None:
        heard, learner = self.carry(name, message), self.learners[name]
        if heard is None:
            return
        member = learner.sessions._member
        held = dict(member._held) if heard.HasField("reveal") and learner.phase in _MASKED and member else {}
        answer = learner.sessions.heard(heard)
        if answer is None:
            return
        if answer.HasField("revealed") and held:
            self._note(learner, heard, answer.revealed.shares, held)
        self._hear(name, answer)

    def carry(self, name: str, message: M) -> M | None:
        """What arrives of a message to or from this learner."""
        return message

    def _note(
        self,
        learner: Learner,
        asked: leader_pb2.MaskDown,
        shares: bytes,
        held: dict[int, tuple[bytes, bytes]],
    ) -> None:
        """The onlooker: shares are shown that take the masks off one sum."""
        member, order, survivors = learner.sessions._member, learner.sessions._order, asked.reveal.survivors
        assert member is not None
        assert order is not None
        seats = member._seated.seats
        names = [seats[seat].name for seat in seats_of(survivors.in_sum, len(seats))]
        of_attempt = order.work_id.removesuffix(learner.name)
        work = frozenset(of_attempt + name for name in names)
        self.shown.setdefault((asked.session, work), set()).add(learner.name)
        self.sums_of[order.work_id].add((asked.session, survivors.SerializeToString(deterministic=True)))
        for at, (seat, secrets) in enumerate(sorted(held.items())):
            share = shares[shamir.SHARE_BYTES * at : shamir.SHARE_BYTES * (at + 1)]
            self.kinds_of[asked.session, seats[seat].name].add(
                ("mask key", "self secret")[secrets.index(share)]
            )

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
                        self.lose(name)
                    else:
                        self._queue[name].append((session, message))
                case Ready(names):
                    self._ready = frozenset(names)
                case Failed():
                    self._failed()
                case Unmask():
                    self._commit(action)

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
        if not self.calm and self.random.random() < 0.1:  # ends before the checkpoint is written
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
        self.happened[f"leader killed {self.session.phase.name.lower()}"] += 1
        self._start()

    def roll_back(self) -> None:
        """The newest checkpoint is damaged, or the folder a copy of before: the leader goes on from there."""
        self.happened["leader rolled back"] += 1
        self.committed = max(0, self.committed - 1)
        if self.random.random() < 0.5:
            self._path.unlink(missing_ok=True)
        self.crash()

    def lose(self, name: str) -> None:
        """A connection breaks, with all that is under way on it; the leader may notice."""
        self.learners[name].here = False
        self._queue[name].clear()
        self.happened[f"learner lost {self.session.phase.name.lower()}"] += 1
        if self.random.random() < 0.5:
            self._do(self.session.lost(name, self.now))

    def return_(self, name: str) -> None:
        """A learner is connected again; it is told what it was told last."""
        self.learners[name].here = True
        self._give(name)
        self._do(self.session.returned(name))

    def happen(self) -> None:
        """One thing."""
        name = self.random.choice(list(self.learners))
        if self.session.phase is self.struck and self.strikes and self.random.random() < 0.4:
            self.strikes -= 1
            self._go_wrong(name, self.random.choice([3, 3, 4, 5, 7]))
            return
        match kind := self.random.choices(
            range(9), [10, 3, 3, *(share * self.trouble for share in (2, 1, 1, 2, 3)), 30]
        )[0]:
            case 0:
                self.upload(name)
            case 1:
                self.return_(name)
            case 2:
                self.close(crash=self.random.random() < 0.1)
            case 3 | 4 | 5 | 7:
                self._go_wrong(name, kind)
            case 6:
                self.tick()
            case _:
                for _ in range(self.random.randrange(1, 5)):
                    self.deliver(self.random.choice(self._waiting or [name]))

    def _go_wrong(self, name: str, kind: int) -> None:
        match kind:
            case 3:
                self.lose(name)
            case 4:
                phase = self.learners[name].phase
                self.happened[f"learner restarted {phase.name.lower() if phase else 'idle'}"] += 1
                self._queue[name].clear()
                self.learners[name].restart()
                self.return_(name)
            case 5:
                self.crash()
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
        for _ in range(self.random.randrange(20, 120)):
            if self.committed < ROUNDS:
                self.happen()
        self.lossy, self.calm = 0.0, True
        for _ in range(40):
            for name in self.learners:
                if self.committed < ROUNDS:
                    self.return_(name)
            self.flush()
            for step in (self.upload, self._close_if_all):
                for name in self.learners:
                    if self.committed < ROUNDS:
                        step(name)
                    self.flush()
            if self.committed < ROUNDS:
                self.tick()
            self.flush()

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
    assert all(len(sums) == 1 for sums in story.sums_of.values()), (seed, story.sums_of)
    return story


def told_all(seeds: Iterable[int], folder: Path) -> Counter[str]:
    """So many stories, each of which ends with the right sums; what was in them.

    Raises AssertionError where both secrets of a learner were shown of one session, too.
    """
    happened: Counter[str] = Counter()
    for seed in seeds:
        story = told(seed, folder / str(seed))
        assert all(len(kinds) == 1 for kinds in story.kinds_of.values()), (seed, story.kinds_of)
        assert story.end == "all rounds", (seed, story.end)
        happened += story.happened
    return happened


if __name__ == "__main__":
    logging.disable()
    with TemporaryDirectory() as place:
        found = told_all(range(int(sys.argv[1])), Path(place))
    say(*(f"{count:8,} {what}" for what, count in sorted(found.items())))
