"""Learners without gRPC in whole runs: what they send counts as any other's does, and is judged as strictly."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from safetensors.numpy import load, save

from leader.events import CallRefused, LearnerJoined, LearnerLeft, UpdateAccepted
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.cluster.test_identities import secure
from tests.clusters import TINY, Settings, join, play, train
from tests.http_learner import Requests, learn
from tests.leader.trust.fleet import Fleet
from tests.strangers import Stranger, update_of
from tests.tools.needs import need_commands
from utils.trust.names import TLS_NAME

HTTP: Settings = {"http.listen": "127.0.0.1:0"}


def requests_to(cluster: Cluster, **headers: str) -> Requests:
    return Requests((cluster.run_dir / "http").read_text(encoding="utf-8"), headers=dict(headers))


@pytest.fixture(scope="module")
def reference() -> str:
    """SHA-256 of what two learners over gRPC train."""
    return play(train).model_sha256


@pytest.mark.parametrize("in_json", [False, True])
def test_a_learner_over_http_counts_with_the_bits_of_one_over_grpc(reference: str, in_json: bool) -> None:
    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a")
        assert await learn(requests_to(cluster), "b", in_json=in_json) == 3
        await cluster.finished()

    run = play(scenario, {**TINY, **HTTP})
    assert run.model_sha256 == reference
    assert {event.name: event.control for event in run.seen(LearnerJoined)} == {"a": "session", "b": "plain"}
    assert len(run.seen(UpdateAccepted)) == 6
    assert run.seen(CallRefused) == []


async def both_send(cluster: Cluster, of_b: bytes) -> None:
    """All of one round, by learners over gRPC: a's update is of zeros."""
    async with Stranger(cluster.address) as a, Stranger(cluster.address) as b:
        for name, one in (("a", a), ("b", b)):
            own = leader_pb2.OwnData(examples=24, fingerprint=name)
            await one.register(name, own_data=own)
            await one.open_session()
        for one, file in ((b, of_b), (a, update_of(cluster.app.layout, 0.0))):
            order = await one.work()
            assert (await one.send(file, order.work_id, examples=24)).success
        await cluster.committed(1)


def test_whatever_is_wrong_is_refused_as_over_grpc_and_changes_nothing() -> None:
    refused: list[tuple[int, str]] = []

    async def scenario(cluster: Cluster) -> None:
        layout = cluster.app.layout
        good, stranger = update_of(layout, 0.5), requests_to(cluster)
        a, b = requests_to(cluster), requests_to(cluster)
        for name, one in (("a", a), ("b", b)):
            assert (await one.register(name, own_data={"examples": 24, "fingerprint": name})).status == 200
        of_a, order = await a.order(), await b.order()
        work = order["work_id"]

        async def wrong(one: Requests, method: str, path: str, body: Any = None, **query: Any) -> None:
            answer = await one.ask(method, path, body, **query)
            assert answer.said["message"].isprintable()
            refused.append(answer.refusal)

        await wrong(stranger, "POST", "/register", "{")
        await wrong(stranger, "POST", "/register", '{"control": "CONTROL_SESSION"}')
        await wrong(stranger, "POST", "/register", " " * 70_000)
        await wrong(stranger, "GET", "/work")
        await wrong(stranger, "GET", "/nowhere")
        await wrong(stranger, "PUT", "/model")
        await wrong(b, "GET", "/model", version=7)
        await wrong(b, "GET", "/model", version=-1)
        await wrong(b, "GET", "/model", have=0)
        await wrong(b, "GET", "/data")
        await wrong(b, "POST", "/aggregate", good)
        await wrong(b, "POST", "/aggregate", good, work_id=work, offset=4)
        await wrong(b, "POST", "/aggregate", iter([good]), work_id=work)  # of no length
        await wrong(b, "POST", "/aggregate", good, work_id=of_a["work_id"])
        bad = [
            ({"crc32": 1}, good),
            ({}, update_of(layout, np.nan)),
            ({}, update_of(layout, 1e30)),
            ({"examples": 25}, good),
            ({}, good[:-4]),
            ({}, good + b"more"),
            ({}, b"no safetensors"),
        ]
        for query, file in bad:
            refused.append((await b.send(order, file, **query)).refusal)
        assert (await b.send(order, good, examples=24)).said == {"success": True, "message": "counted"}
        refused.append((await b.send(order, good, examples=24)).refusal)
        assert (await a.send(of_a, update_of(layout, 0.0), examples=24)).status == 200
        await cluster.finished()
        assert cluster.summary["refused"] == Counter(kind for _, kind in refused if kind)

    run = play(scenario, {**TINY, **HTTP, "rounds": 1})
    assert refused == [
        (400, "PayloadError"),
        (400, "PayloadError"),
        (413, "LimitError"),
        (401, "UnknownLearnerError"),
        (404, ""),
        (404, ""),
        (410, "LateUpdateError"),
        (400, "PayloadError"),
        (400, "PayloadError"),
        (400, "PayloadError"),
        (400, "PayloadError"),
        (400, "PayloadError"),
        (400, "PayloadError"),
        (410, "LateUpdateError"),
        (422, "ChecksumError"),
        (422, "ValueRangeError"),
        (422, "ValueRangeError"),
        (413, "LimitError"),
        (413, "LimitError"),
        (400, "PayloadError"),
        (413, "LimitError"),
        (409, "DuplicateUpdateError"),
    ]
    over_grpc = play(
        lambda cluster: both_send(cluster, update_of(cluster.app.layout, 0.5)), {**TINY, "rounds": 1}
    )
    assert run.model_sha256 == over_grpc.model_sha256


