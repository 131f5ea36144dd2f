"""The logs of a real run as Elasticsearch gets them: by the schema, one trace a round, and taken by a real `_bulk`."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from protos import leader_pb2
from protos.leader_pb2_grpc import LeaderServiceStub
from tests.clusters import TINY
from tests.integration.harness import Cluster, noise, succeed
from tests.tools.needs import need_commands
from tests.tools.ports import closed_address
from tests.tools.servers import serving
from tests.utils.ecs import problems

DEPLOY = Path(__file__).parents[2] / "deploy"
Entry = dict[str, Any]


def call_as_a_stranger(address: str) -> None:
    """One call that is refused, once somebody listens."""
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(60.0)
        pieces = iter([leader_pb2.GradientData(chunk=b"nothing")])
        with pytest.raises(grpc.RpcError):
            LeaderServiceStub(channel).AccumulateGradients(pieces, timeout=60.0)


def run(cluster: Cluster) -> list[str]:
    """All lines of a leader and two learners over three rounds."""
    address, flags = closed_address(), ["--log-format", "ecs"]
    settings = [f"{key}={value}" for key, value in {**TINY, "log.level": "debug"}.items()]
    sets = [argument for text in settings for argument in ("--set", text)]
    place = ["--listen", address, "--run-dir", str(cluster.folder / "run")]
    leader = cluster.program("leader", ["leader", *flags, *place, *sets])
    call_as_a_stranger(address)
    more = ["--leader", address, "--log-level", "debug", "--device", "cpu", "--threads", "1"]
    crew = [
        cluster.program("learner", ["learner", *flags, *more, "--name", name, *noise(name)]) for name in "ab"
    ]
    succeed(leader, *crew)
    return [line for program in (leader, *crew) for line in program.output.splitlines() if line[0] == "{"]


@pytest.fixture(scope="module")
def lines(lasting: Cluster) -> list[str]:
    return run(lasting)


@pytest.fixture(scope="module")
def entries(lines: list[str]) -> list[Entry]:
    return [json.loads(line) for line in lines]


def test_all_lines_of_a_run_fit_the_schema(lines: list[str], entries: list[Entry]) -> None:
    assert problems(lines) == []
    programs = {entry["service.name"] for entry in entries}
    assert programs == {"flockstep-leader", "flockstep-learner"}
    (refused,) = [entry for entry in entries if entry.get("event.action") == "CallRefused"]
    assert refused["event.outcome"] == "failure"
    assert refused["event.reason"] in refused["message"]


def test_a_rounds_lines_have_one_trace_at_the_leader_and_at_both_learners(entries: list[Entry]) -> None:
    traces = defaultdict(set)
    for entry in entries:
        if "trace.id" in entry:
            who = entry.get("flockstep.learner.name", "leader")
            traces[entry["flockstep.round"]].add((who, entry["trace.id"]))
    assert sorted(traces) == [1, 2, 3]
    for round_, found in traces.items():
        assert {who for who, _ in found} == {"leader", "a", "b"}, round_
        assert len({trace for _, trace in found}) == 1
    assert len({trace for found in traces.values() for _, trace in found}) == 3
    assert len({entry["flockstep.run.id"] for entry in entries if "flockstep.run.id" in entry}) == 1


def test_elasticsearchs_bulk_takes_every_line_and_counts_by_its_fields(
    lines: list[str], entries: list[Entry], tmp_path: Path
) -> None:
    need_commands("noida-db", install=".ci/services")
    port = int(closed_address().rpartition(":")[2])
    command = ["noida-db", "start", "--data-dir", str(tmp_path / "data"), "--only", "elasticsearch"]
    with serving([*command, "--elasticsearch-port", str(port)], port, tmp_path):
        url = f"http://127.0.0.1:{port}"
        body = "".join(f'{{"create":{{}}}}\n{line}\n' for line in lines)
        headers = {"content-type": "application/x-ndjson"}
        bulk = f"{url}/logs-flockstep-default/_bulk?refresh=true"
        taken = httpx.post(bulk, content=body, headers=headers, timeout=60.0).json()
        assert taken["errors"] is False
        assert [item["create"]["status"] for item in taken["items"]] == [201] * len(lines)
        query = {
            "size": 0,
            "query": {"term": {"event.action.keyword": "RoundCommitted"}},
            "aggs": {
                "rounds": {"terms": {"field": "flockstep.round"}},
                "slowest": {"max": {"field": "event.duration"}},
            },
        }
        found = httpx.post(f"{url}/logs-flockstep-default/_search", json=query, timeout=60.0).json()
    assert sorted(b["key"] for b in found["aggregations"]["rounds"]["buckets"]) == [1, 2, 3]
    committed = [entry for entry in entries if entry.get("event.action") == "RoundCommitted"]
    slowest = max(entry["event.duration"] for entry in committed)
    assert found["aggregations"]["slowest"]["value"] == slowest


def test_filebeat_would_put_the_fields_where_the_schema_has_them() -> None:
    config = yaml.safe_load((DEPLOY / "filebeat.yml").read_text())
    (source,) = config["filebeat.inputs"]
    (parser,) = source["parsers"]
    assert source["type"] == "filestream"
    assert parser["ndjson"] == {
        "target": "",
        "overwrite_keys": True,
        "add_error_key": True,
        "expand_keys": True,
    }
    assert config["output.elasticsearch"]["index"].startswith("logs-flockstep-")
    assert config["output.elasticsearch"]["api_key"] == "${ELASTICSEARCH_API_KEY}"
