"""A real Prometheus and Alertmanager watch a real run: all that the dashboard asks is there, and a kill is told of."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from protos import leader_pb2
from protos.leader_pb2_grpc import LeaderServiceStub
from tests.clusters import TINY
from tests.deploy.test_grafana import PANELS, filled
from tests.integration.harness import Cluster, Leader, Settings
from tests.tools.needs import need_commands
from tests.tools.ports import closed_address
from tests.tools.servers import serving

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
INSTALL = "apt-get install prometheus prometheus-alertmanager"
TIMEOUT_S = 60.0
SLOW = "tests.integration.noise_task:SlowNoise"
#: A private run, slow enough to be looked at, with scores and a service that is away.
WATCHED: Settings = {
    **TINY,
    "rounds": 5_000,
    "model.task": SLOW,
    "web.listen": "127.0.0.1:0",
    "data.source": "noise",
    "evaluation.every": 1,
    "dp.mode": "central",
    "dp.epsilon": 1e5,
    "aggregate.weighting": "uniform",
    "model.local": "norm.*",
}


@pytest.fixture(autouse=True)
def _commands() -> None:
    need_commands("prometheus", "promtool", "prometheus-alertmanager", install=INSTALL)


def port() -> int:
    return int(closed_address().rpartition(":")[2])


class Webhook(BaseHTTPRequestHandler):
    """Where Alertmanager sends what it has."""

    told: queue.SimpleQueue[dict[str, Any]]

    def do_POST(self) -> None:
        for alert in json.loads(self.rfile.read(int(self.headers["content-length"])))["alerts"]:
            self.told.put(alert)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not to the test's output."""


@contextmanager
def webhook() -> Iterator[tuple[str, queue.SimpleQueue[dict[str, Any]]]]:
    """The URL of a webhook, and the alerts that it gets."""
    told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    server = HTTPServer(("127.0.0.1", 0), type("Hook", (Webhook,), {"told": told}))
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def watched(target: str, folder: Path) -> Iterator[tuple[str, queue.SimpleQueue[dict[str, Any]]]]:
    """The shipped configuration, in a hurry, looking at `target`: Prometheus' URL, and the alerts that come out."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    rules = yaml.safe_load((DEPLOY / "flockstep.rules.yml").read_text())
    routing = yaml.safe_load((DEPLOY / "alertmanager.yml").read_text())
    ours, alerts = port(), port()
    with webhook() as (hook, told):
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alerts}"]
        for rule in rules["groups"][0]["rules"]:
            if "for" in rule:
                rule["for"] = "1s"
        routing["route"]["group_wait"] = "100ms"
        routing["receivers"][0]["webhook_configs"][0]["url"] = hook
        for name, content in (("prometheus", config), ("flockstep.rules", rules), ("alertmanager", routing)):
            (folder / f"{name}.yml").write_text(yaml.safe_dump(content))
        flags = ["--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{ours}"]
        prometheus = ["prometheus", *flags, "--storage.tsdb.path=tsdb"]
        flags = ["--config.file=alertmanager.yml", f"--web.listen-address=127.0.0.1:{alerts}"]
        manager = ["prometheus-alertmanager", *flags, "--cluster.listen-address=", "--storage.path=alerts"]
        with serving(manager, alerts, folder), serving(prometheus, ours, folder):
            yield f"http://127.0.0.1:{ours}", told


def asked(prometheus: str, query: str) -> list[dict[str, Any]]:
    told = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}, timeout=TIMEOUT_S)
    if told.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # it listens before it is ready
        return []
    answer = told.json()
    assert answer["status"] == "success", answer
    rows: list[dict[str, Any]] = answer["data"]["result"]
    return rows


def awaited(prometheus: str, query: str) -> None:
    """Wait until the query gives a row."""
    deadline = time.monotonic() + TIMEOUT_S
    while not asked(prometheus, query):
        assert time.monotonic() < deadline, query
        time.sleep(0.1)  # Prometheus tells nobody when it has scraped


def unanswered(prometheus: str, target: str) -> set[str]:
    """The dashboard's queries that give no rows of this target, once no more come."""
    missing = {query["expr"] for panel in PANELS for query in panel["targets"]}
    deadline = time.monotonic() + TIMEOUT_S
    while missing and time.monotonic() < deadline:
        for query in list(missing):
            rows = asked(prometheus, filled(query))
            if rows and all(row["metric"]["instance"] == target for row in rows):
                missing.remove(query)
        time.sleep(0.1)  # Prometheus tells nobody when it has scraped
    return missing


def call_as_a_stranger(leader: Leader) -> None:
    with grpc.insecure_channel(leader.address) as channel, pytest.raises(grpc.RpcError):
        LeaderServiceStub(channel).AccumulateGradients(
            iter([leader_pb2.GradientData(chunk=b"nothing")]), timeout=TIMEOUT_S
        )


def test_every_query_of_the_dashboard_gives_rows_and_an_alert_tells_of_a_killed_leader(
    cluster: Cluster, tmp_path: Path
) -> None:
    away = f"mongodb://{closed_address()}/flockstep?serverSelectionTimeoutMS=500"
    leader = cluster.leader({**WATCHED, "services.mongodb.url": away})
    for name in "ab":
        cluster.learner(leader, "--name", name, "--task", SLOW, "--data", name)
    leader.event("Evaluated")
    url = (leader.run_dir / "page").read_text().strip()
    target = url.removeprefix("http://").rstrip("/")
    with watched(target, tmp_path) as (prometheus, told):
        call_as_a_stranger(leader)
        assert unanswered(prometheus, target) == set()
        (row,) = asked(prometheus, "flockstep_learners_connected")
        assert row["value"][1] == "2"
        awaited(
            prometheus, 'flockstep_service_up{service="mongodb"} == 0'
        )  # its client takes seconds to give up
        awaited(
            prometheus, 'flockstep_service_rows_waiting{service="mongodb"} > 2'
        )  # a learner each, and the rounds
        text = httpx.get(f"{url}metrics", timeout=TIMEOUT_S).content
        subprocess.run(["promtool", "check", "metrics"], input=text, check=True, capture_output=True)

        leader.signal(signal.SIGKILL)
        alert = told.get(timeout=TIMEOUT_S)
        while (
            alert["labels"]["alertname"] != "LeaderDown"
        ):  # such as that the loss of a few noisy rounds jumps
            alert = told.get(timeout=TIMEOUT_S)
        assert alert["labels"]["instance"] == target
        assert alert["status"] == "firing"


def test_promtool_and_amtool_find_nothing_wrong_with_the_files() -> None:
    for command in (
        ["promtool", "check", "config", "prometheus.yml"],
        ["promtool", "check", "rules", "--lint=all", "--lint-fatal", "flockstep.rules.yml"],
        ["promtool", "test", "rules", "flockstep.test.yml"],
        ["amtool", "check-config", "alertmanager.yml"],
    ):
        subprocess.run(command, cwd=DEPLOY, check=True, capture_output=True)