#: What the shell's learner calls to train: half of each value, so that nothing is rounded.
HALVE = """\
import numpy as np
from safetensors.numpy import load_file, save_file
model = load_file("model.safetensors")
save_file({name: tensor * np.float32(-0.5) for name, tensor in model.items()}, "update.safetensors")
"""


async def over_grpc(cluster: Cluster) -> None:
    """What the shell does, by a client of the contract."""
    async with Stranger(cluster.address) as b:
        await b.register("b", own_data=leader_pb2.OwnData(examples=24, fingerprint="b"))
        await b.open_session()
        for _ in range(cluster.config.rounds):
            order = await b.work()
            asked = leader_pb2.Empty(token=b.token, version=order.version)
            model = b"".join([chunk.chunk async for chunk in b.stub.GetModel(asked)])
            arrays = load(model)
            await b.send(
                save({k: v * np.float32(-0.5) for k, v in arrays.items()}), order.work_id, examples=24
            )
        await cluster.committed(cluster.config.rounds)


def test_a_learner_of_curl_and_a_shell_takes_part_in_a_secure_run(
    tmp_path: Path, token: Callable[..., str]
) -> None:
    need_commands("curl", "gzip", "od", install="apt-get install curl gzip coreutils")
    bearer = f"authorization: Bearer {token(sub='b')}"
    script = Path(__file__).parents[2] / "examples" / "curl_learner.sh"
    (tmp_path / "halve.py").write_text(HALVE)

    async def scenario(cluster: Cluster) -> None:
        url = (cluster.run_dir / "http").read_text(encoding="utf-8")
        port = url.rpartition(":")[2]
        known = ["--cacert", "trust/ca.pem", "--resolve", f"{TLS_NAME}:{port}:127.0.0.1"]
        train_by = f"{sys.executable} halve.py"
        learner = await asyncio.create_subprocess_exec(
            script,
            f"https://{TLS_NAME}:{port}",
            "b",
            "24",
            train_by,
            *known,
            "--header",
            bearer,
            cwd=tmp_path,
            stdout=PIPE,
            stderr=STDOUT,
        )
        output, _ = await learner.communicate()
        assert output.decode().splitlines()[:2] == ["round 1: counted", "round 2: counted"]
        await cluster.finished()

    settings = {"learners": 1, "rounds": 2}
    run = play(
        scenario,
        secure(tmp_path, trust__jwt_jwks=tmp_path / "jwks.json", **settings, http__listen="127.0.0.1:0"),
    )
    assert [(event.name, event.control) for event in run.seen(LearnerJoined)] == [("b", "plain")]
    assert run.model_sha256 == play(over_grpc, {**TINY, **settings}).model_sha256
    assert run.seen(CallRefused) == []


