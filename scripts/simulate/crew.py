"""The crew: all virtual learners of a run, each with a place in the leader's register like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from leader.app import App
from leader.data.part import Part
from leader.learners.links import LearnerLink
from leader.learners.membership import Member
from leader.trust.identities.callers import Caller
from learner.memory import Memory
from learner.secagg.member import Floors
from learner.secagg.sessions import MaskSessions
from learner.secagg.vow import Vows
from learner.work.workbench import Assignments
from model.task import Examples
from protos import leader_pb2
from scripts.simulate.agenda import Agenda, Job
from scripts.simulate.clock import VirtualClock
from scripts.simulate.parts import Brought, PartOf
from scripts.simulate.pool import Pool
from scripts.simulate.wire import Downloads, message_bytes, shard_bytes
from utils.codecs import CUT, KINDS
from utils.datasets import Dataset
from utils.errors import LateUpdateError
from utils.secagg.roster import VERSION
from utils.version import PROTOCOL, RELEASE


class VirtualLink(LearnerLink):
    """The leader's link to one virtual learner; see LearnerLink."""

    addressed = False  # the crew is, for all of them

    def __init__(self, crew: Crew, member: Member) -> None:
        self._crew = crew
        self._member = member

    def work(self, order: leader_pb2.WorkOrder) -> None:
        """See LearnerLink."""
        self._crew.take(self._member, order)
        self._crew.say(self._member, self._crew.masks_of(self._member).ordered(order))

    def mask(self, message: leader_pb2.MaskDown) -> None:
        """See LearnerLink."""
        self._crew.say(self._member, self._crew.masks_of(self._member).heard(message))


@dataclass
class Crew(LearnerLink):
    """Takes orders for everybody: fetches what they need, as counted bytes, and has them trained.

    What all learners are told it hears once.
    """

    app: App
    clock: VirtualClock
    agenda: Agenda
    pool: Pool
    assignments: Assignments
    memory: Memory
    data: Dataset | None  # the leader's
    _masks: dict[str, MaskSessions] = field(default_factory=dict)  # by learner, of those that had work
    _own: dict[str, Examples] = field(default_factory=dict)  # by learner
    _shards: dict[int, PartOf] = field(default_factory=dict)
    _fetched: set[tuple[int, int]] = field(default_factory=set)  # learner, shard
    _bases: dict[int, int] = field(default_factory=dict)  # version that a learner has, by learner

    def __post_init__(self) -> None:
        self._downloads = Downloads(self.app.layout)
        self.app.coordinator.workforce.address(self)

    def register(self, count: int, brought: Sequence[Brought], frozen: str = "") -> None:
        """Let learner-00000 and so on join, with their own data if they bring any; `frozen` as they have it."""
        for number in range(count):
            own, name = brought[number] if brought else None, f"learner-{number:05d}"
            info = leader_pb2.LearnerInfo(
                protocol=PROTOCOL,
                release=RELEASE,
                name=name,
                device="virtual",
                control=leader_pb2.CONTROL_SESSION,
                own_data=own.said if own else None,
                codecs=(*KINDS, CUT, "zstd"),
                secagg=VERSION,
                frozen=frozen,
            )
            caller = Caller(
                name, "learner", "", name
            )  # known, so that a resumed run takes it for the same one
            member = self.app.coordinator.workforce.register(info, caller)
            if own:
                self._own[member.name] = own.examples
            self.app.coordinator.workforce.attach(member, VirtualLink(self, member))

    def take(self, member: Member, order: leader_pb2.WorkOrder) -> None:
        """Take a work order in hand for `member`; one that is in hand already is not taken twice."""
        if order.work_id in self.agenda:
            return
        try:
            version = self.app.coordinator.versions.get(order.version)
        except LateUpdateError:
            self.app.coordinator.desk.outdated(member, order.version)
            return
        examples, part = self._examples(member, order)
        have = self._bases.get(member.learner_id)
        if have != order.version:
            self._bases[member.learner_id] = order.version
            self.app.coordinator.traffic.down += message_bytes(version, have)
        assignment = self.assignments.of(order, self._downloads.read(version), examples, part)
        finish = self.agenda.finish(member.name, assignment, self.clock.now())
        self.agenda.add(Job(member, part, assignment, finish, self.pool.train(assignment)))

    def masks_of(self, member: Member) -> MaskSessions:
        """The learner's part in masking sessions."""
        if (masks := self._masks.get(member.name)) is None:
            examples = member.own_data.examples if member.own_data else 0
            masks = MaskSessions(Vows(None), Floors(2), examples)  # the run's own least is meant
            run = self.app.description
            masks.registered(member.name, run.run_id, run.holdout)
            self._masks[member.name] = masks
        return masks

    def say(self, member: Member, message: leader_pb2.MaskUp | None) -> None:
        """Tell the leader what `member` says in a session of masks, if anything."""
        if message is not None:
            self.app.coordinator.masked(member, message)

    def _examples(self, member: Member, order: leader_pb2.WorkOrder) -> tuple[Examples, str]:
        """The order's examples and the part that they are."""
        if not order.HasField("shard"):
            return self._own[member.name], Part.own_id(member.name)
        assert self.data is not None
        if order.shard not in self._shards:
            indices = self.app.coordinator.workforce.shard_of(member, order.shard)
            self._shards[order.shard] = PartOf(self.data, indices)
        shard = self._shards[order.shard]
        if (member.learner_id, order.shard) not in self._fetched:
            self._fetched.add((member.learner_id, order.shard))
            image_shape = self.data.images.shape[1:]
            self.app.coordinator.traffic.down += shard_bytes(
                len(shard), image_shape, self.app.description.chunk_bytes
            )
        return shard, Part.shard_id(order.shard)

    def committed(self, round_: int, version: int) -> None:
        """See LearnerLink."""
        for masks in self._masks.values():
            masks.committed(round_)
        self.memory.committed(round_)
        self.agenda.give_up(round_, self.clock.now())
