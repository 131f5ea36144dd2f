"""Names of identities: their URIs, and what TLS knows a learner by."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.trust.names import LEADER, ROLES, Identity, is_name, learner_tls_name, name_of

FLEET = "3f9a1c22d0e47b18"


@pytest.mark.parametrize("role", [*ROLES, LEADER])
@pytest.mark.parametrize("name", ["clinic-a", "A.b_c-9", "x" * 64, "..."])
def test_an_identity_is_read_back_from_its_uri(role: str, name: str) -> None:
    identity = Identity(FLEET, role, name)
    assert identity.uri == f"spiffe://3f9a1c22d0e47b18.flockstep/{role}/{name}"
    assert Identity.parse(identity.uri) == identity


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://3f9a1c22d0e47b18.flockstep/learner/",
        "spiffe://3f9a1c22d0e47b18.flockstep/learner/a/b",
        "spiffe://3f9a1c22d0e47b18.flockstep/learner/..",
        "spiffe://3f9a1c22d0e47b18.flockstep/learner/a\n",
        "spiffe://3f9a1c22d0e47b18.flockstep/learner/a%2Fb",
        "spiffe://3f9a1c22d0e47b18.flockstep/door/a",
        "spiffe://3f9a1c22d0e47b18.flockstep/Learner/a",
        "spiffe://3F9A1C22D0E47B18.flockstep/learner/a",
        "spiffe://3f9a1c22d0e47b1.flockstep/learner/a",
        "spiffe://3f9a1c22d0e47b18xflockstep/learner/a",
        "https://3f9a1c22d0e47b18.flockstep/learner/a",
    ],
)
def test_any_other_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="is not spiffe://FLEET"):
        Identity.parse(uri)


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a b", "ä", "x" * 65, "a\n", "a\x00"])
def test_a_name_is_neither_a_path_nor_longer_than_64(text: str) -> None:
    assert not is_name(text)


def test_no_two_names_are_one_to_tls() -> None:
    names = ["a", "A", "a.b", "*", "leader.flockstep.internal", "x" * 64]
    served = [learner_tls_name(name) for name in names]
    assert len(set(served)) == len(names)
    assert all(label and len(label) <= 63 for name in served for label in name.lower().split("."))
    assert served[0] == "ca978112ca1bbdcafac231b39a23dc4d.learner.flockstep.internal"


def digest(subject: str) -> str:
    return hashlib.sha256(subject.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("ann", "ann"),
        ("Ann_2.b-c", "Ann_2.b-c"),
        ("a" * 64, "a" * 64),
        ("5f0c3a52-4d3c-4b1e-9a77-0123456789ab", "5f0c3a52-4d3c-4b1e-9a77-0123456789ab"),
        ("auth0|507f1f77", "auth0-507f1f77-" + digest("auth0|507f1f77")),
        ("repo:a/b:ref:main", "repo-a-b-ref-main-" + digest("repo:a/b:ref:main")),
        ("..", "sub-" + digest("..")),
        ("\u540d", "sub-" + digest("\u540d")),
        ("a" * 65, "a" * 47 + "-" + digest("a" * 65)),
        ("a-0123456789abcdef", "a-0123456789abcdef-" + digest("a-0123456789abcdef")),
    ],
)
def test_a_subject_becomes_a_name_that_tells_it(subject: str, name: str) -> None:
    assert name_of(subject) == name


def test_half_a_character_is_one_too() -> None:
    """JSON lets it through."""
    assert name_of("ann\ud800") not in (name_of("ann\ud801"), "ann")


@given(st.text(min_size=1, max_size=100))
def test_no_two_subjects_share_a_name(subject: str) -> None:
    name = name_of(subject)
    assert is_name(name)
    assert name == subject or name_of(name) not in (
        name,
        subject,
    )  # not even one that is made to look like it
