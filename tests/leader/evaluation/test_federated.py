from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.evaluation.federated import FederatedScores, check_metrics
from leader.events import Spread
from protos import leader_pb2
from utils.errors import LimitError, PayloadError


def metric(name: str = "accuracy", value: float = 0.5, examples: int = 10) -> leader_pb2.Metric:
    return leader_pb2.Metric(name=name, value=value, examples=examples)


def header(*metrics: leader_pb2.Metric) -> leader_pb2.UpdateHeader:
    return leader_pb2.UpdateHeader(metrics=metrics)


def collected(values: list[tuple[float, int]], name: str = "accuracy") -> Spread:
    scores = FederatedScores()
    for number, (value, examples) in enumerate(values):
        scores.add(f"own-{number:03}", (metric(name, value, examples),))
    return scores.spreads()[name]


def test_sound_metrics_are_taken_as_they_are() -> None:
    largest = math.nextafter(2.0**128, 0)
    sound = (metric("a.b_C9", -largest, 1), metric("x" * 64, largest, 40))
    assert check_metrics(header(*sound), 40) == sound
    assert check_metrics(header(*(metric(f"m{i}") for i in range(32))), 10)[31].name == "m31"
    assert check_metrics(None, 10) == ()
    assert check_metrics(header(*sound), 0) == ()  # nobody asked


def test_scores_weigh_no_more_than_what_their_part_holds_out() -> None:
    with pytest.raises(LimitError, match="metric loss claims 6 held-out examples, its part has 5 at most"):
        check_metrics(header(metric(examples=5), metric("loss", examples=6)), 5)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ([metric(f"m{i}") for i in range(33)], "33 metrics; at most 32"),
        ([metric("")], "metric name '' is not"),
        ([metric("x" * 65)], "is not 1 to 64 letters"),
        ([metric("top-5")], "metric name 'top-5'"),
        ([metric("a\n")], r"metric name 'a\\n'"),
        ([metric(value=math.nan)], "metric accuracy is nan; it must be finite"),
        ([metric(value=-math.inf)], "metric accuracy is -inf"),
        ([metric(value=2.0**128)], "below 2"),
        ([metric(examples=0)], "metric accuracy has no examples"),
        ([metric("loss"), metric(), metric("loss")], "metric loss is there twice"),
    ],
)
def test_metrics_that_cannot_be_meant_are_refused(metrics: list[leader_pb2.Metric], words: str) -> None:
    for most in (0, 10):
        with pytest.raises(PayloadError, match=words):
            check_metrics(header(*metrics), most)


def test_a_spread_has_the_values_of_the_textbook() -> None:
    assert collected([(0.25, 10), (1.0, 30), (0.0, 60), (0.75, 100)]) == Spread(
        mean=107.5 / 200,
        unweighted_mean=0.5,
        variance=0.15625,  # (0.25² + 0.5² + 0.5² + 0.25²) / 4
        std=math.sqrt(0.15625),
        worst_decile=0.0,
        min=0.0,
        max=1.0,
        learners=4,
        examples=200,
    )


@pytest.mark.parametrize(
    ("learners", "of_accuracy", "of_loss"), [(1, 0, 0), (19, 0, 18), (20, 0.5, 18.5), (39, 1, 37)]
)
def test_the_worst_tenth_is_the_lowest_but_of_a_loss_the_highest(
    learners: int, of_accuracy: float, of_loss: float
) -> None:
    values = [(float(value), 1) for value in range(learners)]
    assert collected(values)["worst_decile"] == of_accuracy
    assert collected(values, "loss")["worst_decile"] == of_loss


@given(
    values=st.lists(
        st.tuples(st.floats(-(2.0**127), 2.0**127), st.integers(1, 1 << 40)), min_size=1, max_size=5
    )
)
def test_the_bits_are_the_same_in_whatever_order_scores_arrive(values: list[tuple[float, int]]) -> None:
    found = set()
    for order in itertools.permutations(range(len(values))):
        scores = FederatedScores()
        for number in order:
            scores.add(f"own-{number}", (metric("accuracy", *values[number]),))
        spread = scores.spreads()["accuracy"]
        assert all(math.isfinite(value) for value in spread.values())  # type: ignore[arg-type]
        found.add(tuple(spread.values()))
    assert len(found) == 1


def test_each_metric_is_taken_over_the_learners_that_sent_it_and_a_part_counts_once() -> None:
    scores = FederatedScores()
    assert scores.spreads() == {}
    scores.add("own-a", (metric("loss", 9.0), metric("accuracy", 0.1)))
    scores.add("own-b", (metric("loss", 1.0),))
    scores.add("own-a", (metric("loss", 3.0), metric("accuracy", 0.1)))  # sent again by another holder
    spreads = scores.spreads()
    assert list(spreads) == ["accuracy", "loss"]
    assert (spreads["accuracy"]["learners"], spreads["loss"]["learners"]) == (1, 2)
    assert (spreads["loss"]["mean"], spreads["loss"]["max"]) == (2.0, 3.0)
