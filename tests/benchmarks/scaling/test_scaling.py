from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.result import Result
from benchmarks.scaling.laws import Runs, fitted
from benchmarks.scaling.learners import laws, memory_target
from benchmarks.scaling.learners_run import CrowdRun
from benchmarks.scaling.page import draw_scaling, laws_of, page
from benchmarks.scaling.scaling import COSTS, COUNTS, ELEMENTS, result_of
from benchmarks.scaling.training import TrainingRun
from benchmarks.spread import Spread
from model.layout import Layout
from model.registry import build_model

MACHINE = {"cores": 2, "cpu": "a CPU", "system": "Linux", "load_1min": 0.1} | dict.fromkeys(
    ("python", "torch", "numpy"), "1"
)


def run(learners: int, elements: int, peak: float = 0.0) -> CrowdRun:
    """A run that follows laws of its own, to the letter."""
    moved = learners * (5000 + 4 * elements)
    seconds = 0.01 + 0.002 * learners + 1e-9 * elements + 6e-9 * learners * elements
    return CrowdRun(
        learners=learners,
        round_s=Spread.of([seconds]),
        leader_cpu_s=Spread.of([0.7 * seconds]),
        crowd_cpu_s=Spread.of([0.3 * seconds]),
        before_bytes=600_000_000,
        peak_bytes=int(peak or 600e6 + 24 * elements),
        up_bytes=moved,
        down_bytes=moved,
        received_bytes=moved,
        sent_bytes=moved,
        wire_ratio=1.0001,
    )


def points() -> dict[tuple[int, ...], CrowdRun]:
    return {(count, elements): run(count, elements) for elements in ELEMENTS.values() for count in COUNTS}


def result(runs: Runs) -> Result:
    return result_of(runs, [TrainingRun(count, Spread.of([2.0]), 100.0, 0.01) for count in COUNTS])


@pytest.mark.parametrize("model", ELEMENTS)
def test_the_sizes_are_those_of_the_models(model: str) -> None:
    assert Layout.of(build_model(model)).total == ELEMENTS[model]


def test_the_counts_between_the_fewest_and_the_most_are_predicted() -> None:
    predicted = {point for point in points() if not fitted(point, points())}
    assert predicted == {(count, elements) for count in (2, 4) for elements in ELEMENTS.values()}


def test_costs_that_follow_a_law_are_predicted_without_error() -> None:
    assert max(target.value for target in result(points()).targets) < 0.01
    assert all(target.met for target in result(points()).targets)


def test_the_worst_predicted_point_is_the_one_that_counts() -> None:
    runs = points()
    seconds = COSTS[0]
    law = seconds.law(runs)
    slow = (4, ELEMENTS["resnet18"])
    runs[slow] = replace(runs[slow], round_s=runs[slow].round_s.scaled(2.0))
    target = seconds.target(law, runs)
    assert target.value == pytest.approx(50.0, abs=0.1)  # half of what it was
    assert not target.met


def test_the_page_has_every_point_and_the_laws_that_the_result_says(tmp_path: Path) -> None:
    found = result(points())
    text = page(found, MACHINE)
    assert text.count(" M *") == sum(fitted(point, points()) for point in points())
    assert "| leader CPU | a learner and a million parameters | 4.2 ms |" in text
    assert laws_of(found)["leader CPU"](3, 5e6) == pytest.approx(
        0.7 * (0.01 + 0.006 + 0.005 + 0.09), rel=1e-3
    )
    draw_scaling(found.series, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes()[1:4] == b"PNG"


def test_the_memory_promise_compares_few_and_many_learners() -> None:
    target = memory_target([run(4, 10, peak=1e9), run(8, 10, peak=5e9), run(64, 10, peak=1.4e9)])
    assert target is not None
    assert target.value == pytest.approx(1.4)
    assert not target.met
    assert memory_target([run(4, 10)]) is None


def test_the_slopes_are_those_of_the_points() -> None:
    idle, large = [run(count, 0) for count in COUNTS], [run(count, 10**7) for count in COUNTS]
    found = laws(idle, large)
    assert found["idle: leader CPU ms a learner"] == pytest.approx(1.4)
    assert found["ResNet-18: leader CPU s a GB moved"] == pytest.approx(0.7 * 0.062 / 2 / 0.040005)
