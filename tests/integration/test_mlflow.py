"""A real MLflow server follows a run through kills of both, and keeps its models."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from leader.config.reference import Reference
from leader.services.mlflow import MEASURED
from leader.services.registry.base import open_registry, weights_sha256
from leader.services.registry.mlflow import open_client
from scripts.cluster import Cluster
from scripts.registry import main
from tests.clusters import TIMEOUT_S, TINY, Settings, join, play, train
from tests.tools.needs import need_commands
from tests.tools.ports import closed_address
from tests.tools.servers import serving
from utils.errors import UnreachableError

OWN = Path(__file__).parents[2] / ".services" / "bin"
ROUNDS = 130


class Server:
    """MLflow's own server, with what it keeps in a folder; killed and started as often as a test wants."""

    def __init__(self, program: str, folder: Path) -> None:
        self._folder = folder
        self._port = int(closed_address().rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self._port}"
        self._command = [
            "env",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",  # eight processes of its own that nothing here uses
            program,
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self._port),
            "--workers",
            "1",
        ]
        self._command += [
            "--backend-store-uri",
            "sqlite:///mlflow.db",
            "--artifacts-destination",
            "./artifacts",
        ]
        self._up: AbstractContextManager[Any] | None = None

    def start(self) -> None:
        self._up = serving(self._command, self._port, self._folder)
        self._up.__enter__()
        with urlopen(f"{self.url}/api/2.0/mlflow/experiments/search?max_results=1", timeout=60.0) as answer:
            assert answer.status == 200  # the first one takes seconds

    def kill(self) -> None:
        if self._up is not None:
            self._up.__exit__(None, None, None)
        self._up = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        if OWN.is_dir():
            patch.setenv("PATH", f"{OWN}{os.pathsep}{os.environ['PATH']}")
        need_commands("mlflow", install=".ci/services")
        program = shutil.which("mlflow")
    assert program is not None
    server = Server(program, tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def settings(server: Server) -> Settings:
    """A run that is tested after each round, and registers its last model."""
    return {
        **TINY,
        "data.source": "noise-test",
        "evaluation.every": 1,
        "evaluation.metric": "test_squared_error",
        "evaluation.mode": "min",
        "services.mlflow.url": server.url,
        "services.mlflow.model": "noise",
        "services.mlflow.register": "last",
    }


def test_a_run_is_there_once_after_both_were_killed_and_its_model_is_pulled_byte_for_byte(
    server: Server, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_client(server.url)

    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a")
        other = join(cluster, "b")
        await cluster.committed(3)
        await other.kill()  # so that no round ends meanwhile
        await asyncio.to_thread(caught_up, cluster)
        [first] = found(cluster)
        await asyncio.to_thread(server.kill)
        join(cluster, "b")
        await cluster.committed(cluster.app.coordinator.state.round + 100)
        await asyncio.gather(cluster.leader.kill(), asyncio.to_thread(server.start))
        assert cluster.app.coordinator.state.round < ROUNDS
        await cluster.resume()
        await cluster.finished()
        [run] = found(cluster)
        assert run.info.run_id == first.info.run_id
        check_run(cluster, run)
        check_model(cluster)

    def caught_up(cluster: Cluster) -> None:
        """Wait until the server has all that there is."""
        deadline = time.monotonic() + TIMEOUT_S
        while any(state.waiting or not state.up for state in cluster.app.services):
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)

    def found(cluster: Cluster) -> list[Any]:
        experiment = client.get_experiment_by_name("flockstep")
        run = cluster.app.coordinator.state.run_id
        return (
            []
            if experiment is None
            else client.search_runs([experiment.experiment_id], f"tags.`flockstep.run` = '{run}'")
        )

    def check_run(cluster: Cluster, run: Any) -> None:
        assert run.info.status == "FINISHED"
        assert (run.data.params["rounds"], run.data.params["train.batch_size"]) == (str(ROUNDS), "8")
        assert "services.mlflow.url" not in run.data.params
        for name in {*MEASURED, "test_squared_error"} - {"epsilon", "abandoned"}:
            points = client.get_metric_history(run.info.run_id, name)
            # A round whose evaluation was under way when its leader was killed has no score.
            told = [(record["round"], record[name]) for record in cluster.metrics if name in record]
            assert len(told) > ROUNDS // 2, name
            assert sorted(point.step for point in points) == [step for step, _ in told], name
            values = [point.value for point in sorted(points, key=lambda point: point.step)]
            assert values == pytest.approx([value for _, value in told], rel=0, abs=1e-6), name
        names = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"summary.json", "curves.png", "config.yaml", "lineage.json"} <= names

    def check_model(cluster: Cluster) -> None:
        out = tmp_path / "out"
        argv = ["--registry", server.url]
        assert main(["pull", "models:/noise@champion", "--out", str(out), *argv]) == 0
        pulled = out / "model.safetensors"
        assert pulled.read_bytes() == (cluster.run_dir / "model.safetensors").read_bytes()
        assert weights_sha256(pulled) == cluster.summary["model_sha256"]
        capsys.readouterr()
        assert main(["list", "noise", "--json", *argv]) == 0
        [row] = json.loads(capsys.readouterr().out)
        assert (row["run"], row["round"], row["aliases"]) == (cluster.summary["run"], ROUNDS, ["champion"])
        assert row["score"] == cluster.metrics[-1]["test_squared_error"]

    play(scenario, {**settings, "rounds": ROUNDS})


def test_a_run_starts_from_the_servers_champion_and_does_not_take_its_place_with_less(
    server: Server, settings: Settings
) -> None:
    registry = open_registry(server.url)
    champion = registry.find(Reference.parse("models:/noise@champion"))
    told = {**settings, "model.weights": "models:/noise@champion", "evaluation.mode": "max"}
    play(train, {**told, "rounds": 1, "train.lr": 1e-9, "evaluation.metric": "test_other"})
    assert registry.find(Reference.parse("models:/noise@champion")) == champion
    newest = registry.versions("noise")[-1]
    assert newest.number == champion.number + 1
    assert newest.card.parent == str(champion)
    registry.promote(newest, "champion")
    assert registry.find(Reference.parse("models:/noise@champion")) == registry.versions("noise")[-1]
    # Nor does a run that is over, and is started again, undo what was moved by hand.
    again = registry.publish("noise", Path("unread"), champion.card, "champion")
    assert (again.number, again.aliases) == (champion.number, ())
    assert registry.find(Reference.parse("models:/noise@champion")).number == newest.number


def test_a_server_that_is_away_is_one_line_and_quick() -> None:
    with pytest.raises(UnreachableError, match=r"^MLflow at http://.* did not do what was asked; is it up"):
        open_registry(f"http://{closed_address()}").versions()