def test_who_may_do_what_is_said_by_the_jwt_alone(tmp_path: Path, token: Callable[..., str]) -> None:
    refused = []

    async def scenario(cluster: Cluster) -> None:
        url, fleet = (cluster.run_dir / "http").read_text(encoding="utf-8"), Fleet(tmp_path / "trust")
        assert url.startswith("https://127.0.0.1:")

        def bearing(role: str = "learner", sub: str = "b", **claims: Any) -> Requests:
            said = {"authorization": f"Bearer {token(sub=sub, flockstep_role=role, **claims)}"}
            return Requests(url, tmp_path / "trust" / "ca.pem", said)

        nobody = Requests(url, tmp_path / "trust" / "ca.pem")
        forged = Requests(url, tmp_path / "trust" / "ca.pem", {"x-forwarded-client-cert": xfcc(fleet)})
        operator, b, c = bearing("operator", "olga"), bearing(), bearing(sub="c")
        file = update_of(cluster.app.layout, 0.0)
        for one in (nobody, forged, bearing(aud="another"), bearing("observer"), operator):
            answer = await one.send({"work_id": "w"}, file)
            refused.append(answer.refusal)
            assert ("www-authenticate" in answer.headers) == (answer.status == 401)
        assert (await operator.get("/model")).status == 200
        own = {"examples": 24, "fingerprint": "b"}
        assert (await b.register(own_data=own)).said["name"] == "b"
        refused.append((await c.register("b", own_data=own)).refusal)
        order = await b.order()
        stolen = bearing(sub="c")
        stolen.headers["flockstep-token"] = b.headers["flockstep-token"]
        refused.append((await stolen.send(order, file)).refusal)
        del b.headers["flockstep-token"]  # whose learner this is the JWT tells
        assert (await b.send(order, file, examples=24)).status == 200
        fleet.revoke("b")
        await cluster.event(LearnerLeft, name="b")
        refused.append((await b.get("/model")).refusal)

    settings = {"learners": 1, "trust__jwt_jwks": tmp_path / "jwks.json", "http__listen": "127.0.0.1:0"}
    run = play(scenario, secure(tmp_path, **settings))
    assert refused == [
        (401, "ForbiddenError"),
        (401, "ForbiddenError"),
        (403, "ForbiddenError"),
        (403, "ForbiddenError"),
        (403, "ForbiddenError"),
        (403, "ForbiddenError"),
        (401, "UnknownLearnerError"),
        (403, "ForbiddenError"),
    ]
    assert len(run.seen(UpdateAccepted)) == 1


def test_a_bearer_hears_at_once_that_its_update_counts_already(
    tmp_path: Path, token: Callable[..., str]
) -> None:
    """It owes nothing then, and no work of its own comes before the other learner has sent its update."""

    async def scenario(cluster: Cluster) -> None:
        url, ca, learners = (
            (cluster.run_dir / "http").read_text(encoding="utf-8"),
            tmp_path / "trust" / "ca.pem",
            [],
        )
        for name in "bc":
            learners.append(Requests(url, ca, {"authorization": f"Bearer {token(sub=name)}"}))
            await learners[-1].register(own_data={"examples": 24, "fingerprint": name})
        (b, c), file = learners, update_of(cluster.app.layout, 0.0)
        order = await b.order()
        assert (await b.send(order, file, examples=24)).status == 200
        async with asyncio.timeout(20):
            assert (await b.send(order, file, examples=24)).refusal == (409, "DuplicateUpdateError")
        assert (await c.send(await c.order(), file, examples=24)).status == 200
        await cluster.finished()

    settings = {"rounds": 1, "trust__jwt_jwks": tmp_path / "jwks.json", "http__listen": "127.0.0.1:0"}
    play(scenario, secure(tmp_path, **settings))


def xfcc(fleet: Fleet) -> str:
    return f'Cert="{quote(fleet.admit("ann").certificate.decode())}"'


@pytest.mark.parametrize("wait_s", ["1e300", "Infinity", "NaN", "-1", "0"])
def test_a_wait_for_work_is_no_longer_than_any_call_may_stall(wait_s: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        asking = requests_to(cluster)
        await asking.register("b", own_data={"examples": 24, "fingerprint": "b"})
        assert (await asking.get("/work", wait_s=wait_s)).said == {"orders": [], "over": False}

    play(scenario, {**TINY, **HTTP, "limits.stall_s": 0.05})
