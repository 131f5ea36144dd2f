"""Edges of a secure run: learners send to those that the leader's CA has admitted as such, and to nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leader.events import RoundCommitted, UpdateAccepted
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, play, train
from tests.leader.trust.fleet import Fleet


def secure(folder: Path) -> Settings:
    """A secure run with edges."""
    return {**TINY, "edges.listen": "127.0.0.1:0", "trust.mode": "on", "trust.dir": folder / "trust"}


def files(folder: Path, name: str, role: str = "aggregator") -> dict[str, Any]:
    """Flags with files of what somebody has been admitted with."""
    held = Fleet(folder / "trust").admit(name, role, serves=True)
    (folder / name).mkdir()
    for file, text in (("key", held.key), ("certificate", held.certificate), ("ca", held.roots)):
        (folder / name / file).write_bytes(text)
    return {file: folder / name / file for file in ("key", "certificate", "ca")}


def test_updates_go_through_an_edge_that_the_leaders_ca_admitted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.edge("east", **files(tmp_path, "east"))
        await cluster.until(lambda: len(cluster.app.edges) == 1, "no edge")
        join(cluster, "a")
        join(cluster, "b")
        await cluster.finished()

    through = play(scenario, secure(tmp_path))
    plain = play(train)
    assert through.model_sha256 == plain.model_sha256
    assert len(through.seen(UpdateAccepted)) == 6
    assert [record for record in caplog.records if record.name == "learner.wire.edges"] == []
    bytes_up = [[event.bytes_up for event in run.seen(RoundCommitted)] for run in (through, plain)]
    assert bytes_up[0] != bytes_up[1]  # a sum, in place of updates
