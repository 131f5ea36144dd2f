"""JWTs in a run of processes: an OpenID provider that rotates its key and goes down, and learners that come by it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from protos import leader_pb2, trust_pb2
from tests.integration.audits import told
from tests.integration.harness import Cluster, Leader, Settings, assert_same_bits, succeed
from tests.leader.trust.fleet import ALONE, watch
from tests.tools.oidc import OidcIssuer, oidc_issuer
from tests.tools.ports import closed_address
from utils.errors import EndedError, ForbiddenError
from utils.trust import contract
from utils.wire import contract as wire
from utils.wire.contract import Method
from utils.wire.status import failures_told

TIMEOUT_S = 20.0


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def ask(channel: aio.Channel, method: Method[Any, Any], request: Any, token: str) -> Any:
    """The answer to whoever bears the token."""
    with failures_told():
        call = method.open(channel, request, timeout=TIMEOUT_S, metadata=bearer(token))
        return method.told.read(await call)


async def operate(address: str, ca: bytes, issuer: OidcIssuer, old: str, new: str) -> None:
    """An operator looks on by a token that ends; one of a key that was withdrawn counts no more."""
    async with aio.secure_channel(address, grpc.ssl_channel_credentials(ca), ALONE) as channel:
        lasting = watch(channel, TIMEOUT_S, bearer(new))
        await lasting.read()
        end = time.time() + 2
        call = watch(channel, TIMEOUT_S, bearer(issuer.token("second", sub="olga", exp=end)))
        await call.read()
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert time.time() >= end - 0.1
        assert (await call.details()).startswith("leader: the JWT of olga ended on ")
        assert not lasting.done()
        for token, kind, words in (
            (issuer.token("second", sub="olga", exp=end), EndedError, "this JWT has ended; get a new one"),
            (old, ForbiddenError, "this JWT is refused: its issuer has no ES256 key of that kid"),
        ):
            with pytest.raises(kind, match=words):
                await ask(channel, contract.WHO_AM_I, trust_pb2.WhoAmIRequest(), token)
        found = await ask(channel, contract.LIST_IDENTITIES, trust_pb2.ListRequest(), new)
        assert [(one.name, one.how) for one in found.identities] == [("ann", "jwt")]
        with pytest.raises(ForbiddenError, match=r"otto \(operator\) may not call RegisterLearner"):
            await ask(channel, wire.REGISTER, leader_pb2.LearnerInfo(), new)


def test_learners_of_an_issuer_join_before_and_after_it_rotates_and_train_on_when_it_is_down(
    cluster: Cluster, tiny: Settings, undisturbed: Leader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    listen = closed_address()
    with oidc_issuer(tmp_path) as issuer:
        settings = {**tiny, "trust.jwt_listen": listen, "trust.jwt_issuer": issuer.url}
        leader = cluster.leader(settings, secure=True)
        ca = cluster.trust / "ca.pem"

        def exchange(token: str, name: str) -> list[str]:
            (tmp_path / name).write_text(token)
            return ["--jwt-file", str(tmp_path / name), "--jwt-leader", listen, "--ca", str(ca)]

        old = issuer.token("first", sub="ann", flockstep_role="learner")
        crew = [cluster.learner(leader, *exchange(old, "ann"))]
        leader.event("LearnerJoined", name="ann")
        issuer.rotate("second")
        operator = issuer.token("second", sub="otto")
        asyncio.run(operate(listen, ca.read_bytes(), issuer, old, operator))
        last = issuer.token("second", sub="bob", flockstep_role="learner")
    crew.append(cluster.learner(leader, *exchange(last, "bob")))
    succeed(leader, *crew)
    assert not any("eyJ" in program.output for program in (leader, *crew))
    audit = told(cluster.trust)
    assert audit["enrolled", "ann"] == audit["enrolled", "bob"] == 1
    refused = {who: audit["refused", who] for who in ("", "olga", "otto")}
    assert refused == {"": 2, "olga": 1, "otto": 1}  # a token that does not count names nobody
    assert {path.name for path in cluster.home.glob("identities/[0-9a-f]*/*")} == {"ann", "bob"}
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
