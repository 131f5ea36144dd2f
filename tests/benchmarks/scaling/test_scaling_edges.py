from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scaling.laws import Runs
from benchmarks.scaling.learners_run import CrowdRun
from benchmarks.scaling.scaling import ELEMENTS
from benchmarks.scaling.scaling_edges import EDGES, FEW, LEARNERS, MANY, result_of
from benchmarks.spread import Spread


def run(learners: int, elements: int, edges: int, peak: float = 0.0) -> CrowdRun:
    """A run that follows laws of its own, to the letter."""
    seconds = 0.01 + 0.001 * learners + (1e-8 + 2e-8 * edges + 3e-9 * learners) * elements
    return CrowdRun(
        learners=learners,
        round_s=Spread.of([seconds]),
        leader_cpu_s=Spread.of([seconds]),
        crowd_cpu_s=Spread.of([seconds]),
        before_bytes=600_000_000,
        peak_bytes=int(peak),
        up_bytes=0,
        down_bytes=0,
        received_bytes=learners * 500 + 8 * edges * elements,
        sent_bytes=learners * 700 + 4 * edges * elements,
        wire_ratio=1.0,
    )


def points() -> dict[tuple[int, ...], CrowdRun]:
    return {
        (learners, elements, edges): run(learners, elements, edges)
        for elements in (ELEMENTS["resnet9-w16"], ELEMENTS["resnet18"])
        for edges in EDGES
        for learners in LEARNERS
    }


def crowds(kib: float) -> dict[int, CrowdRun]:
    return {count: run(count, 10_000, 2, peak=6e8 + count * kib * 1024) for count in (FEW, MANY)}


def medians(runs: Runs, kib: float, kib_a_session: float) -> dict[str, float]:
    found = result_of(runs, crowds(kib), kib_a_session)
    return {figure.name: figure.spread.median for figure in found.figures} | dict(found.ratios)


def test_the_laws_are_those_of_the_points() -> None:
    found = medians(points(), 60.0, 50.0)
    assert found["law of leader CPU: a learner"] == pytest.approx(1.0)
    assert found["law of leader CPU: an edge and a million parameters"] == pytest.approx(20.0)
    assert found["law of leader CPU: a learner and a million parameters beside it"] == pytest.approx(3.0)
    assert found["law of bytes up: an edge and parameter"] == pytest.approx(8.0)
    assert found["law of bytes down: a learner"] == pytest.approx(700)
    assert all(target.value < 0.01 for target in result_of(points(), crowds(50.0), 50.0).targets[:3])


def test_a_point_between_that_costs_more_is_an_error_of_the_law() -> None:
    runs = points()
    slow = (4, ELEMENTS["resnet18"], 2)
    runs[slow] = replace(runs[slow], leader_cpu_s=runs[slow].leader_cpu_s.scaled(2.0))
    target = result_of(runs, crowds(50.0), 50.0).targets[0]
    assert target.value == pytest.approx(50.0, abs=0.1)
    assert not target.met


def test_a_learner_may_hold_hardly_more_than_its_session() -> None:
    for kib, met in ((54.0, True), (60.0, False)):
        target = result_of(points(), crowds(kib), 50.0).targets[-1]
        assert target.value == pytest.approx(kib / 50.0, rel=1e-3)
        assert target.met is met
