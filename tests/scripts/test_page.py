"""The page of runs that have ended, from their folders."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from leader.storage.run_folder import RunFolder
from scripts.page import view_of
from tests.clusters import TINY
from tests.integration.harness import Cluster, cluster_in, noise
from utils.errors import ConfigError


def test_ended_runs_are_served_side_by_side(tmp_path: Path) -> None:
    with cluster_in(tmp_path) as cluster:
        leader = ended(cluster)
        page = cluster.program("page", ["scripts.page", "--port", "0", str(leader), str(leader)])
        url = page.event("line")["message"].split()[1].rstrip(";")
        runs = httpx.get(f"{url}api/run", timeout=60.0).json()["runs"]
        assert [run["state"] for run in runs] == ["finished", "finished"]
        records = [json.loads(line) for line in (leader / "metrics.jsonl").read_text().splitlines()]
        assert [point["loss"] for point in runs[0]["points"]] == [record["loss"] for record in records]
        assert runs[0]["run"]["id"] == json.loads((leader / "summary.json").read_text())["run"]
        page.signal(signal.SIGTERM)
        page.succeed()


def ended(cluster: Cluster) -> Path:
    leader = cluster.leader(TINY)
    for program in (leader, *(cluster.learner(leader, "--name", name, *noise(name)) for name in "ab")):
        program.succeed()
    return leader.run_dir


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}: no run there"):
        view_of(RunFolder(tmp_path))
