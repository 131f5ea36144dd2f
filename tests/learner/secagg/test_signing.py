"""Who signs and whom a learner masks with: the fleet's CA, names and keys of its own list."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from learner.secagg.signing import Peers, Signer, key_digest
from tests.leader.trust.fleet import Fleet
from utils.errors import ConfigError, ForbiddenError
from utils.secagg.keys import digest
from utils.secagg.signatures import identity_bytes, sign
from utils.trust import pki
from utils.trust.names import Identity

WHAT = digest("advert", b"what is signed")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A CA, and whom it admits."""
    return Fleet(tmp_path)


def refusal(checks: Signer, signs: Signer, name: str, what: bytes = WHAT) -> str:
    """Why one learner does not believe another, "" where it does."""
    try:
        checks.check(signs.identity, name, WHAT, signs.sign(what), "the advert")
    except ForbiddenError as error:
        return str(error)
    return ""


def test_what_counts_is_signed_by_the_key_that_the_fleets_ca_has_certified_for_the_name(
    fleet: Fleet, tmp_path: Path
) -> None:
    a, b = (Signer(fleet.admit(name), None) for name in "ab")
    unsigned = "the advert of b is not signed by it"
    assert refusal(a, b, "b") == ""
    assert refusal(a, b, "b", digest("survivors", b"what is signed")) == unsigned
    with pytest.raises(ForbiddenError, match=f"{unsigned}$"):
        a.check(b.identity, "b", WHAT, a.sign(WHAT), "the advert")
    with pytest.raises(ForbiddenError, match=f"{unsigned}$"):
        a.check(b.identity, "b", WHAT, b"", "the advert")
    assert refusal(a, b, "c") == "the advert of c is not signed by it: its certificate is that of b (learner)"
    for role in ("observer", "operator", "admin", "gateway"):
        posed = Signer(fleet.admit("b", role), None)
        assert refusal(a, posed, "b") == f"{unsigned}: its certificate is that of b ({role})"
    assert refusal(a, Signer(fleet.admit("b", "aggregator"), None), "b") == ""
    elsewhere = Signer(Fleet(tmp_path / "elsewhere").admit("b"), None)
    assert refusal(a, elsewhere, "b") == f"{unsigned}: its certificate is none of this fleet's CA"
    forged = pki.new_key()  # of who claims to be in this fleet, and issues that itself
    who = Identity(fleet.authority.fleet, "learner", "b")
    claims = pki.issue(
        fleet.authority.ca, forged, forged.public_key(), who, until=time.time() + 9, now=time.time()
    )
    with pytest.raises(ForbiddenError, match="none of this fleet's CA"):
        a.check(identity_bytes(claims), "b", WHAT, sign(forged, WHAT), "the advert")
    for identity in (b"", b"0" * 300, b.identity[:-1], b.identity + b"0"):
        with pytest.raises(ForbiddenError, match="none of this fleet's CA"):
            a.check(identity, "b", WHAT, b.sign(WHAT), "the advert")
    past = fleet.signed(Identity(fleet.authority.fleet, "learner", "b"), until=time.time() - 1)
    assert (
        refusal(a, Signer(past, None), "b") == f"{unsigned}: its certificate has ended, or is of days to come"
    )


def test_a_list_of_peers_has_names_and_keys_of_which_the_first_that_fits_counts(
    fleet: Fleet, tmp_path: Path
) -> None:
    b, path = fleet.admit("b"), tmp_path / "peers"
    pinned = key_digest(pki.key_from_pem(b.key).public_key())
    path.write_text(f"# hospitals\nb {pinned}   # the second\nclinic-*\n\nb*\n")
    a = Signer(fleet.admit("a"), Peers(path))
    assert refusal(a, Signer(b, None), "b") == ""
    assert refusal(a, Signer(fleet.admit("b"), None), "b") == (
        f"b has another key than this learner knows it by (--peers {path})"
    )
    assert refusal(a, Signer(fleet.admit("clinic-7"), None), "clinic-7") == ""
    assert refusal(a, Signer(fleet.admit("bb"), None), "bb") == ""
    assert refusal(a, Signer(fleet.admit("c"), None), "c") == (
        f"c is none of those that this learner masks with (--peers {path})"
    )
    assert refusal(a, a, "a") == ""  # nobody has to list itself
    assert a.promise.startswith(f"masks with those in {path}; for the others' --peers: a ")
    assert f"b {pinned}" in Signer(b, None).promise


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "can't be read"),
        ("\n# nobody\n", "lists nobody"),
        ("a\nb 12\n", "line 2 of"),
        ("a b c\n", "line 1 of"),
        ("a " + "A" * 64, "line 1 of"),
    ],
)
def test_a_list_of_peers_that_says_less_than_it_seems_to_is_refused(
    tmp_path: Path, text: str | None, why: str
) -> None:
    path = tmp_path / "peers"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=why):
        Peers(path)
