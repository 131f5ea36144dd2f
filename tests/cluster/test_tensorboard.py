"""What TensorBoard reads of a run is its metrics, also of one that was cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, play, train
from tests.tools.needs import needs

ON: Settings = {**TINY, "services.tensorboard": "true"}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every scalar, as TensorBoard's own reader finds them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {name: [(e.step, e.value) for e in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


@needs("tensorboard")
def test_each_round_is_there_once_after_the_leader_was_killed() -> None:
    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a")
        join(cluster, "b")
        await cluster.committed(2)
        await cluster.resume()
        await cluster.finished()
        found = scalars(cluster.run_dir / "tb")
        for name in ("loss", "lr", "bytes_up", "test_squared_error"):
            told = [(record["round"], record[name]) for record in cluster.metrics]
            assert [step for step, _ in found[name]] == [step for step, _ in told], name
            assert [value for _, value in found[name]] == pytest.approx([v for _, v in told], rel=1e-6), name

    play(scenario, {**ON, "rounds": 6, "data.source": "noise-test", "evaluation.every": 1})


def test_nothing_is_written_unless_it_is_asked_for() -> None:
    async def scenario(cluster: Cluster) -> None:
        await train(cluster)
        assert not (cluster.run_dir / "tb").exists()

    play(scenario)
