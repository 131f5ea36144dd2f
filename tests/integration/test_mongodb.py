"""A real server that speaks MongoDB's protocol (SecantusDB) follows a run: both are ended, and reads go by an index."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from leader.services.mongodb import open_database, question
from leader.services.record.file import TABLES
from scripts.history import QUERIES, ask
from tests.clusters import TINY
from tests.integration.harness import cluster_in, noise, succeed
from tests.tools.needs import need_commands
from tests.tools.ports import closed_address
from tests.tools.servers import serving

OWN = Path(__file__).parents[2] / ".services" / "bin"  # where .ci/services puts commands
ROUNDS = 110


def secantus(
    folder: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> AbstractContextManager[Popen[bytes]]:
    """The server with its data in a folder, at an address of loopback."""
    monkeypatch.setenv("PATH", f"{OWN}{os.pathsep}{os.environ['PATH']}")
    need_commands("secantusd-py", install=".ci/services")
    port = address.rpartition(":")[2]
    place = ["--host", "127.0.0.1", "--port", port, "--storage-path", str(folder / "data")]
    return serving([shutil.which("secantusd-py") or "", *place, "--sync-on-commit"], int(port), folder)


def in_record(run_dir: Path) -> Mapping[str, list[tuple[Any, ...]]]:
    """All rows of a record by table, sorted by their keys."""
    with closing(sqlite3.connect(run_dir / "metadata.sqlite")) as database:
        return {
            table: sorted(database.execute(f"SELECT {', '.join(columns)} FROM {table}"), key=repr)
            for table, columns in TABLES.items()
        }


def in_mongodb(url: str) -> Mapping[str, list[tuple[Any, ...]]]:
    """The same of the one run in a database."""
    client, database = open_database(url)
    with closing(client):
        return {
            table: sorted(
                (tuple(document[name] for name in columns) for document in database[table].find()), key=repr
            )
            for table, columns in TABLES.items()
        }


@pytest.mark.timeout(300)
def test_every_row_is_there_once_after_the_server_was_ended_and_the_leader_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = closed_address()
    url = f"mongodb://{address}/runs"
    settings = {**TINY, "rounds": ROUNDS, "evaluation.holdout": 0.25, "evaluation.federated_every": 1}
    with cluster_in(tmp_path) as cluster:
        with secantus(tmp_path, address, monkeypatch) as server:
            faults = "stop@leader.selecting:3,kill@leader.committed:105"
            leader = cluster.leader({**settings, "services.mongodb.url": url}, faults=faults)
            crew = [cluster.learner(leader, "--name", name, *noise(name)) for name in "ab"]
            leader.frozen()
            server.terminate()  # not SIGKILL, after which this server does not always start again
            server.wait()
        leader.signal(signal.SIGCONT)
        assert leader.wait() == -signal.SIGKILL
        place = ["--resume", str(leader.run_dir), "--listen", leader.address, "--log-format", "json"]
        soon = ["--set", f"services.mongodb.url={url}?timeoutMS=500"]  # nobody is there
        resumed = cluster.program("leader", ["tests.integration.brief_end", *place, *soon])
        succeed(resumed, *crew)
        away, behind = [entry["message"] for entry in resumed.events("log") if entry["level"] == "warning"]
        assert away.startswith("mongodb is away (")
        assert behind.startswith("mongodb does not have ")
        with secantus(tmp_path, address, monkeypatch):
            later = cluster.resumed(leader, "--set", f"services.mongodb.url={url}")
            succeed(later)
            assert in_mongodb(url) == in_record(later.run_dir)
            assert_history_is_indexed_and_the_same(url, later.run_dir)
    with closing(sqlite3.connect(leader.run_dir / "metadata.sqlite")) as database:
        counts = [
            database.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("rounds", "participation")
        ]
    assert counts == [ROUNDS, 2 * ROUNDS]


def assert_history_is_indexed_and_the_same(url: str, run_dir: Path) -> None:
    """Check that each query gives what it gives for the folder, and that each of its reads goes by an index."""
    client, database = open_database(url)
    with closing(client):
        run_id = database["run"].find_one({"key": "run_id"})["value"]  # type: ignore[index]
        for name, query in QUERIES.items():
            learner = "a" if name == "who" else ""
            assert ask(query, url, learner) == ask(query, str(run_dir), learner)
            for table in ("run", *query.tables):
                plan = database[table].find(question(run_id, table, learner)).explain()["queryPlanner"]
                assert "IXSCAN" in str(plan["winningPlan"]), f"{name} scans {table}"
        plan = database["run"].find({"key": "run_id"}).explain()["queryPlanner"]["winningPlan"]
        assert "IXSCAN" in str(plan)
