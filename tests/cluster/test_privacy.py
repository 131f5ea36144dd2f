"""Runs with central differential privacy: what is told, what is charged, and that nothing else changes."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import AsyncIterator
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from leader.cli import parse
from leader.data.dataset import open_data
from leader.dp.accountant import Accountant
from leader.dp.ledger import Head, Ledger, Release
from leader.dp.privacy import open_privacy
from leader.events import Event, RoundAbandoned, RoundCommitted, UpdateAccepted
from leader.global_model.initial import open_origin
from leader.initial_state import initial_state, open_folder
from leader.storage.checkpoint import load_checkpoint, load_newest, save_checkpoint
from learner.app import fingerprint_of
from protos import leader_pb2
from scripts.cluster import Cluster
from scripts.simulate.parts import Brought
from scripts.simulate.simulation import Hooks, simulate
from tests.clusters import TINY, Settings, join, play, train
from tests.integration.noise_task import Noise
from utils.errors import ConfigError, PrivacyError

NAMES = ("learner-00000", "learner-00001")  # as simulations call them
PRIVATE: Settings = {
    **TINY,
    "dp.mode": "central",
    "aggregate.weighting": "uniform",
    "model.local": "norm.*",  # batch norm's statistics can't be clipped
}


def flags(settings: Settings) -> list[str]:
    return [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]


def begun(folder: Path, settings: Settings = PRIVATE) -> Path:
    """A run folder that a leader left right at its start: two that go on from it have the same secrets."""
    config = parse(["--run-dir", str(folder), *flags(settings)], {}).config
    config, run = open_folder(config, resume=False)
    origin = open_origin(config, open_data(config).classes)
    state = initial_state(config, origin)
    state = open_privacy(config, origin.layout, run.ledger, state).begin(state)
    save_checkpoint(run.checkpoints, state, keep=1, config="")
    return folder


def ledger(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "privacy.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return told


def test_a_run_tells_what_it_has_spent_and_no_loss(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    cluster = play(train, {**PRIVATE, "run_dir": run_dir})
    committed = cluster.seen(RoundCommitted)
    spent = [event.epsilon for event in committed if event.epsilon is not None]
    assert len(spent) == 3
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(8.0, rel=1e-4)  # the least noise that pays three rounds
    assert spent[-1] <= 8.0
    assert {event.budget for event in committed} == {8.0}
    assert all(math.isnan(event.loss) for event in committed)
    assert all(math.isnan(event.loss) for event in cluster.seen(UpdateAccepted))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["epsilon"] for line in lines] == spent
    assert [line["loss"] for line in lines] == [None] * 3
    assert summary(run_dir)["privacy"] == {
        "mode": "central",
        "unit": "learner",
        "epsilon": 8.0,
        "delta": 1e-5,
        "spent_max": spent[-1],
        "adjacency": "zero-out",
        "against": "models and results",
        "sampling": "none",
        "rounds_left": 0,
    }
    entries = ledger(run_dir)
    assert [entry["kind"] for entry in entries] == ["open", "parts", *["release"] * 3]
    assert entries[1]["parts"] == ["own-a", "own-b"]
    newest = load_newest(run_dir / "checkpoints")
    assert newest.privacy is not None
    assert newest.privacy.noise_key == b""  # nothing is to be released any more
    assert newest.privacy.entries == 5
    assert all(math.isnan(past.loss) for past in newest.history.values())


def test_checkpoints_are_for_the_owner_alone_and_no_key_is_in_two(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    play(train, {**PRIVATE, "run_dir": run_dir, "keep_checkpoints": 9})
    paths = sorted((run_dir / "checkpoints").iterdir())
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    keys = [state.privacy.noise_key for state in map(load_checkpoint, paths) if state.privacy]
    assert len(keys) == len(set(keys)) == 4
    for number, path in enumerate(paths):
        others = {key for key in keys if key and key != keys[number]}
        assert not any(key.hex().encode() in path.read_bytes() for key in others)


def test_a_run_without_it_has_no_trace_of_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    play(train, {**TINY, "run_dir": run_dir})
    assert not (run_dir / "privacy.jsonl").exists()
    assert "privacy" not in summary(run_dir)
    assert "epsilon" not in (run_dir / "metrics.jsonl").read_text()


def test_two_runs_of_one_seed_have_other_noise_and_with_hardly_any_they_end_in_the_plain_run(
    tmp_path: Path,
) -> None:
    plain = play(train, {**TINY, "aggregate.weighting": "uniform", "model.local": "norm.*"}).vector
    loud = [play(train, PRIVATE).vector for _ in range(2)]
    assert np.abs(loud[0] - loud[1]).max() > 0.1
    quiet = play(train, {**PRIVATE, "dp.clip": 3, "dp.epsilon": 1e5}).vector
    of_round = 0.01 * 3 / 2  # standard deviation of the noise in a mean
    assert 0 < np.abs(quiet - plain).max() < 20 * of_round


@contextlib.asynccontextmanager
async def going_on(cluster: Cluster, folder: Path) -> AsyncIterator[None]:
    """The cluster's leader gives way to one that goes on with the run in `folder`, with its learners."""
    await cluster.leader.kill()
    cluster.run_dir = folder
    await cluster.resume()
    for name, data in zip(NAMES, "ab", strict=True):
        join(cluster, name, data=f"noise-{data}")
    yield
    await cluster.finished()


