"""Join tokens: whole or refused, the same keys everywhere, proofs for one request at one CA."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from utils.errors import ForbiddenError
from utils.trust import pki
from utils.trust.token import JoinToken, door_credentials, proves

SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
CA_KEY = ec.derive_private_key(7, ec.SECP256R1())
TOKEN = JoinToken(
    CA_KEY.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint),
    bytes(range(16)),
    bytes(range(16, 32)),
)
TEXT = "flk1_AQKOUztvoL97RiW7MGZ8Aftgfvn4uKgP71swBihwMYeyowABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fyFD0"


def test_a_token_is_97_characters_and_read_back_from_them() -> None:
    assert TOKEN.text == TEXT
    assert len(TEXT) == 97
    assert JoinToken.parse(f"\n {TEXT}\r\n") == TOKEN


def test_a_token_with_any_one_character_changed_is_refused() -> None:
    for place, sign in enumerate(TEXT):
        for other in SIGNS.replace(sign, ""):
            with pytest.raises(
                ForbiddenError, match="damaged: copy it whole, 97 characters that begin with flk1_"
            ):
                JoinToken.parse(TEXT[:place] + other + TEXT[place + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flk1_",
        TEXT[:-1],
        TEXT + "A",
        TEXT[5:],
        TEXT.replace("flk1_", "flk2_"),
        TEXT[:-4] + "\n" + TEXT[-3:],
    ],
)
def test_a_token_cut_or_longer_is_refused(text: str) -> None:
    with pytest.raises(ForbiddenError, match="the join token is damaged"):
        JoinToken.parse(text)


@pytest.mark.parametrize("text", ["ä" * 97, "flk1_" + "ä" * 92, "flk1_" + "=" * 92])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ForbiddenError, match="the join token is damaged"):
        JoinToken.parse(text)


def test_a_whole_token_without_a_point_of_the_curve_is_refused() -> None:
    with pytest.raises(ForbiddenError, match="the join token is damaged"):
        JoinToken.parse(replace(TOKEN, ca_key=b"\x05" + TOKEN.ca_key[1:]).text)


def test_new_tokens_share_ca_and_door_and_nothing_else() -> None:
    first, second = (JoinToken.make(CA_KEY.public_key(), TOKEN.door) for _ in range(2))
    assert (first.ca_key, first.door) == (TOKEN.ca_key, TOKEN.door)
    assert first.secret != second.secret
    assert first.token_id != second.token_id
    assert first.ca_public_key() == CA_KEY.public_key()


def test_neither_secret_nor_door_shows_in_a_traceback() -> None:
    assert "secret" not in repr(TOKEN)
    assert "door" not in repr(TOKEN)


def test_a_token_gives_the_same_key_everywhere() -> None:
    assert TOKEN.token_id == "52f9d2c02d"
    assert (
        TOKEN.key().private_numbers().private_value
        == 0x91DEDED4B657BBD31DBA1B30FF96D09FC03DF9E11E83D62BBCE2E2A858555243
    )


def test_a_proof_counts_for_its_token_ca_and_request_alone() -> None:
    csr, other_csr = (pki.make_csr(pki.new_key()) for _ in range(2))
    key, ca = TOKEN.key().public_key(), pki.spki(CA_KEY.public_key())
    proof = TOKEN.prove(csr)
    assert proves(key, ca, csr, proof)
    assert not proves(key, ca, other_csr, proof)
    assert not proves(key, pki.spki(pki.new_key().public_key()), csr, proof)
    assert not proves(replace(TOKEN, secret=bytes(16)).key().public_key(), ca, csr, proof)
    assert not any(
        proves(key, ca, csr, wrong) for wrong in (b"", b"\0", proof[:-1], proof + b"\0", bytes(72))
    )


def test_the_door_has_the_same_bits_with_every_release_of_cryptography() -> None:
    """Both ends make it from the door's 16 bytes: one that differs would not pass TLS."""
    certificate, key = door_credentials(TOKEN.door)
    assert certificate.public_key() == key.public_key()
    assert hashlib.sha256(pki.to_pem(certificate)).hexdigest() == (
        "88b17f309edd06c6a1525ba3d5e729bd8a3db3cfd6e679fdc5fc2d1d3c5a7d51"
    )


def test_doors_differ() -> None:
    (one, _), (other, _) = door_credentials(bytes(16)), door_credentials(bytes(15) + b"\1")
    assert one.subject != other.subject
    assert one.public_key() != other.public_key()
