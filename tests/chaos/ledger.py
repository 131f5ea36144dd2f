"""The invariants of a disturbed run, checked at every event, and what each fault cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.chaos.plan import LEADER, Fault
from tests.chaos.process import Entry

#: What an update may be refused with; anything else says that something else was sent than was made.
_HARMLESS = ("LateUpdateError", "DuplicateUpdateError", "UnknownLearnerError")


class ViolationError(Exception):
    """Something was lost, counted twice, or made no progress."""


@dataclass(frozen=True)
class Truth:
    """What the undisturbed run reported for one round."""

    loss: float
    examples: int


@dataclass
class Injury:
    """One fault that struck, and what it led to until the next one."""

    fault: Fault
    round: int  # that was open
    at_s: float  # since the disturbed run began
    begun_again: int = 0  # rounds
    sent_again: int = 0  # updates that a learner still held
    trained_again: int = 0  # updates that nobody held any more
    refused: int = 0  # late, repeated or unknown updates
    recovered_s: float | None = None  # until the next commit

    @property
    def text(self) -> str:
        """One line for people."""
        target = self.fault.target
        whom = f" (learner-{target})" if target > 0 else f" (edge-{-target})" if target < 0 else ""
        return f"{self.at_s:6.1f} s  round {self.round:3d}  {self.fault.name}{whom}"


@dataclass
class Ledger:
    """Hears every event of all processes of one run; raises ViolationError at the first wrong one."""

    truth: Mapping[int, Truth]  # by round
    shards: int
    on_struck: Callable[[Injury], None] = lambda injury: None
    clock: Callable[[], float] = time.monotonic
    injuries: list[Injury] = field(default_factory=list)
    committed: int = 0  # last round that is known to be on disk
    starts: int = 0  # of the leader

    def __post_init__(self) -> None:
        self.began = self.progress_at = self.clock()
        self._round = 0  # that was started last
        self._accepted = 0  # updates in the open exchange
        self._step_losses: dict[tuple[int, int], float] = {}
        self._made: set[str] = set()  # work ids
        self._held: dict[tuple[str, int], str] = {}  # work id by process and shard

    @property
    def open_round(self) -> int:
        """The round that is to be committed next."""
        return self.committed + 1

    def struck(self, fault: Fault) -> None:
        """`fault` has just been injected."""
        self.injuries.append(Injury(fault, self.open_round, self.clock() - self.began))
        self.on_struck(self.injuries[-1])

    def hear(self, target: int, process: str, entry: Entry) -> None:
        """Check what the process called `process` says."""
        if entry.get("exception"):
            raise ViolationError(f"{process} failed: {entry.get('message', '')}: {entry['exception']}")
        if target == LEADER:
            self._hear_leader(entry)
        elif target > 0:
            self._hear_learner(process, entry)

    def _hear_leader(self, entry: Entry) -> None:
        match entry["event"]:
            case "RunStarted":
                self._started(entry["resumed_round"])
            case "RoundStarted":
                self._begun(entry["round"])
            case "UpdateAccepted":
                self._accepted += 1
            case "StepApplied":
                self._stepped(entry["round"], entry["step"], entry["loss"])
            case "UpdatesLost":
                self._accepted -= len(entry["parts"])
            case "RoundAbandoned":
                self._accepted = 0
            case "RoundCommitted":
                self._commit(entry["round"], Truth(entry["loss"], entry["examples"]))
            case "CallRefused":
                self._refused(entry)
            case "RunFinished":
                self._finish(entry)

    def _hear_learner(self, process: str, entry: Entry) -> None:
        if entry["event"] == "UpdateMade":
            self._note_made(process, entry)
        elif "sending the update again" in entry.get("message", "") and self.injuries:
            self.injuries[-1].sent_again += 1

    def _started(self, resumed: int) -> None:
        self.starts += 1
        self._accepted = 0
        # A leader that died right after a checkpoint could not tell of it.
        if resumed not in (self.committed, self.committed + 1):
            raise ViolationError(f"the leader resumed after round {resumed}; {self.committed} was committed")
        if resumed > self.committed:
            self._progress(resumed)

    def _begun(self, number: int) -> None:
        if number != self.open_round:
            raise ViolationError(f"round {number} began after the commit of round {self.committed}")
        if number == self._round and self.injuries:
            self.injuries[-1].begun_again += 1
        self._round, self._accepted = number, 0

    def _stepped(self, number: int, step: int, loss: float) -> None:
        where = f"round {number} step {step}"
        if self._accepted != self.shards:
            raise ViolationError(f"{where} closed with {self._accepted} updates of {self.shards} shards")
        self._accepted = 0
        before = self._step_losses.setdefault((number, step), loss)
        if before != loss:
            raise ViolationError(f"{where} was done again with loss {loss!r}; it had {before!r} before")

    def _commit(self, number: int, told: Truth) -> None:
        if number != self.open_round:
            raise ViolationError(f"round {number} was committed after round {self.committed}")
        self.check_round(number, told)
        self._progress(number)

    def check_round(self, number: int, told: Truth) -> None:
        """Raise ViolationError unless the undisturbed run had the same loss and number of examples."""
        if told != self.truth.get(number):
            raise ViolationError(f"round {number}: {told}; undisturbed it was {self.truth.get(number)}")

    def _progress(self, number: int) -> None:
        self.committed = number
        self.progress_at = self.clock()
        for injury in self.injuries:
            if injury.recovered_s is None:
                injury.recovered_s = self.progress_at - self.began - injury.at_s

    def _refused(self, entry: Entry) -> None:
        if entry["method"] != "AccumulateGradients":
            return
        if entry["kind"] not in _HARMLESS:
            raise ViolationError(f"an update was refused with {entry['kind']}: {entry['reason']}")
        if self.injuries:
            self.injuries[-1].refused += 1 + int(entry["suppressed"])

    def _note_made(self, process: str, entry: Entry) -> None:
        work_id, place = entry["work_id"], (process, entry["part"])
        if self._held.get(place) == work_id:
            raise ViolationError(
                f"{process} trained round {entry['round']} shard {entry['part']} again while it held the update"
            )
        self._held[place] = work_id
        if work_id in self._made and self.injuries:
            self.injuries[-1].trained_again += 1
        self._made.add(work_id)

    def _finish(self, entry: Entry) -> None:
        if entry["reason"] or entry["round"] != self.committed or self.committed != len(self.truth):
            raise ViolationError(
                f"the run ended after round {entry['round']} of {len(self.truth)}: {entry['reason']}"
            )
