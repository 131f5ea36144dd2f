from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from leader.events import LearnerJoined, LearnerLeft, RoundCommitted, RunFinished, RunStarted, UpdateAccepted
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, play, train
from tests.integration.noise_task import Noise
from utils.errors import DataError

GRADIENT: Settings = {**TINY, "exchange": "gradient", "rounds": 2}


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Cluster]:
    return {"delta": play(train), "gradient": play(train, GRADIENT)}


def test_a_run_leaves_its_model_its_metrics_and_its_events(tmp_path: Path) -> None:
    cluster = play(train, {**TINY, "run_dir": tmp_path / "run"})
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    assert sum(tensor.size for tensor in tensors.values()) == cluster.vector.size
    assert cluster.summary["model_sha256"] == cluster.model_sha256
    assert cluster.model_sha256 == hashlib.sha256(cluster.vector.tobytes()).hexdigest()
    assert [line["round"] for line in cluster.metrics] == [1, 2, 3]
    assert [line["examples"] for line in cluster.metrics] == [48, 48, 48]
    [started] = cluster.seen(RunStarted)
    assert cluster.address == started.address
    assert {event.name for event in cluster.seen(LearnerJoined)} == {"a", "b"}
    assert len({event.learner_id for event in cluster.seen(UpdateAccepted)}) == 2
    assert [event.round for event in cluster.seen(RoundCommitted)] == [1, 2, 3]


def test_every_learner_has_a_connection_of_its_own() -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in "ab":
            join(cluster, name)
        await cluster.committed(1)
        assert len({member.identity for member in cluster.app.coordinator.workforce}) == 2

    play(scenario)


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("settings", [TINY, GRADIENT], ids=["delta", "gradient"])
def test_a_learner_that_is_killed_tells_nobody_and_the_next_of_its_name_goes_on_to_the_same_bits(
    undisturbed: dict[str, Cluster], settings: Settings
) -> None:
    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a")
        goes = join(cluster, "b")
        await cluster.committed(1)
        await goes.kill()
        join(cluster, "b")
        await cluster.finished()
        assert cluster.seen(LearnerLeft) == []

    assert play(scenario, settings).model_sha256 == undisturbed[str(settings["exchange"])].model_sha256


@pytest.mark.parametrize("settings", [TINY, GRADIENT], ids=["delta", "gradient"])
def test_a_leader_that_is_killed_writes_nothing_and_goes_on_to_the_same_bits(
    undisturbed: dict[str, Cluster], settings: Settings
) -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in "ab":
            join(cluster, name)
        await cluster.committed(1)
        await cluster.leader.kill()
        assert not (cluster.run_dir / "summary.json").exists()
        assert cluster.seen(RunFinished) == []
        await cluster.resume()
        await cluster.finished()

    assert play(scenario, settings).model_sha256 == undisturbed[str(settings["exchange"])].model_sha256


@pytest.mark.usefixtures("no_grace")
def test_a_resumed_leader_goes_on_with_what_is_changed(undisturbed: dict[str, Cluster]) -> None:
    async def scenario(cluster: Cluster) -> None:
        await train(cluster)
        assert cluster.seen(RoundCommitted)[-1].round == 2
        await cluster.resume(rounds=3)
        await train(cluster)

    cluster = play(scenario, {**TINY, "rounds": 2})
    assert cluster.seen(RoundCommitted)[-1].round == 3
    # The schedule follows the number of rounds, so only the first two are those of a run of three.
    assert cluster.seen(RunStarted)[1].resumed_round == 2


def test_a_wait_ends_with_what_a_learner_failed_with() -> None:
    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a", task=f"{__name__}:Empty")
        with pytest.raises(DataError, match="the task finds no training examples"):
            await cluster.committed(1)

    play(scenario)


def test_a_wait_for_what_can_no_longer_happen_says_so() -> None:
    async def scenario(cluster: Cluster) -> None:
        await train(cluster)
        with pytest.raises(
            AssertionError, match=r"(?s)no RoundCommitted .*the leader has ended.*RunFinished"
        ):
            await cluster.committed(4)

    play(scenario)


class Empty(Noise):
    """A task without data."""

    def open_data(self, path: Path | None, *, train: bool) -> None:  # type: ignore[override]
        """Nothing."""
