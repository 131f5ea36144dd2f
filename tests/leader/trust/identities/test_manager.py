from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from leader.trust.audit.chain import Audit
from leader.trust.identities.bearer import Claims
from protos import trust_pb2
from tests.leader.trust.fleet import connect
from tests.leader.trust.leaders import Leader, in_a_loop, leader_in
from utils.errors import ForbiddenError, NotReadyError, PayloadError
from utils.trust import contract
from utils.trust.pki import key_to_pem, make_csr, new_key, to_pem
from utils.trust.token import JoinToken
from utils.wire.contract import Method
from utils.wire.status import failures_told

CLAIMS = Claims("ann", "operator", 2_000_000_000.0)


def wish(role: str = "learner", **more: Any) -> trust_pb2.TokenRequest:
    return trust_pb2.TokenRequest(**{"role": role, "uses": 1, "hours": 1.0, **more})


@in_a_loop
async def test_an_operator_far_away_lets_a_learner_in_and_turns_it_out(tmp_path: Path) -> None:
    async with leader_in(tmp_path) as leader:
        ann = leader.fleet.admit("ann", "operator")
        token = JoinToken.parse((await leader.ask(ann, contract.MAKE_TOKEN, wish(name="clinic-a"))).text)
        key = new_key()
        csr = make_csr(key)
        request = trust_pb2.EnrolRequest(csr=csr, token_id=token.token_id, proof=token.prove(csr))
        given = await leader.ask(leader.fleet.door(), contract.ENROL, request)
        certificate = to_pem(x509.load_der_x509_certificate(given.certificate))
        clinic = type(ann)(key_to_pem(key), certificate, ann.roots)
        me = await leader.ask(clinic, contract.WHO_AM_I, trust_pb2.WhoAmIRequest())
        assert (me.name, me.role, me.how) == ("clinic-a", "learner", f"token {token.token_id}")
        renewed = await leader.ask(clinic, contract.RENEW, trust_pb2.RenewRequest(csr=csr))
        assert renewed.name == "clinic-a"
        assert renewed.certificate != given.certificate

        (used,) = (await leader.ask(ann, contract.LIST_TOKENS, trust_pb2.ListRequest())).tokens
        assert (used.id, used.used, used.uses, used.text) == (token.token_id, 1, 1, "")
        revoked = await leader.ask(ann, contract.REVOKE, trust_pb2.RevokeRequest(name="clinic-a", why="lost"))
        assert revoked.revoked == "lost"
        with pytest.raises(ForbiddenError, match="clinic-a was revoked; ask the leader's operator"):
            await leader.ask(clinic, contract.WHO_AM_I, trust_pb2.WhoAmIRequest())
        listed = await leader.ask(ann, contract.LIST_IDENTITIES, trust_pb2.ListRequest())
        assert [(one.name, one.revoked) for one in listed.identities] == [("ann", ""), ("clinic-a", "lost")]
        left = await leader.ask(ann, contract.FORGET, trust_pb2.ForgetRequest(name="clinic-a"))
        assert [one.name for one in left.identities] == ["ann"]


@in_a_loop
async def test_an_operator_manages_learners_and_observers_alone(tmp_path: Path) -> None:
    async with leader_in(tmp_path) as leader:
        ann = leader.fleet.admit("ann", "operator")
        leader.fleet.admit("bob", "admin")
        await leader.ask(ann, contract.MAKE_TOKEN, wish("observer"))
        forbidden: list[tuple[Method[Any, Any], Any]] = [
            (contract.MAKE_TOKEN, wish("operator")),
            (contract.MAKE_TOKEN, wish("aggregator")),
            (contract.REVOKE, trust_pb2.RevokeRequest(name="bob")),
            (contract.REVOKE, trust_pb2.RevokeRequest(name="nobody-yet")),
            (contract.FORGET, trust_pb2.ForgetRequest(name="bob")),
        ]
        for method, request in forbidden:
            with pytest.raises(ForbiddenError, match=r"operator may not do this for .*; ask an admin"):
                await leader.ask(ann, method, request)
        assert set(leader.refused) == {
            (name, "ForbiddenError", "operator") for name in ("MakeToken", "Revoke", "Forget")
        }
        records = leader.fleet.authority.state.read()
        assert (len(records.tokens), records.revoked, set(records.identities)) == (1, {}, {"ann", "bob"})


