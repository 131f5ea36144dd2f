"""Noise in shares, as the leader plans, charges and tells it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leader.config import RunConfig
from leader.dp.distributed import DistributedPrivacy
from leader.dp.noise import Mechanism
from leader.dp.privacy import open_privacy
from leader.state import RunState
from model.layout import Entry, Layout
from protos import leader_pb2
from tests.vectors import vectors
from utils.dp.shares import check_noise, multiplier_of, room_of
from utils.errors import ConfigError, PrivacyError

SIZE, LEARNERS = 40_000, 16
LAYOUT = Layout((Entry("w", (SIZE,), 0, SIZE),), ())
MASKS = leader_pb2.MaskPlan(bits=32, parties=LEARNERS, threshold=11, least=3)
NAMES = [f"own-{number:02d}" for number in range(LEARNERS)]


def config(**dp: Any) -> RunConfig:
    fields: dict[str, Any] = {
        "learners": LEARNERS,
        "rounds": 5,
        "data": {"source": "none", "holder": "learner"},
        "model": {"norm": "group"},
        "aggregate": {"weighting": "uniform"},
        "cohort": {"quorum": 0.75},
        "secagg": {"mode": "masked"},
        "dp": {"mode": "distributed", "clip": 2.5, **dp},
    }
    return RunConfig.model_validate(fields)


def begun(path: Path, **dp: Any) -> tuple[DistributedPrivacy, RunState]:
    state = RunState("run-1", 0, 0, 1, np.zeros(SIZE, np.float32), {})
    privacy = open_privacy(config(**dp), LAYOUT, path, state)
    assert isinstance(privacy, DistributedPrivacy)
    return privacy, privacy.begin(state)


def test_the_smallest_sum_that_a_round_may_have_pays_all_rounds_of_the_run(tmp_path: Path) -> None:
    privacy, state = begun(tmp_path / "ledger")
    release = privacy.masked(LAYOUT, state, MASKS, 12)
    plan = release.noise
    check_noise(plan, MASKS)
    for round_ in range(5):
        release.charge(MASKS, plan, NAMES[:12], f"{round_:02x}")
    told = privacy.summary()
    assert 7.99 < told["spent_max"] <= 8.0
    assert told["rounds_left"] == 0
    assert set(privacy.payable(dict.fromkeys(NAMES))) == set(NAMES[12:])


def test_rounds_are_charged_by_who_is_in_the_sum_as_in_the_reference(tmp_path: Path) -> None:
    """z = 1 with all 16 in, sqrt(3)/2 with 12: the reference's epsilon of three rounds and two."""
    case = vectors("epsilon")["mixed"][1]
    privacy, state = begun(
        tmp_path / "ledger", noise_multiplier=case["zs"][-1], epsilon=99.0, delta=case["delta"]
    )
    release = privacy.masked(LAYOUT, state, MASKS, 12)
    plan = release.noise
    for round_, z in enumerate(case["zs"]):
        release.charge(MASKS, plan, NAMES if z == 1 else NAMES[:12], f"{round_:02x}")
    assert (
        case["epsilon"] * (1 - 3e-4) < privacy.summary()["spent_max"] <= case["epsilon"]
    )  # reach is rounded down
    entries = [json.loads(line) for line in (tmp_path / "ledger").read_text().splitlines()]
    releases = [entry for entry in entries if entry["kind"] == "release"]
    assert [entry["z"] for entry in releases] == pytest.approx(case["zs"], rel=3e-4)
    assert {entry["mechanism"] for entry in releases} == {"distributed"}
    assert {entry["clip"] for entry in releases} == {2.5}


