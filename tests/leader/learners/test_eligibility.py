from __future__ import annotations

import logging
from typing import Any

import pytest

from leader.trust.identities.callers import anonymous
from tests.leader.learners.crew import Crew, info
from utils.errors import IncompatibleError, LimitError, NotReadyError
from utils.secagg.roster import VERSION
from utils.version import EXAMPLE_PRIVACY


def test_learners_whose_data_does_not_fit_the_run_are_refused() -> None:
    crew = Crew(holder="learner")
    with pytest.raises(IncompatibleError, match=r"hands out no data .* start the learner with --data DIR"):
        crew.join("a")
    with pytest.raises(IncompatibleError, match="your data has 3 classes, this run's model 10"):
        crew.workforce.register(info("a", own=5, classes=3), anonymous("peer"))
    assert len(crew.workforce) == 0


def test_a_learner_brings_no_more_examples_than_the_config_lets_it() -> None:
    crew = Crew(data={"max_examples": 100})
    with pytest.raises(LimitError, match=r"you bring 101 examples, at most 100 .* \(data.max_examples\)"):
        crew.join("a", own=101)
    crew.join("a", own=100)
    assert len(crew.workforce) == 1
    with pytest.raises(LimitError, match=r"you bring 1000001 examples, at most 1000000 of one learner"):
        Crew().join("a", own=1_000_001)


def test_a_claim_that_no_exact_sum_could_hold_is_refused_before_it_can_end_a_run() -> None:
    wide: dict[str, Any] = {"data": {"max_examples": 1 << 36}, "aggregate": {"max_abs": 1.0}}
    crew = Crew(buffer={"size": 1024}, **wide)
    with pytest.raises(LimitError, match=r"a total weight of 70368744177664 .* leaves 15 fraction bits"):
        crew.join("a", own=1 << 36)
    crew.join("b", own=1 << 34)
    Crew(**wide).join("a", own=1 << 36)  # that counts once a round


def test_learners_that_do_not_meet_the_requirement_are_registered_and_hold_nothing() -> None:
    crew = Crew(learners=3, require="site-a")
    (a,) = crew.join("a", tags="site-a night")
    b, _ = crew.join("b", "c", tags="site-b")
    crew.join("d", own=5)
    crew.join("e", own=7, tags="site-a")
    crew.workforce.deal()
    assert len(crew.workforce) == 5
    assert crew.workforce.eligible() == 2
    # 3 wanted, 1 with own data: 2 shards.
    assert {part.id: part.examples for part in crew.workforce.parts().values()} == {
        "shard-00000": 30,
        "shard-00001": 30,
        "own-e": 7,
    }
    assert crew.workforce.holders() == {"shard-00000": 1, "shard-00001": 1, "own-e": 5}
    seats = crew.workforce.seats()
    assert seats is not None
    assert (seats.holders, seats.own) == ({"0": "a", "1": "a"}, 1)
    with pytest.raises(NotReadyError, match="b does not hold shard 0"):
        crew.workforce.shard_of(b, 0)
    crew.workforce.leave(a, "gone")
    crew.workforce.rebalance()
    assert crew.workforce.holders() == {"own-e": 5}
    assert not crew.workforce.enough()


def test_rounds_wait_until_somebody_meets_the_requirement() -> None:
    crew = Crew(learners=2, require="site-a")
    crew.dealt("a", "b")
    assert len(crew.workforce.parts()) == 2  # the data is split, though nobody may hold it yet
    assert crew.workforce.holders() == {}
    assert not crew.workforce.enough()
    (c,) = crew.join("c", tags="site-a")
    assert crew.workforce.holders() == {"shard-00000": c.learner_id, "shard-00001": c.learner_id}
    assert crew.workforce.enough()


def test_the_quorum_of_own_data_counts_those_that_take_part() -> None:
    crew = Crew(holder="learner", require="site-a")
    (a,) = crew.join("a", own=5, tags="site-a")
    crew.join("b", "c", own=5)
    crew.workforce.deal()
    assert crew.workforce.enough()
    crew.workforce.leave(a, "gone")
    assert not crew.workforce.enough()


def test_a_learner_that_comes_back_with_other_tags_gains_or_loses_its_place() -> None:
    crew = Crew(learners=2, require="site-a")
    a, b = crew.join("a", "b", tags="site-a")
    crew.workforce.deal()
    crew.workforce.register(info("b", token=b.token), anonymous("peer"))
    assert crew.workforce.holders() == {"shard-00000": a.learner_id, "shard-00001": a.learner_id}
    again = crew.workforce.get(b.learner_id)
    assert again is not None
    crew.workforce.register(info("b", token=again.token, tags="site-a"), anonymous("peer"))
    crew.workforce.rebalance()
    assert crew.workforce.holders() == {"shard-00000": a.learner_id, "shard-00001": b.learner_id}


def test_why_a_learner_is_left_out_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    crew = Crew(require="site-a,device=cuda,memory>=8")
    with caplog.at_level(logging.WARNING):
        (a,) = crew.join("a", tags="night b")
        for _ in range(3):
            a = crew.workforce.register(info("a", token=a.token, tags="night b"), anonymous("peer"))
        fit = info("c", tags="site-a")
        fit.device_kind, fit.memory_bytes = "cuda", 8 << 30
        crew.workforce.register(fit, anonymous("peer"))
    assert caplog.messages == [
        "a is left out, it does not meet cohort.require (site-a,device=cuda,memory>=8): "
        "it said tags b,night, device unknown, 0.0 GiB of memory"
    ]


@pytest.mark.parametrize(
    ("promises", "field", "ours", "message"),
    [
        (
            {"secagg": {"mode": "masked"}},
            "secagg",
            VERSION,
            r"a can't mask updates \(secagg.mode\): it needs a session",
        ),
        (
            {"dp": {"mode": "examples"}, "model": {"norm": "group"}},
            "example_privacy",
            EXAMPLE_PRIVACY,
            r"a can't hide its examples \(dp.mode=examples\): install",
        ),
    ],
)
def test_who_can_not_keep_what_the_run_promises_has_no_part_in_it(
    promises: dict[str, Any], field: str, ours: int, message: str
) -> None:
    crew = Crew(learners=3, holder="learner", **promises)
    said = info("a", own=5)
    for version in (0, ours + 1):
        setattr(said, field, version)
        with pytest.raises(IncompatibleError, match=message):
            crew.workforce.register(said, anonymous("peer"))
    setattr(said, field, ours)
    crew.workforce.register(said, anonymous("peer"))
    assert len(crew.workforce) == 1
