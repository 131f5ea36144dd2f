from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leader.aggregation.base import Contribution, Result
from leader.config import RunConfig
from leader.dp.central import CentralPrivacy
from leader.dp.privacy import NoPrivacy, open_privacy
from leader.state import RunState
from model.layout import Entry, Layout
from utils.errors import CheckpointError, ConfigError, PrivacyError
from utils.vector import Vector
from utils.wire.payload import Payload, encode_header, parse_header

SIZE, LEARNERS, CLIP = 40_000, 4, 2.5
LAYOUT = Layout((Entry("w", (SIZE,), 0, SIZE),), ())
MANIFEST = parse_header(encode_header([("w", "F32", (SIZE,))]))
UPDATES = [np.random.default_rng(seed).normal(size=SIZE).astype(np.float32) for seed in range(LEARNERS)]


def config(**dp: Any) -> RunConfig:
    fields: dict[str, Any] = {
        "learners": LEARNERS,
        "rounds": 5,
        "data": {"source": "none", "holder": "learner"},
        "model": {"norm": "group"},
        "aggregate": {"weighting": "uniform"},
        "dp": {"mode": "central", "clip": CLIP, **dp},
    }
    return RunConfig.model_validate(fields)


def begun(
    path: Path, settings: RunConfig | None = None, key: bytes = bytes(32)
) -> tuple[CentralPrivacy, RunState]:
    """A run of which nothing is released yet, with a key that is known."""
    state = RunState("run-1", 0, 0, 1, np.zeros(SIZE, np.float32), {})
    privacy = open_privacy(settings or config(), LAYOUT, path, state)
    assert isinstance(privacy, CentralPrivacy)
    state = privacy.begin(state)
    assert state.privacy is not None
    return privacy, replace(state, privacy=replace(state.privacy, noise_key=key))


def release(privacy: CentralPrivacy, state: RunState, updates: list[Vector]) -> Result:
    """What the round after `state` makes of these updates."""

    def never() -> Any:
        raise AssertionError

    aggregate = privacy.aggregate(LAYOUT, state, never)
    for number, values in enumerate(updates):
        payload = Payload(MANIFEST, values.view(np.uint8), number)
        aggregate.add(Contribution(f"own-{number}", 10, payload, 0.5))
    return aggregate.finish()


def clipped_mean(updates: list[Vector]) -> Vector:
    scaled = [values * min(1.0, CLIP / float(np.linalg.norm(values))) for values in updates]
    mean: Vector = np.mean(scaled, axis=0).astype(np.float32)
    return mean


def test_the_noise_of_a_mean_is_the_multiplier_times_the_clip_over_the_updates(tmp_path: Path) -> None:
    settings = config(noise_multiplier=3.0)
    privacy, state = begun(tmp_path / "ledger", settings)
    noise = release(privacy, state, UPDATES).mean - clipped_mean(UPDATES)
    expected = 3.0 * CLIP / LEARNERS
    assert noise.std() == pytest.approx(expected, rel=4 / np.sqrt(2 * SIZE))
    assert abs(noise.mean()) < 4 * expected / np.sqrt(SIZE)


def test_one_learner_moves_the_sum_no_further_than_the_clip_whatever_it_sends(tmp_path: Path) -> None:
    means = []
    for last in (np.zeros(SIZE, np.float32), UPDATES[3] * 1e6):
        privacy, state = begun(tmp_path / f"{last[0]}", config(epsilon=1e5))  # hardly any noise
        means.append(release(privacy, state, [*UPDATES[:3], last]).mean)
    noise = 2 * 0.01 * CLIP * np.sqrt(SIZE)
    assert np.linalg.norm(means[1] - means[0]) * LEARNERS < CLIP + noise


def test_the_same_sum_has_the_same_noise_and_is_charged_once_and_another_sum_has_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger"
    privacy, state = begun(path)
    first = release(privacy, state, UPDATES)
    again, _ = begun(path)  # after a crash
    assert release(again, state, UPDATES[::1]).mean.tobytes() == first.mean.tobytes()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["kind"] for entry in entries] == ["open", "parts", "release"]
    other = release(again, state, [*UPDATES[:3], -UPDATES[3]])
    difference = (other.mean - first.mean) - (
        clipped_mean([*UPDATES[:3], -UPDATES[3]]) - clipped_mean(UPDATES)
    )
    assert difference.std() > first.mean.std()  # two noises that have nothing to do with each other
    assert len(path.read_text().splitlines()) == 4


