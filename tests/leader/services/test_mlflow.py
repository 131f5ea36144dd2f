"""What MLflow is told of a run's state, by a server that notes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leader.config import RunConfig
from leader.services.mlflow import MlflowFollower
from leader.services.record.file import RESUMED, Row
from leader.storage.run_folder import RunFolder


class Server:
    """Stands for MLflow's client."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def update_run(self, run: str, status: str) -> None:
        self.states.append(status)

    def set_terminated(self, run: str, status: str) -> None:
        self.states.append(status)

    def log_artifact(self, run: str, path: str) -> None:
        pass


def test_a_run_that_was_resumed_while_mlflow_was_away_is_running(tmp_path: Path) -> None:
    folder, server = RunFolder(tmp_path), Server()
    folder.summary.write_text('{"stopped": "by SIGTERM"}')
    follower = MlflowFollower(RunConfig(), folder, "r")
    opened: Any = (server, "1")
    follower._opened = opened
    keys = ("finished_round", "stopped", f"{RESUMED}7")
    follower.send([Row(seq, "run", {"key": key, "value": 3}) for seq, key in enumerate(keys, 1)])
    assert server.states == ["KILLED", "RUNNING"]
    follower.send([Row(9, "run", {"key": "finished_round", "value": 5})])
    assert server.states == ["KILLED", "RUNNING", "KILLED"]
