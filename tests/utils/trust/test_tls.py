"""TLS as gRPC does it, with the certificates of utils.trust: who gets through, and to whom."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from grpc import aio

from tests.trust.pki import Fleet, Holder, ask_who, listening, open_channel
from utils.trust import pki
from utils.trust.names import TLS_NAME, Identity, learner_tls_name
from utils.trust.token import door_credentials

FLEET = Fleet()
OTHER = Fleet()
CLIENT = FLEET.issue("clinic-a")


def seen(
    *,
    holder: Holder | None = CLIENT,
    root: x509.Certificate = FLEET.ca,
    server: Holder | None = None,
    server_name: str = TLS_NAME,
) -> x509.Certificate | None:
    """The certificate by which a server of FLEET knew a client; None where TLS did not come about."""

    async def run() -> x509.Certificate | None:
        async with listening(FLEET.server_credentials(server)) as address:
            try:
                return await ask_who(open_channel(address, root, holder, server_name))
            except aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017
                return None

    return asyncio.run(run())


def test_a_client_is_known_by_the_certificate_that_the_ca_issued() -> None:
    certificate = seen()
    assert certificate == CLIENT.certificate
    assert pki.identity_of(certificate, FLEET.ca) == Identity(FLEET.name, "learner", "clinic-a")


def test_a_token_leads_through_the_door_to_the_ca_whose_key_it_tells() -> None:
    token = FLEET.token()
    door = Holder(*door_credentials(token.door))
    assert seen(holder=door, root=pki.anchor(token.ca_public_key())) == FLEET.door.certificate


def test_a_token_of_another_ca_leads_nowhere() -> None:
    assert seen(holder=FLEET.door, root=pki.anchor(OTHER.key.public_key())) is None


def test_an_anchor_by_the_name_of_the_ca_with_another_key_leads_nowhere() -> None:
    """A leader in between, which knows all but the CA's private key."""
    key = pki.new_key()
    fake = x509.CertificateBuilder(FLEET.ca.subject, FLEET.ca.subject, key.public_key(), 1)
    fake = fake.not_valid_before(FLEET.ca.not_valid_before_utc).not_valid_after(FLEET.ca.not_valid_after_utc)
    fake = fake.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    ca = fake.sign(key, hashes.SHA256())
    server_key = pki.new_key()
    server = Holder(pki.server_certificate(ca, key, server_key.public_key()), server_key)
    assert seen(root=ca, server=server) == CLIENT.certificate
    assert seen(root=pki.anchor(FLEET.key.public_key()), server=server) is None
    assert seen(root=FLEET.ca, server=server) is None


def issued(issuer: x509.Certificate, issuer_key: pki.Key) -> Holder:
    """An administrator's certificate by the name and key of somebody who is no CA."""
    key, now = pki.new_key(), time.time()
    identity = Identity(FLEET.name, "admin", "a")
    return Holder(pki.issue(issuer, issuer_key, key.public_key(), identity, until=now + 3600, now=now), key)


def strangers() -> dict[str, Holder | None]:
    """Who may not pass the leader's TLS."""
    door = FLEET.door
    return {
        "nobody": None,
        "another CA's": OTHER.issue("clinic-a"),
        "another door": Holder(*door_credentials(bytes(16))),
        "issued by the door": issued(door.certificate, door.key),
        "issued by a leaf": issued(CLIENT.certificate, CLIENT.key),
        "issued by a leaf by the CA's name": issued(FLEET.ca, CLIENT.key),
        "another certificate of the door's key": Holder(pki.make_ca(door.key, time.time()), door.key),
        "ended": FLEET.issue("clinic-a", life_s=-1),
        "the listener's own": FLEET.server(),
    }


@pytest.mark.parametrize("who", strangers())
def test_strangers_do_not_pass(who: str) -> None:
    assert seen(holder=strangers()[who]) is None


@pytest.mark.parametrize("root", [FLEET.ca, pki.anchor(FLEET.key.public_key())], ids=["CA", "anchor"])
@pytest.mark.parametrize("serves", [False, True])
@pytest.mark.parametrize("name", ["clinic-a", TLS_NAME])
def test_a_learners_certificate_does_not_serve_as_the_leaders(
    root: x509.Certificate, serves: bool, name: str
) -> None:
    assert seen(root=root, server=FLEET.issue(name, serves=serves)) is None


def test_a_dialled_learner_serves_under_its_own_name_alone() -> None:
    leader, server = FLEET.issue("leader", "leader"), FLEET.issue("Clinic_a.b", serves=True)
    assert (
        seen(holder=leader, server=server, server_name=learner_tls_name("Clinic_a.b")) == leader.certificate
    )
    assert seen(holder=leader, server=server, server_name=learner_tls_name("clinic_a.b")) is None
    only_client = FLEET.issue("Clinic_a.b")
    assert seen(holder=leader, server=only_client, server_name=learner_tls_name("Clinic_a.b")) is None


def test_clients_that_check_the_address_find_the_names_given() -> None:
    assert seen(server=FLEET.server(["127.0.0.1"]), server_name="") == CLIENT.certificate
    assert seen(server=FLEET.server(["10.0.0.1"]), server_name="") is None
    assert seen(server=FLEET.server(["fl.example.org"]), server_name="fl.example.org") == CLIENT.certificate