def test_the_key_of_a_round_is_gone_after_it_and_after_the_last_there_is_none(tmp_path: Path) -> None:
    privacy, state = begun(tmp_path / "ledger")
    keys = []
    for round_ in range(5):
        state = replace(state, round=round_)
        after = release(privacy, state, UPDATES).privacy
        assert after is not None
        keys.append(after.noise_key)
        state = replace(state, privacy=after)
    assert keys[-1] == b""
    assert len(set(keys)) == 5
    assert privacy.summary()["rounds_left"] == 0
    assert privacy.payable({f"own-{number}": number for number in range(6)}) == {"own-4": 4, "own-5": 5}
    assert after is not None
    with pytest.raises(PrivacyError, match="privacy budget: round 6 would bring own-0 to epsilon"):
        release(privacy, replace(state, round=5, privacy=replace(after, noise_key=bytes(32))), UPDATES)


def test_the_last_round_that_can_be_paid_is_made_again_after_a_crash_that_cut_it_off(tmp_path: Path) -> None:
    path, parts = tmp_path / "ledger", [f"own-{number}" for number in range(LEARNERS)]
    privacy, state = begun(path)
    for round_ in range(4):
        state = replace(
            state, round=round_, privacy=release(privacy, replace(state, round=round_), UPDATES).privacy
        )
    state = replace(state, round=4)
    made = release(privacy, state, UPDATES).mean  # of round 5, which no checkpoint knows of
    assert privacy.spent(6, parts)

    resumed = open_privacy(config(), LAYOUT, path, state)
    assert isinstance(resumed, CentralPrivacy)
    everybody = dict.fromkeys(parts)
    assert (resumed.spent(5, parts), resumed.payable(everybody, 5)) == ("", everybody)
    assert np.array_equal(release(resumed, state, UPDATES).mean, made)
    with pytest.raises(PrivacyError, match="round 5 would bring own-0 to epsilon"):
        release(resumed, state, [*UPDATES[:3], -UPDATES[3]])
    assert resumed.payable(everybody, 6) == resumed.payable(everybody) == {}
    resumed.void(5)
    assert resumed.payable(everybody, 5) == {}
    assert resumed.spent(5, parts).startswith("privacy budget: round 5 would bring own-0 to epsilon")


def test_nothing_is_released_that_could_not_be_charged(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "ledger"
    path.parent.mkdir()
    privacy, state = begun(path)
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(CheckpointError, match="can't write"):
        release(privacy, state, UPDATES)


def test_entries_are_no_hash_of_the_sum_that_could_be_guessed(tmp_path: Path) -> None:
    names = []
    for number in (1, 2):
        path = tmp_path / f"{number}"
        privacy, state = begun(path, key=bytes([number] * 32))
        release(privacy, state, UPDATES)
        names.append(json.loads(path.read_text().splitlines()[-1])["of"])
    assert names[0] != names[1]


def test_no_round_can_be_paid_when_fewer_than_a_quorum_can(tmp_path: Path) -> None:
    privacy, state = begun(tmp_path / "ledger", config(noise_multiplier=3.0, epsilon=8.0))
    parts = [f"own-{number}" for number in range(LEARNERS)]
    round_ = 0
    while not privacy.spent(round_ + 1, parts):
        release(privacy, replace(state, round=round_), UPDATES)
        round_ += 1
    assert round_ == 24  # floor of (3 x mu of epsilon 8) squared
    reason = f"privacy budget: round {round_ + 1} would bring own-0 to epsilon"
    assert privacy.spent(round_ + 1, parts).startswith(reason)
    assert privacy.spent(round_ + 1, []).startswith(reason)  # nobody needs to be there to find that
    assert privacy.spent(round_ + 1, [*parts, *(f"own-{number}" for number in range(4, 8))])


def test_a_model_with_tensors_that_are_not_clipped_is_refused_and_a_plain_run_promises_nothing(
    tmp_path: Path,
) -> None:
    state = RunState("run-1", 0, 0, 1, np.zeros(4, np.float32), {})
    layout = Layout((Entry("w", (3,), 0, 3),), (Entry("running_mean", (1,), 3, 1),))
    with pytest.raises(ConfigError, match="'running_mean', which is not trained and not clipped: keep such"):
        open_privacy(config(), layout, tmp_path / "ledger", state)
    open_privacy(config(), layout.keeping(["running_*"]), tmp_path / "ledger", state)
    plain = open_privacy(RunConfig(), layout, tmp_path / "other", state)
    assert isinstance(plain, NoPrivacy)
    assert (plain.promise(layout), plain.summary(), plain.spent(1, ["own-0"])) == ([], {}, "")
    assert not (tmp_path / "other").exists()
