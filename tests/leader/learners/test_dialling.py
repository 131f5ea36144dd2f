from __future__ import annotations

import socket
from typing import Any

import pytest

from leader.config import RunConfig
from leader.learners.dialling import Dialling
from leader.trust.identities.callers import PLAIN, Caller, anonymous
from utils.errors import IncompatibleError

NEAR, FAR, SIX = (
    anonymous("ipv4:127.0.0.1:4711"),
    anonymous("ipv4:10.0.0.7:4711"),
    anonymous("ipv6:[2001:db8::7]:1"),
)


def dialling(**config: Any) -> Dialling:
    made = Dialling(RunConfig.model_validate(config))
    made.own_port = 50051
    return made


@pytest.mark.parametrize(
    ("address", "caller", "target"),
    [
        ("127.0.0.1:6000", NEAR, "127.0.0.1:6000"),
        ("10.0.0.7:6000", FAR, "10.0.0.7:6000"),
        ("[2001:DB8:0::7]:6000", SIX, "[2001:db8::7]:6000"),
        ("0.0.0.0:6000", FAR, "10.0.0.7:6000"),
        ("[::]:6000", SIX, "[2001:db8::7]:6000"),
        # A name is its own host's, whatever a resolver would say now or later.
        ("metadata.internal:80", FAR, "10.0.0.7:80"),
        ("localhost:50051", FAR, "10.0.0.7:50051"),
        ("10.0.0.7:50051", FAR, "10.0.0.7:50051"),
    ],
)
def test_a_learner_without_an_identity_is_dialled_at_the_host_that_it_registered_from(
    address: str, caller: Caller, target: str
) -> None:
    assert dialling().target(address, caller) == target


@pytest.mark.parametrize(
    ("address", "caller", "why"),
    [
        (
            "169.254.169.254:80",
            FAR,
            r"169.254.169.254 is not where this learner registered from \(10.0.0.7\)",
        ),
        ("127.0.0.1:6379", FAR, "list it in dial_hosts, or leave --network-addr out"),
        ("[::1]:6379", SIX, "is not where this learner registered from"),
        ("10.0.0.8:6000", FAR, "is not where this learner registered from"),
        ("h:1", anonymous("unix:/tmp/socket"), r"registered from \(no host\)"),
        ("127.0.0.1:50051", NEAR, "127.0.0.1:50051 is the leader's own address, not a learner's"),
        ("localhost:50051", NEAR, "the leader's own address"),
        ("0.0.0.0:50051", NEAR, "the leader's own address"),
        ("unix:/etc/passwd", NEAR, "is no HOST:PORT"),
        ("a-plain-client", NEAR, "is no HOST:PORT"),
        ("", NEAR, "is no HOST:PORT"),
    ],
)
def test_no_other_address_is_dialled(address: str, caller: Caller, why: str) -> None:
    with pytest.raises(IncompatibleError, match=why):
        dialling().target(address, caller)


def test_the_config_names_more_hosts_or_none() -> None:
    more = dialling(dial_hosts="192.168.3.4, learner.example,[2001:db8::9]")
    for address in ("192.168.3.4:1", "learner.example:2", "[2001:db8::9]:3"):
        assert more.target(address, FAR) == address
    for address in ("192.168.3.5:1", "[2001:db8::8]:3"):
        with pytest.raises(IncompatibleError, match="registered from"):
            more.target(address, FAR)
    with pytest.raises(IncompatibleError, match=r"this leader dials no learners \(dial_learners\)"):
        dialling(dial_learners=False).target("10.0.0.7:6000", FAR)


def test_an_identity_is_dialled_anywhere_if_its_certificate_is_made_for_that() -> None:
    clinic = Caller("clinic-a", "learner", "10.0.0.7", "clinic-a", serves=True)
    assert dialling().target("learner.example:6000", clinic) == "learner.example:6000"
    for host in ("127.0.0.1", "[::1]", "0.0.0.0", "[::]", "localhost", "LocalHost.", socket.gethostname()):
        with pytest.raises(IncompatibleError, match="the leader's own address"):
            dialling().target(f"{host}:50051", clinic)
    beside = dialling(trust={"mode": "on", "plain_listen": "0.0.0.0:50061"})
    with pytest.raises(IncompatibleError, match="localhost:50061 is the leader's own address"):
        beside.target("localhost:50061", clinic)
    for caller in (Caller("clinic-b", "learner", "10.0.0.7", "b"), Caller("", PLAIN, "10.0.0.7", "peer")):
        with pytest.raises(IncompatibleError, match="has no certificate to be dialled with; join again"):
            dialling().target("10.0.0.7:6000", caller)
    own_pki = dialling(trust={"mode": "on", "certificate": "c", "key": "k", "client_ca": "a", "roles": "r"})
    with pytest.raises(IncompatibleError, match="this leader dials no learners"):
        own_pki.target("learner.example:6000", clinic)