@in_a_loop
async def test_an_admin_manages_all(tmp_path: Path) -> None:
    async with leader_in(tmp_path) as leader:
        bob = leader.fleet.admit("bob", "admin")
        made = await leader.ask(bob, contract.MAKE_TOKEN, wish("admin"))
        assert (await leader.ask(bob, contract.REVOKE_TOKEN, trust_pb2.TokenId(id=made.id))).tokens == []
        with pytest.raises(PayloadError, match="there is no token"):
            await leader.ask(bob, contract.REVOKE_TOKEN, trust_pb2.TokenId(id=made.id))
        await leader.ask(bob, contract.REVOKE, trust_pb2.RevokeRequest(name="nobody-yet"))
        with pytest.raises(ForbiddenError, match="nobody-yet was revoked"):
            await leader.ask(bob, contract.MAKE_TOKEN, wish(name="nobody-yet"))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (wish("gateway"), "role 'gateway' is none of learner, "),
        (wish("door"), "role 'door' is none of"),
        (wish(hours=0.0), "0.0 hours; more than 0"),
        (wish(hours=float("nan")), "nan hours; more than 0"),
        (wish(hours=float("inf")), "inf hours; more than 0"),
        (wish(name="a/b"), "is not 1 to 64 of letters"),
        (wish(replace=True), "needs that name"),
    ],
)
@in_a_loop
async def test_a_token_that_makes_no_sense_is_refused(
    request_: trust_pb2.TokenRequest, words: str, tmp_path: Path
) -> None:
    async with leader_in(tmp_path) as leader:
        with pytest.raises(PayloadError, match=words):
            await leader.ask(leader.fleet.admit("bob", "admin"), contract.MAKE_TOKEN, request_)
        assert leader.fleet.authority.state.read().tokens == {}


@in_a_loop
async def test_bytes_that_are_no_request_are_refused(tmp_path: Path) -> None:
    async with leader_in(tmp_path) as leader:
        for csr in (b"", b"\x30\x00", b"x" * 60_000):
            request = trust_pb2.EnrolRequest(csr=csr, token_id="0" * 10, proof=b"x")
            with pytest.raises(ForbiddenError, match="P-256"):
                await leader.ask(leader.fleet.door(), contract.ENROL, request)
        csr = make_csr(new_key())
        with pytest.raises(ForbiddenError, match="no such token"):
            await leader.ask(leader.fleet.door(), contract.ENROL, trust_pb2.EnrolRequest(csr=csr))
        assert {role for _, _, role in leader.refused} == {"door"}


@in_a_loop
async def test_a_jwt_is_taken_where_it_is_verified(tmp_path: Path) -> None:
    asked: list[str] = []

    async def verify(token: str) -> Claims:
        asked.append(token)
        if token != "right":
            raise ForbiddenError("this JWT is refused")
        return Claims("ann", "operator", math.inf)

    request = trust_pb2.EnrolRequest(csr=make_csr(new_key()), jwt="right")
    async with leader_in(tmp_path, verify) as leader:
        given = await leader.ask(leader.fleet.door(), contract.ENROL, request)
        assert (given.name, given.role) == ("ann", "operator")
        request.jwt = "wrong"
        with pytest.raises(ForbiddenError, match="this JWT is refused"):
            await leader.ask(leader.fleet.door(), contract.ENROL, request)
        assert asked == ["right", "wrong"]
    async with leader_in(tmp_path) as leader:
        with pytest.raises(ForbiddenError, match="takes no JWT"):
            await leader.ask(leader.fleet.door(), contract.ENROL, request)


async def lines_of(leader: Leader, who: Any, first: int) -> list[bytes]:
    """What ReadAudit answers."""
    async with connect(leader.address, who) as channel:
        with failures_told():
            request = trust_pb2.AuditRequest(**{"from": first})
            return [
                line async for some in contract.READ_AUDIT.listen(channel, request) for line in some.lines
            ]


@in_a_loop
async def test_the_audit_is_read_from_any_line_on(tmp_path: Path) -> None:
    async with leader_in(tmp_path) as leader:
        ann = leader.fleet.admit("ann", "operator")
        with pytest.raises(NotReadyError, match="keeps no audit"):
            await lines_of(leader, ann, 1)
        audit = Audit(tmp_path)
        for number in range(40):
            audit.record("test", number=number)
        audit.close()
        path = tmp_path / "audit.jsonl"
        written = path.read_bytes().splitlines()
        assert await lines_of(leader, ann, 0) == await lines_of(leader, ann, 1) == written
        assert await lines_of(leader, ann, 39) == written[38:]
        assert await lines_of(leader, ann, 41) == await lines_of(leader, ann, 2**64 - 1) == []
        with path.open("ab") as file:
            file.write(b'{"n":41, torn')
        assert await lines_of(leader, ann, 40) == written[39:]


@in_a_loop
async def test_a_full_disk_admits_nobody_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leader_in(tmp_path) as leader:
        bob = leader.fleet.admit("bob", "admin")

        def full(*anything: Any, **more: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("leader.trust.identities.state.replace_file", full)
        with pytest.raises(NotReadyError, match=r"can't keep this: can't write .*No space left"):
            await leader.ask(bob, contract.MAKE_TOKEN, wish())
        assert leader.fleet.authority.state.read().tokens == {}


@in_a_loop
async def test_a_state_that_is_damaged_admits_nobody_and_says_so(tmp_path: Path) -> None:
    async with leader_in(tmp_path) as leader:
        (tmp_path / "state.json").write_bytes(b"{")
        request = trust_pb2.EnrolRequest(csr=make_csr(new_key()), token_id="0" * 10)
        with pytest.raises(NotReadyError, match=r"state\.json is damaged"):
            await leader.ask(leader.fleet.door(), contract.ENROL, request)
