"""Runs whose learners add the noise themselves, under masks: what is told and charged, and the same bits again."""

from __future__ import annotations

import asyncio
import logging
import math
from functools import partial
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from leader.cli import parse
from leader.events import Event, RoundCommitted, StepApplied, UpdateAccepted
from leader.secagg.masked_sum import MaskedSum
from leader.secagg.pending import PendingFile
from learner import noise_key
from learner.app import fingerprint_of
from protos import leader_pb2
from scripts.cluster import Cluster
from scripts.simulate.parts import Brought
from scripts.simulate.simulation import Hooks, simulate
from tests.cluster.test_masked import Mute
from tests.cluster.test_privacy import begun, ledger, summary
from tests.clusters import TINY, Settings, join, play, train
from tests.integration.noise_task import Noise
from utils.dp.shares import multiplier_of
from utils.errors import PrivacyError

FOUR: Settings = {**TINY, "learners": 4, "aggregate.weighting": "uniform", "model.local": "norm.*"}
SHARED: Settings = {**FOUR, "secagg.mode": "masked", "dp.mode": "distributed", "cohort.quorum": 0.75}
NAMES = [f"learner-{number:05d}" for number in range(4)]


def lines(folder: Path) -> list[dict[str, Any]]:
    """The ledger without what comes of the random ids of sessions."""
    entries = ledger(folder)
    ofs = [entry.get("of") for entry in entries if entry["kind"] == "release"]
    assert len(set(ofs)) == len(ofs)
    return [{key: entry[key] for key in entry.keys() - {"of", "prev"}} for entry in entries]


def test_a_run_tells_what_it_has_spent_and_of_nobody_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    with caplog.at_level(logging.INFO, "leader"):
        cluster = play(train, {**SHARED, "run_dir": run_dir})
    spent = [event.epsilon for event in cluster.seen(RoundCommitted) if event.epsilon is not None]
    assert spent == sorted(spent)
    assert 6.0 < spent[-1] < 7.0  # four of four are in each sum, of which three pay all rounds
    assert all(
        math.isnan(event.loss) for event in cluster.seen(UpdateAccepted) + cluster.seen(RoundCommitted)
    )
    assert [line["loss"] for line in cluster.metrics] == [None] * 3
    told = summary(run_dir)["privacy"]
    assert (told["mode"], told["unit"], told["spent_max"]) == ("distributed", "learner", spent[-1])
    assert "a leader that follows the protocol" in told["against"]
    assert [entry["kind"] for entry in lines(run_dir)] == ["open", "parts", *["release"] * 3]
    assert "it sees sums of at least 3 updates with noise of their learners" in caplog.text


