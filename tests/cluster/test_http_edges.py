"""Learners without gRPC at edges: the bits of the run without, and their ticket is all that lets them in."""

from __future__ import annotations

import asyncio
import logging
import ssl
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from leader.events import CallRefused, RoundCommitted, UpdateAccepted
from scripts.cluster import Cluster
from tests.cluster.test_http import HTTP, requests_to
from tests.cluster.test_identities import secure
from tests.cluster.test_secure_edges import files, token_of
from tests.clusters import TINY, Settings, join, one_edge, play, train
from tests.http_learner import JSON, Answer, Requests, as_json, learn
from tests.leader.trust.identities.test_own_pki import said
from tests.strangers import update_of
from utils.trust.names import EDGE_TLS_NAME

EDGES: Settings = {**HTTP, "edges.listen": "127.0.0.1:0"}


@pytest.mark.parametrize("in_json", [False, True])
def test_updates_of_requests_are_summed_at_an_edge_with_the_bits_of_a_run_without(in_json: bool) -> None:
    async def scenario(cluster: Cluster) -> None:
        await one_edge(cluster, http_listen="127.0.0.1:0")
        join(cluster, "a")
        assert await learn(requests_to(cluster), "b", in_json=in_json, at_edges=True) == 3
        await cluster.finished()

    through, plain = play(scenario, {**TINY, **EDGES}), play(train)
    assert through.model_sha256 == plain.model_sha256
    assert len(through.seen(UpdateAccepted)) == 6
    assert through.seen(CallRefused) == []
    up = [[event.bytes_up for event in run.seen(RoundCommitted)] for run in (through, plain)]
    assert up[0] != up[1]  # a sum, in place of updates


def test_what_no_ticket_allows_is_refused_at_an_edge_and_changes_nothing() -> None:
    refused: list[tuple[int, str]] = []

    async def scenario(cluster: Cluster) -> None:
        await one_edge(cluster, http_listen="127.0.0.1:0")
        layout, leader = cluster.app.layout, requests_to(cluster)
        await leader.register("b", own_data={"examples": 24, "fingerprint": "b"})
        order, good = await leader.order(), update_of(cluster.app.layout, 0.5)
        edge, ticket = leader.at_edge(order), order["via"]["ticket"]

        async def wrong(answer: Answer) -> None:
            assert answer.said["message"].isprintable()
            refused.append(answer.refusal)

        changed = bytearray(b64decode(ticket))
        changed[-1] ^= 1
        leaders_word = {"flockstep-token": leader.headers["flockstep-token"]}
        for headers in ({"flockstep-ticket": b64encode(changed).decode()}, {}, leaders_word):
            stranger = Requests(edge.url, headers=headers)
            await wrong(await stranger.send(order, good, examples=24))
            await wrong(await stranger.get("/model", version=order["version"]))
        await wrong(await edge.get("/model", version=7))
        await wrong(await edge.get("/work"))
        await wrong(await edge.ask("POST", "/register", "{}"))
        await wrong(await edge.send({"work_id": "1-0-other"}, good, examples=24))
        await wrong(await edge.send(order, good, examples=25))
        await wrong(await edge.send(order, good + bytes(cluster.config.limits.header_bytes + 1), examples=24))
        await wrong(
            await edge.ask(
                "POST", "/aggregate", b" " * (1 << 20) + as_json(good), JSON, work_id=order["work_id"]
            )
        )
        await wrong(await edge.send(order, update_of(layout, np.nan), examples=24))
        assert (await edge.send(order, good, examples=24)).said == {"success": True, "message": "counted"}
        await cluster.finished()

    one = {"learners": 1, "rounds": 1}
    through = play(scenario, {**TINY, **EDGES, **one})
    assert refused == [(403, "ForbiddenError")] * 7 + [
        (404, ""),
        (404, ""),
        (400, "PayloadError"),
        (413, "LimitError"),
        (413, "LimitError"),
        (413, "LimitError"),
        (422, "ValueRangeError"),
    ]

    async def plain(cluster: Cluster) -> None:
        leader = requests_to(cluster)
        await leader.register("b", own_data={"examples": 24, "fingerprint": "b"})
        await leader.send(await leader.order(), update_of(cluster.app.layout, 0.5), examples=24)
        await cluster.finished()

    assert through.model_sha256 == play(plain, {**TINY, **HTTP, **one}).model_sha256


def test_in_a_secure_run_an_edge_shows_its_certificate_and_asks_for_the_ticket_alone(
    tmp_path: Path, token: Callable[..., str]
) -> None:

    async def scenario(cluster: Cluster) -> None:
        await one_edge(cluster, http_listen="127.0.0.1:0", **files(tmp_path, "east"))
        join(cluster, "a")
        leader = requests_to(cluster, authorization=f"Bearer {token(sub='b')}")
        leader.ca = tmp_path / "trust" / "ca.pem"
        hub = cluster.app._wiring.hub
        assert hub is not None
        (url,) = hub.urls
        assert url.startswith("https://127.0.0.1:")
        ticket = {"flockstep-ticket": b64encode(bytes(64)).decode()}
        forged = Requests(url, leader.ca, ticket, EDGE_TLS_NAME)
        assert (await forged.get("/model")).refusal == (403, "ForbiddenError")
        assert await learn(leader, "b", at_edges=True) == 3
        await cluster.finished()

    settings = {"trust__jwt_jwks": tmp_path / "jwks.json", "http__listen": "127.0.0.1:0"}
    through = play(scenario, secure(tmp_path, edges__listen="127.0.0.1:0", **settings))
    assert through.model_sha256 == play(train).model_sha256
    assert through.seen(CallRefused) == []


def test_https_of_an_edge_shows_its_new_certificate_once_that_is_renewed(
    tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def shown(requests: Requests) -> str:
        with closing(requests.connect()) as connection:
            connection.connect()
            assert isinstance(connection.sock, ssl.SSLSocket)
            der = connection.sock.getpeercert(binary_form=True)
            assert der is not None
            return ssl.DER_cert_to_PEM_cert(der)

    async def scenario(cluster: Cluster) -> None:
        await one_edge(cluster, http_listen="127.0.0.1:0", join=token_of(tmp_path))
        hub = cluster.app._wiring.hub
        assert hub is not None
        edge = Requests(hub.urls[0], tmp_path / "trust" / "ca.pem", tls_name=EDGE_TLS_NAME)
        before = await asyncio.to_thread(shown, edge)
        await said("HTTPS shows another certificate")
        assert await asyncio.to_thread(shown, edge) != before

    play(scenario, secure(tmp_path, edges__listen="127.0.0.1:0", trust__cert_hours=6 / 3600))
