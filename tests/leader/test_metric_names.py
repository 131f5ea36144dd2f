from __future__ import annotations

import pytest

from leader.metric_names import Mode, headline, is_better, lower_is_better, show


@pytest.mark.parametrize(
    ("metric", "mode", "lower"),
    [
        ("test_accuracy", "auto", False),
        ("test_loss", "auto", True),
        ("federated.loss", "auto", True),
        ("test_val_loss", "auto", True),
        ("test_mae", "auto", False),
        ("test_mae", "min", True),
        ("test_loss", "max", False),
    ],
)
def test_which_way_is_better_goes_by_the_mode_or_by_the_name(metric: str, mode: Mode, lower: bool) -> None:
    assert lower_is_better(metric, mode) is lower


@pytest.mark.parametrize(
    ("value", "best", "lower", "better"),
    [
        (0.5, None, False, True),
        (0.5, 0.4, False, True),
        (0.5, 0.5, False, False),
        (0.5, 0.4, True, False),
        (0.3, 0.4, True, True),
        (float("nan"), None, False, False),
        (float("inf"), 0.4, False, False),
        (float("-inf"), 0.4, True, False),
    ],
)
def test_better_is_strictly_better_and_finite(
    value: float, best: float | None, lower: bool, better: bool
) -> None:
    assert is_better(value, best, lower=lower) is better


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["loss", "f1", "accuracy"], "accuracy"),
        (["loss", "mae", "f1"], "mae"),
        (["loss"], "loss"),
        ([], None),
    ],
)
def test_the_headline_is_accuracy_or_the_first_that_is_no_loss(names: list[str], chosen: str | None) -> None:
    assert headline(names) == chosen


def test_accuracies_are_shown_in_per_cent() -> None:
    assert (show("accuracy", 0.6125), show("top5_accuracy", 1.0), show("loss", 1.5)) == (
        "61.25%",
        "100.00%",
        "1.5000",
    )
