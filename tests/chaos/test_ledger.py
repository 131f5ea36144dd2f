"""The ledger: a run that went as it must passes, each way of losing something is told."""

from __future__ import annotations

import pytest

from tests.chaos.ledger import Ledger, Truth, ViolationError
from tests.chaos.plan import Fault, Kind
from tests.chaos.process import Entry

TRUTH = {number: Truth(1.0 / number, 300) for number in (1, 2, 3)}
KILL = Fault(0, Kind.KILL, 1, "", 2, 0.5, 0.5)


class Hearing:
    """A ledger for two shards, and a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ledger = Ledger(TRUTH, 2, clock=lambda: self.now)

    def leader(self, event: str, **fields: object) -> None:
        self.ledger.hear(0, "leader-001", {"event": event, **fields})

    def learner(self, process: str, entry: Entry) -> None:
        self.ledger.hear(1, process, entry)

    def accept(self, count: int) -> None:
        for _ in range(count):
            self.leader("UpdateAccepted", learner_id=1)

    def round(self, number: int) -> None:
        """One round that goes well."""
        self.leader("RoundStarted", round=number)
        self.accept(2)
        self.leader("StepApplied", round=number, step=0, loss=1.0 / number)
        self.leader("RoundCommitted", round=number, loss=1.0 / number, examples=300)


@pytest.fixture
def hearing() -> Hearing:
    hearing = Hearing()
    hearing.leader("RunStarted", resumed_round=0)
    return hearing


def made(work_id: str, shard: int = 0) -> Entry:
    return {"event": "UpdateMade", "round": 1, "step": 0, "part": f"shard-{shard}", "work_id": work_id}


def test_an_undisturbed_run_passes(hearing: Hearing) -> None:
    for number in TRUTH:
        hearing.round(number)
    hearing.leader("RunFinished", round=3, reason="")

    assert hearing.ledger.committed == 3
    assert hearing.ledger.open_round == 4


def test_a_round_that_is_begun_again_is_counted_for_the_fault(hearing: Hearing) -> None:
    hearing.round(1)
    hearing.leader("RoundStarted", round=2)
    hearing.accept(1)
    hearing.now += 5
    hearing.ledger.struck(KILL)
    hearing.leader("RunStarted", resumed_round=1)
    hearing.now += 3
    hearing.round(2)

    (injury,) = hearing.ledger.injuries
    assert (injury.round, injury.at_s, injury.begun_again, injury.recovered_s) == (2, 5.0, 1, 3.0)


def test_a_commit_that_the_leader_could_not_tell_of_is_taken_from_its_restart(hearing: Hearing) -> None:
    hearing.round(1)
    hearing.leader("RoundStarted", round=2)
    hearing.leader("RunStarted", resumed_round=2)
    hearing.round(3)

    assert hearing.ledger.committed == 3


def test_a_restart_that_forgot_a_committed_round_is_a_violation(hearing: Hearing) -> None:
    hearing.round(1)
    hearing.round(2)
    with pytest.raises(ViolationError, match="resumed after round 1; 2 was committed"):
        hearing.leader("RunStarted", resumed_round=1)


def test_a_round_that_is_left_out_is_a_violation(hearing: Hearing) -> None:
    hearing.round(1)
    with pytest.raises(ViolationError, match="round 3 began after the commit of round 1"):
        hearing.leader("RoundStarted", round=3)


@pytest.mark.parametrize("count", [1, 3])
def test_a_step_without_exactly_every_shard_is_a_violation(hearing: Hearing, count: int) -> None:
    hearing.leader("RoundStarted", round=1)
    hearing.accept(count)
    with pytest.raises(ViolationError, match=f"closed with {count} updates of 2 shards"):
        hearing.leader("StepApplied", round=1, step=0, loss=1.0)


def test_a_step_that_is_done_again_with_another_loss_is_a_violation(hearing: Hearing) -> None:
    hearing.leader("RoundStarted", round=1)
    hearing.accept(2)
    hearing.leader("StepApplied", round=1, step=0, loss=1.0)
    hearing.leader("RunStarted", resumed_round=0)
    hearing.leader("RoundStarted", round=1)
    hearing.accept(2)
    with pytest.raises(ViolationError, match=r"again with loss 1\.25; it had 1\.0"):
        hearing.leader("StepApplied", round=1, step=0, loss=1.25)


@pytest.mark.parametrize(("loss", "examples"), [(0.75, 300), (1.0, 200)])
def test_a_commit_that_differs_from_the_undisturbed_run_is_a_violation(
    hearing: Hearing, loss: float, examples: int
) -> None:
    hearing.leader("RoundStarted", round=1)
    with pytest.raises(ViolationError, match="undisturbed it was"):
        hearing.leader("RoundCommitted", round=1, loss=loss, examples=examples)


def test_late_and_repeated_updates_are_counted_and_any_other_refusal_is_a_violation(hearing: Hearing) -> None:
    refusal = {"method": "AccumulateGradients", "reason": "because", "suppressed": 0}
    hearing.ledger.struck(KILL)
    hearing.leader("CallRefused", kind="LateUpdateError", **refusal)
    hearing.leader("CallRefused", kind="DuplicateUpdateError", **{**refusal, "suppressed": 2})
    assert hearing.ledger.injuries[0].refused == 4

    with pytest.raises(ViolationError, match="refused with PayloadError: because"):
        hearing.leader("CallRefused", kind="PayloadError", **refusal)


def test_training_again_is_counted_and_while_the_update_is_held_a_violation(hearing: Hearing) -> None:
    hearing.ledger.struck(KILL)
    hearing.learner("learner-1-002", made("w1"))
    hearing.learner("learner-1-005", made("w1"))
    assert hearing.ledger.injuries[0].trained_again == 1

    hearing.learner("learner-1-005", made("w2", shard=1))
    with pytest.raises(ViolationError, match="while it held the update"):
        hearing.learner("learner-1-005", made("w1"))


def test_an_update_that_is_sent_again_is_counted_for_the_fault(hearing: Hearing) -> None:
    hearing.ledger.struck(KILL)
    again = {"event": "log", "message": "round 2: sending the update again that was made before"}
    hearing.learner("learner-1-002", again)

    assert hearing.ledger.injuries[0].sent_again == 1


def test_an_exception_in_any_log_is_a_violation(hearing: Hearing) -> None:
    with pytest.raises(ViolationError, match="learner-1-002 failed"):
        hearing.learner("learner-1-002", {"event": "log", "message": "oh", "exception": "Traceback ..."})


@pytest.mark.parametrize(("number", "reason"), [(2, ""), (3, "stopped by SIGTERM")])
def test_an_end_before_the_last_round_is_a_violation(hearing: Hearing, number: int, reason: str) -> None:
    for committed in range(1, number + 1):
        hearing.round(committed)
    with pytest.raises(ViolationError, match="the run ended after round"):
        hearing.leader("RunFinished", round=number, reason=reason)