def own() -> list[Brought]:
    """What these learners bring."""
    rows = [Noise().open_data(Path(f"noise-{data}"), train=True) for data in "ab"]
    said = [leader_pb2.OwnData(examples=len(one), fingerprint=fingerprint_of(one)) for one in rows]
    return [Brought(*pair) for pair in zip(rows, said, strict=True)]


@pytest.mark.parametrize(
    "more", [{}, {"dp.clip_quantile": 0.5, "codec.up": "int8"}], ids=["fixed", "adaptive"]
)
def test_a_killed_leader_and_a_simulation_end_in_the_bits_and_entries_of_an_undisturbed_run(
    tmp_path: Path, more: Settings
) -> None:
    folders = [begun(tmp_path / "one", {**PRIVATE, **more})]
    folders += [Path(copytree(folders[0], tmp_path / name)) for name in ("two", "three")]

    async def undisturbed(cluster: Cluster) -> None:
        async with going_on(cluster, folders[0]):
            pass

    async def killed(cluster: Cluster) -> None:
        async with going_on(cluster, folders[1]):
            for round_ in (1, 2):
                await cluster.committed(round_)
                await cluster.resume()

    for scenario in (undisturbed, killed):
        play(scenario, PRIVATE)
    simulate(parse(["--resume", str(folders[2])], {}).config, hooks=Hooks(own=own()), resume=True)
    models = {(folder / "model.safetensors").read_bytes() for folder in folders}
    assert len(models) == 1
    assert len({(folder / "privacy.jsonl").read_bytes() for folder in folders}) == 1
    clips = [entry["clip"] for entry in ledger(folders[0]) if entry["kind"] == "release"]
    assert (len(set(clips)) > 1) == bool(more)


def test_who_has_spent_all_ends_the_run_early_also_when_it_is_resumed_without_learners(
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "run"
    play(train, {**PRIVATE, "run_dir": run_dir})
    spent = ledger(run_dir)

    async def resumed(cluster: Cluster) -> None:
        await cluster.leader.kill()
        cluster.run_dir = run_dir
        await cluster.resume(rounds=9)
        await cluster.finished()

    play(resumed, PRIVATE)
    told = summary(run_dir)
    assert re.fullmatch(
        r"privacy budget: round 4 would bring own-[ab] to epsilon 8\.\d\d of 8", told["stopped_early"]
    )
    assert (told["rounds"], told["stopped"]) == (3, None)
    assert ledger(run_dir) == spent


def test_with_noise_of_its_own_a_run_is_resumed_to_as_many_rounds_as_its_budget_pays(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", {**PRIVATE, "dp.noise_multiplier": 3, "rounds": 1})
    assert parse(["--resume", str(folder), "--rounds", "24"], {}).config.rounds == 24
    with pytest.raises(
        ConfigError, match=r"which pays a learner 24 rounds at dp\.noise_multiplier=3, but 25 rounds"
    ):
        parse(["--resume", str(folder), "--rounds", "25"], {})


@pytest.mark.parametrize("deadline_s", [3600.0, 0.001], ids=["in time", "late"])
def test_parts_that_can_not_pay_sit_out_while_a_quorum_can(tmp_path: Path, deadline_s: float) -> None:
    settings = {**PRIVATE, "cohort.quorum": 0.5, "cohort.deadline_s": deadline_s, "rounds": 2}
    folder = begun(tmp_path / "run", settings)
    state = load_newest(folder / "checkpoints")
    config = parse(["--resume", str(folder)], {}).config
    accountant = Accountant(8.0, 1e-5)
    known = state.privacy
    assert known is not None
    book = Ledger(folder / "privacy.jsonl", accountant, state.run_id, "none", Head(known.entries, known.head))
    multiplier = config.dp.noise(2)
    for number in (7, 8):
        book.charge(Release(number, "ab", "central", multiplier, 1.0, [f"own-{NAMES[0]}"]))

    events: list[Event] = []
    simulate(config, hooks=Hooks(own=own(), listener=events.append), resume=True)
    assert [event.learners for event in events if isinstance(event, RoundCommitted)] == [1, 1]
    assert any(isinstance(event, RoundAbandoned) for event in events) == (deadline_s < 1)
    releases = [entry for entry in ledger(folder) if entry["kind"] == "release"][2:]
    parts = {entry["set"]: entry["parts"] for entry in ledger(folder) if entry["kind"] == "parts"}
    assert [parts[entry["set"]] for entry in releases] == [[f"own-{NAMES[1]}"]] * 2


def test_a_model_with_buffers_that_travel_is_refused(tmp_path: Path) -> None:
    settings = {key: value for key, value in PRIVATE.items() if key != "model.local"}
    with pytest.raises(
        ConfigError, match=r"the model has 'norm\.running_mean', which is not trained and not clipped"
    ):
        begun(tmp_path / "run", settings)


def test_a_ledger_that_lacks_entries_ends_the_resume(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    play(train, {**PRIVATE, "run_dir": run_dir})
    path = run_dir / "privacy.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    with pytest.raises(
        PrivacyError, match="has 3 entries, the checkpoint knows of 5; restore the file or start"
    ):
        simulate(parse(["--resume", str(run_dir)], {}).config, hooks=Hooks(own=own()), resume=True)
