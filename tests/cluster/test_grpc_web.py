"""A page in a browser takes part by grpc-web, through a gateway that knows its site; pages of other sites do not."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from leader.events import CallRefused, LearnerJoined
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.cluster.test_identities import secure
from tests.clusters import TINY, play
from tests.http_learner import Answer, Requests, crc_of
from tests.leader.trust.fleet import Fleet
from tests.leader.trust.gateways import gateway_to
from tests.strangers import Stranger, update_of
from tests.tools.envoy import needs_envoy

pytestmark = needs_envoy
SITE = "https://fl.example.org"
OWN = leader_pb2.OwnData(examples=24, fingerprint="b")
_OF_TRAILERS = 0x80


class Page:
    """What a page of one site does with fetch, over HTTP/1.1."""

    def __init__(self, requests: Requests, origin: str = SITE) -> None:
        self._requests = requests
        self._origin = origin

    async def preflight(self) -> Answer:
        """What the browser asks before the page may call."""
        said = {"origin": self._origin, "access-control-request-method": "POST"}
        path = "/leader.LeaderService/GetModel"
        asking = Requests(self._requests.url, self._requests.ca)  # without the JWT
        return await asking.ask("OPTIONS", path, headers=said)

    async def call(self, method: str, *messages: Message) -> tuple[list[bytes], dict[str, str]]:
        """Messages of the answer; its headers and trailers."""
        body = b"".join(struct.pack(">BI", 0, one.ByteSize()) + one.SerializeToString() for one in messages)
        said = {"origin": self._origin, "content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
        answer = await self._requests.ask("POST", f"/leader.LeaderService/{method}", body, said)
        told, parts, rest = dict(answer.headers), [], answer.body
        while rest:
            kind, size = struct.unpack_from(">BI", rest)
            part, rest = rest[5 : 5 + size], rest[5 + size :]
            if kind == _OF_TRAILERS:
                told |= dict(line.split(":", 1) for line in part.decode().strip().split("\r\n"))
            else:
                parts.append(part)
        return parts, told


async def take_part(page: Page, file: bytes) -> bytes:
    """A round; returns the model that it was about."""
    said = leader_pb2.LearnerInfo(name="b", own_data=OWN)
    (registered,), _ = await page.call("RegisterLearner", said)
    token = leader_pb2.AckWithMetadata.FromString(registered).token
    (given,), told = await page.call("GetWork", leader_pb2.WorkRequest(token=token, wait_s=30))
    assert told["access-control-allow-origin"] == SITE
    assert "flockstep-error" in told["access-control-expose-headers"]
    order = leader_pb2.WorkOrders.FromString(given).orders[0]
    asked = leader_pb2.Empty(token=token, version=order.version)
    chunks, told = await page.call("GetModel", asked)
    assert told["grpc-status"] == "0"
    header = leader_pb2.UpdateHeader(token=token, work_id=order.work_id, examples=24, loss=0.5)
    header.total_bytes, header.crc32 = len(file), crc_of(file)
    half = len(file) // 2  # more than one message goes up in one body
    data = [leader_pb2.GradientData(header=header), leader_pb2.GradientData(chunk=file[:half])]
    (ack,), _ = await page.call("AccumulateGradients", *data, leader_pb2.GradientData(chunk=file[half:]))
    assert leader_pb2.Ack.FromString(ack) == leader_pb2.Ack(success=True, message="counted")
    return b"".join(leader_pb2.ModelChunk.FromString(chunk).chunk for chunk in chunks)


async def over_grpc(cluster: Cluster) -> bytes:
    """The same round."""
    async with Stranger(cluster.address) as b:
        await b.register("b", own_data=OWN)
        await b.open_session()
        order = await b.work()
        asked = leader_pb2.Empty(token=b.token, version=order.version)
        model = b"".join([chunk.chunk async for chunk in b.stub.GetModel(asked)])
        await b.send(update_of(cluster.app.layout, 0.5), order.work_id, examples=24)
        await cluster.committed(1)
        return model


def test_a_page_of_a_site_that_is_named_takes_part_and_no_other(
    tmp_path: Path, token: Callable[..., str]
) -> None:
    models: list[bytes] = []

    async def scenario(cluster: Cluster) -> None:
        fleet, folder = Fleet(tmp_path / "trust"), tmp_path / "edge"
        with gateway_to(cluster.address, fleet.authority, folder, cluster.config, origins=[SITE]) as envoy:

            def bearing(**claims: Any) -> Requests:
                jwt = token(sub="b", **claims)
                url, ca = f"https://{envoy.address}", tmp_path / "trust" / "ca.pem"
                return Requests(url, ca, {"authorization": f"Bearer {jwt}"})

            allowed = await Page(bearing()).preflight()
            assert (allowed.status, allowed.body) == (200, b"")
            assert allowed.headers["access-control-allow-origin"] == SITE
            assert "authorization" in allowed.headers["access-control-allow-headers"]
            for other in ("https://evil.example", "https://fl.example.org.evil.example", "null"):
                denied = await Page(bearing(), other).preflight()
                assert "access-control-allow-origin" not in denied.headers
            _, told = await Page(bearing(aud="elsewhere")).call("GetModel", leader_pb2.Empty())
            assert told["grpc-status"] in ("7", "16")
            assert told["access-control-allow-origin"] == SITE  # so that the page learns of it
            models.append(await take_part(Page(bearing()), update_of(cluster.app.layout, 0.5)))
            await cluster.finished()

    async def plain(cluster: Cluster) -> None:
        models.append(await over_grpc(cluster))

    one = {"learners": 1, "rounds": 1}
    run = play(scenario, secure(tmp_path, trust__jwt_jwks=tmp_path / "jwks.json", **one))
    assert [(event.name, event.control) for event in run.seen(LearnerJoined)] == [("b", "plain")]
    assert run.model_sha256 == play(plain, {**TINY, **one}).model_sha256
    assert models[0] == models[1]
    assert run.seen(CallRefused) == []
