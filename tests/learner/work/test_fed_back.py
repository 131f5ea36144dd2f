"""What masks of 16 bits lose is remembered as what codecs lose is: until an update counts, nothing changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from learner.memory import Memory
from learner.training.update import Update
from learner.wire.masked_update import MaskedUpdate
from learner.work.workbench import Assignments, Tools
from model.layout import Entry, Layout
from protos import leader_pb2
from tests.secagg import order, plan

SIZE = 50
LAYOUT = Layout((Entry("w", (SIZE,), 0, SIZE),), ())
BASE = np.zeros(SIZE, np.float32)
PLAN = plan(4, bits=16, range=8.0)


@pytest.fixture(params=["in memory", "on disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where a learner keeps what it remembers, if it does."""
    return tmp_path if request.param == "on disk" else None


class Learner:
    """A learner that is told of rounds; `restarted` is one that is started anew."""

    def __init__(self, folder: Path | None) -> None:
        self.memory = Memory(folder)
        run = leader_pb2.RunDescription(run_id="run-1")
        self._assignments = Assignments(run, Tools(torch.device("cpu")), self.memory, LAYOUT)

    def make(self, round_: int, counted: int, attempt: int = 0) -> MaskedUpdate:
        """Its update of a round, whose order says which round's was counted last."""
        asked = order("own", PLAN, round=round_, counted_round=counted, seed=round_ + 100 * attempt)
        asked.masking.attempt = attempt
        values = np.random.default_rng(asked.seed).normal(0, 1e-4, SIZE).astype(np.float32)
        made = self._assignments.made(asked, BASE, "own", Update(values, 24, 24, 0.5, 1.0))
        assert isinstance(made, MaskedUpdate)
        return made

    def taken(self, round_: int) -> None:
        """The leader has taken its update in, and later says that the round is on disk."""
        self.memory.counted("own")
        self.memory.committed(round_)


def fed_back(update: MaskedUpdate) -> list[int]:
    words: list[int] = update.words.tolist()
    return words


def test_an_update_that_never_counted_gives_back_what_it_took(folder: Path | None) -> None:
    """Here in the sum of an attempt that nobody unmasked, without having heard of the next one."""
    one = Learner(folder)
    one.make(1, 0)
    one.taken(1)
    expected = fed_back(one.make(3, 1))

    again = Learner(None)
    again.make(1, 0)
    again.taken(1)
    again.make(2, 1)
    again.taken(2)
    assert fed_back(again.make(3, 1)) == expected
    assert fed_back(again.make(3, 1)) == expected  # the order came again
    assert fed_back(again.make(4, 3)) == fed_back(one.make(4, 3))


def test_an_update_that_counted_is_remembered_whatever_was_heard(folder: Path | None) -> None:
    heard, deaf, without = Learner(folder), Learner(None), Learner(None)
    for one in (heard, deaf):
        one.make(1, 0)
    heard.taken(1)
    found = [fed_back(one.make(2, counted)) for one, counted in ((heard, 1), (deaf, 1), (without, 0))]
    assert found[0] == found[1] != found[2]


def test_the_next_attempt_of_a_round_starts_where_the_one_before_did(folder: Path | None) -> None:
    tried, once = Learner(folder), Learner(None)
    for one in (tried, once):
        one.make(1, 0)
    tried.make(2, 1)
    tried.memory.counted("own")
    assert fed_back(tried.make(2, 1, attempt=1)) == fed_back(once.make(2, 1, attempt=1))
    assert fed_back(tried.make(3, 2)) == fed_back(once.make(3, 2))


def test_a_refused_update_gives_back_what_it_took(folder: Path | None) -> None:
    refused, once = Learner(folder), Learner(None)
    for one in (refused, once):
        one.make(1, 0)
    refused.make(2, 1)
    refused.memory.refused("own")
    assert fed_back(refused.make(2, 1)) == fed_back(once.make(2, 1))


def test_a_learner_that_ends_between_rounds_goes_on_from_what_it_wrote_down(tmp_path: Path) -> None:
    steady = Learner(None)
    ended = [fed_back(Learner(tmp_path).make(round_, round_ - 1)) for round_ in range(1, 6)]
    assert ended == [fed_back(steady.make(round_, round_ - 1)) for round_ in range(1, 6)]
    fresh = [fed_back(Learner(None).make(round_, round_ - 1)) for round_ in range(1, 6)]
    assert ended[0] == fresh[0]
    assert ended != fresh


@pytest.mark.parametrize("bits", [32, 64])
def test_what_an_algorithm_remembers_holds_once_its_round_is_in_a_sum_too(
    folder: Path | None, bits: int
) -> None:
    """Such as SCAFFOLD's variates; the sum of round 2 was never unmasked, or did not have this learner's update."""
    found = []
    for counted in (1, 2):
        learner = Learner(folder)
        for round_, value in ((1, 1.0), (2, 2.0)):
            masks = plan(4, bits=bits, range=8.0)
            asked = order("own", masks, round=round_, counted_round=round_ - 1)
            remembered = {"control": np.full(3, value, np.float32)}
            learner._assignments.made(asked, BASE, "own", Update(BASE, 24, 24, 0.5, 1.0, remembered))
            learner.taken(round_)
        found.append(learner.memory.of("own", 3, counted=counted)["control"].tolist())
    assert found == [[1.0] * 3, [2.0] * 3]