def test_the_sum_that_the_leader_unmasks_has_the_noise_of_all_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that logs what it unmasks, with and without much noise: the difference has the planned variance."""
    sums: list[Any] = []
    finish = MaskedSum.finish

    def logged(self: MaskedSum) -> Any:
        assert self.noise is not None
        result = finish(self)
        sums.append((self.noise, result.mean))
        return result

    monkeypatch.setattr(MaskedSum, "finish", logged)
    for epsilon in (1e5, 1.0):
        play(train, {**SHARED, "rounds": 1, "dp.epsilon": epsilon, "dp.clip": 100.0})
    (_, quiet), (noise, loud) = sums
    expected = multiplier_of(noise, 4) * 100.0 / 4
    assert (loud - quiet).std() == pytest.approx(expected, rel=4.4 / math.sqrt(2 * loud.size))


def test_with_hardly_any_noise_the_weights_are_those_of_the_plain_run() -> None:
    plain = play(train, FOUR).vector
    for more in ({}, {"secagg.bits": 64}):
        quiet = play(train, {**SHARED, "dp.clip": 3, "dp.epsilon": 1e5, **more}).vector
        of_round = 0.01 * 3 / math.sqrt(3 * 4)
        assert 0 < np.abs(quiet - plain).max() < 20 * of_round


def own() -> list[Brought]:
    rows = [Noise().open_data(Path(f"noise-{data}"), train=True) for data in "abcd"]
    said = [leader_pb2.OwnData(examples=len(one), fingerprint=fingerprint_of(one)) for one in rows]
    return [Brought(*pair) for pair in zip(rows, said, strict=True)]


def same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learners draw the same keys in each run: what else differs is seen."""
    monkeypatch.setattr(noise_key, "secrets", SimpleNamespace(token_bytes=lambda size: b"k" * size))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"dp.clip_quantile": 0.5, "secagg.bits": 64},
        {"secagg.bits": 16},
        {"secagg.bits": 16, "buffer.size": 4},
    ],
    ids=["fixed", "adaptive", "coarse", "groups"],
)
def test_a_killed_leader_and_a_simulation_end_in_the_bits_and_entries_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Settings
) -> None:
    same_keys(monkeypatch)
    settings = {**SHARED, "cohort.quorum": 1, **more}
    folders = [begun(tmp_path / "one", settings)]
    folders += [Path(copytree(folders[0], tmp_path / name)) for name in ("two", "three")]

    async def go_on(cluster: Cluster, folder: Path, kills: tuple[int, ...]) -> None:
        await cluster.leader.kill()
        cluster.run_dir = folder
        await cluster.resume()
        for name, data in zip(NAMES, "abcd", strict=True):
            join(cluster, name, data=f"noise-{data}", state_dir=tmp_path / f"{folder.name}-{name}")
        for round_ in kills:
            await cluster.committed(round_)
            await cluster.resume()
        await cluster.finished()

    play(partial(go_on, folder=folders[0], kills=()), settings)
    play(partial(go_on, folder=folders[1], kills=(1, 2)), settings)
    simulate(parse(["--resume", str(folders[2])], {}).config, hooks=Hooks(own=own()), resume=True)
    models = {(folder / "model.safetensors").read_bytes() for folder in folders}
    assert len(models) == 1
    assert lines(folders[0]) == lines(folders[1]) == lines(folders[2])
    clips = [entry["clip"] for entry in lines(folders[0]) if entry["kind"] == "release"]
    assert (len(set(clips)) > 1) == ("dp.clip_quantile" in more)


def test_a_group_that_paid_for_the_last_round_counts_after_a_crash_that_cut_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_keys(monkeypatch)
    whole, shot = (
        begun(tmp_path / "whole", {**SHARED, "cohort.quorum": 1, "buffer.size": 4}),
        tmp_path / "shot",
    )

    def heard(event: Event) -> None:
        if isinstance(event, StepApplied) and event.round == 3:
            copytree(whole, shot)

    for folder, hooks in ((whole, Hooks(own=own(), listener=heard)), (shot, Hooks(own=own()))):
        simulate(parse(["--resume", str(folder)], {}).config, hooks=hooks, resume=True)
    assert (shot / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (shot / "privacy.jsonl").read_bytes() == (whole / "privacy.jsonl").read_bytes()


def test_two_runs_of_one_seed_have_other_noise() -> None:
    one, other = (play(train, SHARED).vector for _ in range(2))
    assert np.abs(one - other).max() > 0.1


def test_a_sum_that_nobody_unmasks_is_paid_and_its_second_attempt_only_within_the_budget(
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "run"

    async def scenario(cluster: Cluster) -> None:
        for name in "ab":
            join(cluster, name, worker=Mute)
        for name in "cd":
            join(cluster, name)
        error = await cluster.failed(cluster.leader)
        assert isinstance(error, PrivacyError)
        assert "round 1 would bring own-a to epsilon" in str(error)
        await cluster.resume()
        await cluster.finished()

    settings = {**SHARED, "secagg.reveal_s": 0.3, "rounds": 1, "dp.noise_multiplier": 0.9, "run_dir": run_dir}
    Mute.asked = asyncio.Event()
    play(scenario, settings)
    attempts = [entry["attempt"] for entry in ledger(run_dir) if entry["kind"] == "release"]
    assert attempts == [0, 1]
    pending = PendingFile(run_dir / "pending-sum.safetensors")
    assert pending.read(1) is None  # no sum that could not be paid waits for the next leader
    assert pending.attempt(1) == 2
    assert summary(run_dir)["stopped_early"].startswith(
        "privacy budget: round 1 would bring own-a to epsilon"
    )
