"""Runs register their models and start from registered ones."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from leader.config.reference import Reference
from leader.services.registry.folder import FolderRegistry
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, play, train
from utils.errors import ConfigError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run whose loss the leader measures, and which registers its model."""
    return {
        **TINY,
        "data.source": "noise-test",
        "evaluation.every": 1,
        "evaluation.metric": "test_squared_error",
        "evaluation.mode": "min",
        "services.registry.dir": tmp_path / "registry",
        "services.registry.model": "noise",
    }


def test_a_run_registers_its_best_model_with_its_lineage(settings: Settings, tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await train(cluster)
        [version] = FolderRegistry(tmp_path / "registry").versions("noise")
        card, best = version.card, cluster.summary["best"]
        assert version.aliases == ("champion",)
        assert (card.round, card.metric, card.score) == (best["round"], "test_squared_error", best["value"])
        assert (card.run, card.model) == (cluster.summary["run"], "Noise")
        line = (cluster.run_dir / "metrics.jsonl").read_bytes().splitlines()[best["round"] - 1]
        assert card.record_sha256 == hashlib.sha256(line).hexdigest()
        registered = tmp_path / "registry" / "noise" / "1" / "model.safetensors"
        assert registered.read_bytes() == (cluster.run_dir / "best.safetensors").read_bytes()
        assert card.dataset_sha256 == ""  # learners' own

    play(scenario, settings)


def test_the_last_model_has_the_sha256_of_the_summary_and_its_version(
    settings: Settings, tmp_path: Path
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await train(cluster)
        [version] = FolderRegistry(tmp_path / "registry").versions()
        card = version.card
        assert card.sha256 == cluster.summary["model_sha256"] == cluster.model_sha256
        assert (card.round, card.version) == (3, cluster.app.coordinator.state.version)
        assert card.score == cluster.metrics[-1]["test_squared_error"]
        lineage = json.loads((cluster.run_dir / "lineage.json").read_text())
        assert lineage["best"]["round"] == cluster.summary["best"]["round"]
        await cluster.resume(rounds=3)  # once more, as after a registry that could not be written
        await cluster.finished()
        assert FolderRegistry(tmp_path / "registry").versions() == [version]

    play(scenario, {**settings, "services.registry.register": "last"})


def test_a_run_starts_from_the_champion_and_goes_on_without_the_registry(
    settings: Settings, tmp_path: Path
) -> None:
    registry = FolderRegistry(tmp_path / "registry")

    async def grow_up(cluster: Cluster) -> None:
        await train(cluster)

    async def go_on(cluster: Cluster) -> None:
        start = cluster.app.coordinator.state
        tensors = load_file(tmp_path / "registry" / "noise" / "1" / "model.safetensors")
        entries = cluster.app.layout.entries
        assert all(
            (start.vector[e.start : e.start + e.size] == tensors[e.name].ravel()).all() for e in entries
        )
        join(cluster, "a")
        join(cluster, "b")
        await cluster.committed(1)
        shutil.rmtree(tmp_path / "registry")
        await cluster.resume()
        await cluster.finished()

    play(grow_up, settings)
    play(go_on, {**settings, "model.weights": "models:/noise@champion"})
    [version] = registry.versions()
    assert version.card.parent == "models:/noise/1"


def test_a_model_that_is_not_there_is_one_line_and_the_folder_stays_free(
    settings: Settings, tmp_path: Path
) -> None:
    async def scenario(cluster: Cluster) -> None:
        """It never begins."""

    wanted = {**settings, "model.weights": "models:/other@champion", "run_dir": tmp_path / "run"}
    with pytest.raises(ConfigError) as caught:
        play(scenario, wanted)
    assert str(caught.value) == (
        f"models:/other@champion is not in the registry {tmp_path}/registry: it has no model other; "
        "see python -m scripts.registry list"
    )
    with pytest.raises(ConfigError, match=r"model\.weights.*names no model of a registry"):
        play(scenario, {**wanted, "model.weights": "models:/../x/1"})


def test_a_registry_that_can_not_be_written_is_told_and_the_run_is_good(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "registry").touch()
    with caplog.at_level(logging.WARNING):
        cluster = play(train, settings)
    [told] = [message for message in caplog.messages if "not registered" in message]
    assert "once that is mended: python -m leader --resume " in told
    assert cluster.leader.error is None


def test_nothing_is_written_for_a_registry_that_nobody_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def scenario(cluster: Cluster) -> None:
        await train(cluster)
        assert not (cluster.run_dir / "lineage.json").exists()

    play(scenario)
    assert list(tmp_path.iterdir()) == []


def test_a_reference_says_itself() -> None:
    for text in ("models:/cifar10@champion", "models:/a.b-c/12"):
        assert str(Reference.parse(text)) == text
