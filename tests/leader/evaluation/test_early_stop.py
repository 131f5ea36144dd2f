from __future__ import annotations

import math

import pytest

from leader.evaluation.early_stop import EarlyStop
from leader.metric_names import Mode


def run(stop: EarlyStop, values: list[float], metric: str = "test_accuracy") -> tuple[int, str] | None:
    """(round, reason) of the stop when these are the values after rounds 1, 2, ..."""
    for round_, value in enumerate(values, start=1):
        reason = stop.see(round_, {metric: value, "test_other": 9.0})
        if reason is not None:
            return round_, reason
    return None


def test_a_target_stops_at_the_first_round_that_reaches_it() -> None:
    stop = EarlyStop("test_accuracy", "auto", target=0.8, patience=0)
    assert run(stop, [0.5, 0.79999, 0.8, 0.9]) == (
        3,
        "test_accuracy 0.8 after round 3 reached the target 0.8",
    )


@pytest.mark.parametrize(
    ("metric", "mode", "stops"),
    [("test_loss", "auto", 3), ("test_loss", "max", 1), ("test_mae", "auto", 1), ("test_mae", "min", 3)],
)
def test_a_target_for_a_loss_is_reached_from_above(metric: str, mode: Mode, stops: int) -> None:
    found = run(EarlyStop(metric, mode, target=0.5, patience=0), [2.0, 1.0, 0.4], metric)
    assert found is not None
    assert found[0] == stops


def test_patience_counts_evaluations_since_the_best_one() -> None:
    stop = EarlyStop("test_accuracy", "auto", target=None, patience=2)
    assert run(stop, [0.5, 0.4, 0.6, 0.6, 0.55, 0.9]) == (
        5,
        "test_accuracy has not been better than 0.6 (round 3) in the last 2 evaluations",
    )


def test_a_value_that_is_not_a_number_is_never_better_and_hides_no_later_one() -> None:
    nan = math.nan
    assert run(EarlyStop("test_loss", "auto", None, patience=2), [nan, 1.0, nan, 0.5], "test_loss") is None
    assert run(EarlyStop("test_loss", "auto", None, patience=2), [nan, nan, 1.0], "test_loss") == (
        2,
        "test_loss has not been finite in the last 2 evaluations",
    )
    assert run(EarlyStop("test_loss", "auto", target=0.5, patience=0), [nan, 1.0], "test_loss") is None


def test_rounds_without_the_metric_and_rounds_seen_before_count_for_nothing() -> None:
    stop = EarlyStop("test_accuracy", "auto", None, patience=2)
    assert stop.see(1, {"test_accuracy": 0.5}) is None
    assert stop.see(2, {"test_accuracy": 0.4}) is None
    assert stop.see(2, {"test_accuracy": 0.4}) is None  # evaluated again after a restart
    assert stop.see(3, {"federated.accuracy": 0.1}) is None
    assert stop.see(0, {"test_accuracy": 0.1}) is None
    assert stop.see(4, {"test_accuracy": 0.5}) is not None


def test_a_reason_stays() -> None:
    stop = EarlyStop("test_accuracy", "auto", target=0.5, patience=0)
    first = stop.see(1, {"test_accuracy": 0.6})
    assert stop.see(2, {"test_accuracy": 0.1}) == first == stop.reason


def test_without_target_and_patience_nothing_stops() -> None:
    stop = EarlyStop("test_accuracy", "auto", None, 0)
    assert not stop.can_stop
    assert run(stop, [0.5] * 50) is None