def test_16_bits_are_refused_where_rounding_would_leave_little_of_an_update(tmp_path: Path) -> None:
    """What the lattice holds depends on the model; of few learners there is room for a second level of noise."""
    coarse = config().model_copy(update={"secagg": config().secagg.model_copy(update={"bits": 16})})
    state = RunState("run-1", 0, 0, 1, np.zeros(SIZE, np.float32), {})
    masks = leader_pb2.MaskPlan(bits=16, parties=LEARNERS, threshold=11, least=3)
    small = Layout((Entry("w", (10_000,), 0, 10_000),), ())
    privacy = open_privacy(coarse, small, tmp_path / "small", state)
    plan = privacy.masked(small, privacy.begin(state), masks, 12).noise
    assert plan is not None
    check_noise(plan, masks)
    assert (list(plan.spread), plan.reach) == ([], 164)
    few = Mechanism.shared(1.35, 400_000, 0.0, 3, room_of(16, 4))
    assert few.noise.multipliers == (8,)
    assert few.reach + few.noise.peak <= room_of(16, 4)
    assert few.noise.accounted * math.sqrt(3) == pytest.approx(1.35 * few.reach, rel=1e-2)
    refused = r"updates of 40,000 values with noise have 164 levels.* \(200 are needed\): set secagg.bits=32"
    with pytest.raises(ConfigError, match=refused):
        open_privacy(coarse, LAYOUT, tmp_path / "large", state)


def test_who_colludes_brings_no_noise_that_counts(tmp_path: Path) -> None:
    plain, state = begun(tmp_path / "plain")
    wary, _ = begun(tmp_path / "wary", colluding=0.3)
    releases = [one.masked(LAYOUT, state, MASKS, 12) for one in (plain, wary)]
    plans = [release.noise for release in releases]
    ratio = multiplier_of(plans[1], 12) / multiplier_of(plans[0], 12)
    assert ratio == pytest.approx((12 / 7) ** 0.5, rel=1e-3)  # 5 of 16 may collude
    releases[1].charge(MASKS, plans[1], NAMES[:12], "00")
    releases[0].charge(MASKS, plans[0], NAMES[:12], "00")
    assert wary.summary()["spent_max"] == pytest.approx(plain.summary()["spent_max"], rel=1e-3)


def test_a_sum_of_nothing_but_colluders_is_never_revealed(tmp_path: Path) -> None:
    privacy, state = begun(tmp_path / "ledger", colluding=0.3)
    release = privacy.masked(LAYOUT, state, MASKS, 12)
    plan = release.noise
    with pytest.raises(PrivacyError, match="round 1: of 5 updates the noise of none counts"):
        release.charge(MASKS, plan, NAMES[:5], "00")


def test_what_is_over_budget_is_refused_and_the_same_sum_is_charged_once(tmp_path: Path) -> None:
    privacy, state = begun(tmp_path / "ledger")
    release = privacy.masked(LAYOUT, state, MASKS, 12)
    plan = release.noise
    for round_ in (0, 1, 2, 3, 4, 4, 4):
        release.charge(MASKS, plan, NAMES[:12], f"{round_:02x}")
    with pytest.raises(PrivacyError, match=r"round 1 would bring own-00 to epsilon 8\.\d+ of 8"):
        release.charge(MASKS, plan, NAMES[:12], "05")
    privacy.check_paid(1, NAMES[12:])
    with pytest.raises(PrivacyError, match="round 1 would bring own-00 to epsilon"):
        privacy.check_paid(1, NAMES)
    again, _ = begun(tmp_path / "ledger")
    assert again.summary() == privacy.summary()


def test_the_clip_follows_the_noisy_share_of_those_within_it(tmp_path: Path) -> None:
    privacy, state = begun(tmp_path / "ledger", clip_quantile=0.5, clip_rate=0.2)
    release = privacy.masked(LAYOUT, state, MASKS, 12)
    plan = release.noise
    assert plan.bit_levels > 0
    assert release.after(0.0).clip == pytest.approx(2.5 * np.exp(0.1))
    assert release.after(1.0).clip == pytest.approx(2.5 * np.exp(-0.1))
    assert release.after(0.0).noise_key == b""


def test_it_says_against_whom(tmp_path: Path) -> None:
    privacy, _ = begun(tmp_path / "ledger", colluding=0.1)
    lines = privacy.promise(LAYOUT)
    assert lines[0] == (
        "privacy of each learner: epsilon 8 at delta 1e-05 over the run, against whoever has its models and results, "
        "and against a leader that follows the protocol and reads all; it sees sums of at least 11 updates with noise "
        "of their learners, of which that of 2 is not counted (dp.mode=distributed)"
    )
    assert lines[1].startswith("noise over clipped updates: ")
    assert privacy.summary()["against"].endswith(
        "and against a leader that follows the protocol and reads all"
    )
