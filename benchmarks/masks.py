"""What masks cost, in ratios to one stream of AES and to the exact sum, measured in the same turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from benchmarks.result import Figure, Target
from benchmarks.spread import Spread
from leader.aggregation.exact_sum import ExactSum, Scale
from leader.secagg.actions import Action, Send, Unmask
from leader.secagg.session import MaskSession
from leader.secagg.unmasking import seeds
from learner.secagg.member import MaskMember
from protos import leader_pb2
from utils.secagg.keys import SESSION_BYTES
from utils.secagg.masks import add_streams
from utils.secagg.ring import Ring
from utils.secagg.roster import order_bytes

RESNET18, SMALL = 11_173_962, 413_000  # parameters
MODEL = bytes(32)  # stands for the SHA-256 of the model that was trained from
LEARNERS = 16
_MANY = 64  # learners whose control messages are counted
_MOST_CONTROL_BYTES = 25_000.0


def _send_one(member: MaskMember) -> None:
    member.mask(np.zeros(1, np.uint32), np.zeros(1, np.uint64), MODEL)


@dataclass
class Cohort:
    """Learners whose messages are carried by hand, all of whom but `lost` send an update."""

    count: int
    lost: int = 0
    bits: int = 32
    up: int = 0  # bytes of control, all learners' together
    down: int = 0
    leader_s: float = 0.0  # of CPU in the leader's session
    learner_s: float = 0.0  # in all learners' members
    events: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan = plan = leader_pb2.MaskPlan(
            bits=self.bits, parties=self.count, threshold=2 * self.count // 3 + 1, least=3, range=8.0
        )
        names = [f"learner-{number:04d}" for number in range(self.count)]
        session = bytes(SESSION_BYTES)
        orders = {name: leader_pb2.WorkOrder(work_id=name, masking=plan) for name in names}
        self.members = {name: MaskMember(name, session, order) for name, order in orders.items()}
        work = {name: name for name in names}
        self.session = MaskSession(session, plan, order_bytes(orders[names[0]]), work, 0.0)
        self.senders = names[self.lost :]
        self._do(self.session.open)

    def _do(self, step: Callable[[], list[Action]]) -> None:
        queue = self._timed(step)
        while queue:
            action = queue.pop(0)
            if not isinstance(action, Send):
                self.events.append(action)
                continue
            began = time.process_time()
            answer = self._answer(action)
            self.learner_s += time.process_time() - began
            self.down += action.message.ByteSize()
            if answer is not None:
                self.up += answer.ByteSize()
                name, said = action.name, answer
                queue += self._timed(partial(self.session.heard, name, said, 0.0))

    def _timed(self, step: Callable[[], list[Action]]) -> list[Action]:
        began = time.process_time()
        actions = step()
        self.leader_s += time.process_time() - began
        return actions

    def _answer(self, send: Send) -> leader_pb2.MaskUp | None:
        member = self.members[send.name]
        if send.message.HasField("open"):
            return member.advert
        return member.heard(send.message, lambda work_id, survivors: True)

    def close(self, send: Callable[[MaskMember], None] = _send_one) -> Unmask:
        """Everybody that sends has sent: what unmasks their sum."""
        self._do(lambda: self.session.close(self.senders, 0.0))
        for name in self.senders:
            send(self.members[name])
        self._do(lambda: self.session.unmask(0.0))
        return next(event for event in self.events if isinstance(event, Unmask))


def targets(quick: bool) -> tuple[tuple[Target, ...], tuple[Figure, ...]]:
    """What is promised of masks, and what was measured."""
    turns = 3 if quick else 9
    promised, figures = [], []
    for size, most in ((RESNET18, 1.0), (SMALL, 1.3)):
        seconds = _of_size(size, turns)
        stream = seconds["one stream"]
        name = f"{size / 1e6:.2f} M values"
        ratios = {
            f"mask, {name}: to its {LEARNERS} streams": (seconds["mask"] / (LEARNERS * stream), most),
            f"unmask, {name}, one lost: to its {2 * LEARNERS - 2} streams": (
                seconds["unmask"] / ((2 * LEARNERS - 2) * stream),
                most,
            ),
            f"mask on 2 threads, {name}: to 1": (seconds["mask on 2 threads"] / seconds["mask"], 0.6),
            f"add a masked update, {name}: to ExactSum.add": (seconds["add"] / seconds["exact add"], 0.3),
        }
        promised += [Target(what, "x", value, limit) for what, (value, limit) in ratios.items()]
        figures += [Figure(f"{what}, {name}", "ms", Spread.of([s * 1e3])) for what, s in seconds.items()]
    many = Cohort(_MANY)
    many.close()
    promised.append(
        Target(
            f"control of a learner, {_MANY} learners", "B", (many.up + many.down) / _MANY, _MOST_CONTROL_BYTES
        )
    )
    figures += [
        Figure(f"leader's control, {_MANY} learners", "ms", Spread.of([many.leader_s * 1e3])),
        Figure(f"a learner's control, {_MANY} learners", "ms", Spread.of([many.learner_s / _MANY * 1e3])),
    ]
    return tuple(promised), tuple(figures)


def _of_size(size: int, turns: int) -> Mapping[str, float]:
    """Median seconds of each part, all measured in turns."""
    cohort = Cohort(LEARNERS, lost=1)
    unmask = cohort.close()
    found = seeds(unmask.seated, unmask.survivors, unmask.answers, MODEL)
    words = np.random.default_rng(1).integers(0, 1 << 32, size).astype(np.uint32)
    total = words.copy()
    values = np.random.default_rng(2).standard_normal(size).astype(np.float32)
    exact, room = ExactSum(size, Scale.of(1024.0, 1 << 16)), np.empty(words.nbytes + 15, np.uint8)
    keys = [bytes([number]) * 32 for number in range(LEARNERS)]
    minus, plus = [s[:32] for s in found.minus], [s[:32] for s in found.plus]
    ring = Ring(32, LEARNERS, 8.0)
    parts: dict[str, Callable[[], Any]] = {
        "one stream": lambda: _encryptor().update_into(words.data.cast("B"), room.data),
        "encode": lambda: ring.levels(values),
        "mask": lambda: add_streams(words, keys),
        "mask on 2 threads": lambda: add_streams(words, keys, threads=2),
        "unmask": lambda: add_streams(total, plus, minus),
        "add": lambda: np.add(total, words, out=total),
        "exact add": lambda: exact.add(values, 1),
    }
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(turns):
        for name, part in parts.items():
            began = time.perf_counter()
            part()
            taken[name].append(time.perf_counter() - began)
    return {name: Spread.of(seconds).median for name, seconds in taken.items()}


def _encryptor() -> Any:
    return Cipher(AES(bytes(32)), CTR(bytes(16))).encryptor()
