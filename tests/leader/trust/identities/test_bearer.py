"""A JWT counts if its issuer signed it for this audience, lately and for a while, and says name and role."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization as forms
from hypothesis import given
from hypothesis import strategies as st

from leader.config import TrustConfig
from leader.trust.identities.bearer import Claims, JwtVerifier
from tests.tools.oidc import claims_of, jwk_of, jwks_of, oidc_issuer, signed, signing_key
from utils.errors import EndedError, ForbiddenError, NotReadyError

KEYS = {algorithm: signing_key(algorithm) for algorithm in ("EdDSA", "ES256", "RS256")}
ISSUER = "https://issuer.example"
Verify = Callable[[str], Claims]


@pytest.fixture
def verify(tmp_path: Path) -> Verify:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks_of(*(jwk_of(key, algorithm) for algorithm, key in KEYS.items())))
    verifier = JwtVerifier(TrustConfig(jwt_jwks=path, jwt_issuer=ISSUER))
    return lambda token: asyncio.run(verifier.verify(token))


def token(header: dict[str, Any] | None = None, **claims: Any) -> str:
    return signed(KEYS["ES256"], "ES256", header, **claims)


def refusal(verify: Verify, bad: str) -> str:
    with pytest.raises(ForbiddenError) as told:
        verify(bad)
    words = str(told.value)
    assert words.startswith("this JWT is refused: ")
    assert not [part for part in bad.split(".") if len(part) > 8 and part in words]
    return words.removeprefix("this JWT is refused: ")


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def forged(header: dict[str, Any], sign: Callable[[bytes], bytes], **claims: Any) -> str:
    """A token as no library makes it."""
    parts = [base64url(json.dumps(part).encode()) for part in (header, claims_of(**claims))]
    return ".".join([*parts, base64url(sign(".".join(parts).encode()))])


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_says_who_its_bearer_is_and_until_when(verify: Verify, algorithm: str) -> None:
    end = int(time.time()) + 600
    good = signed(KEYS[algorithm], algorithm, sub="ann-2", flockstep_role="admin", exp=end)
    assert verify(good) == Claims("ann-2", "admin", float(end))


def test_what_may_differ_between_issuers_is_taken(verify: Verify) -> None:
    for kind in ("JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"):
        assert verify(token({"typ": kind})).name == "ann"
    assert verify(token(aud=["other", "flockstep"])).name == "ann"
    now = time.time()
    assert verify(token(iat=now + 25, nbf=now + 25, exp=now + 24 * 3600)).name == "ann"  # clocks differ
    assert verify(token(iat=now, exp=now + 24 * 3600)).until == now + 24 * 3600


PUBLIC = KEYS["RS256"].public_key()
SECRETS = {
    "PEM": PUBLIC.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo),
    "DER": PUBLIC.public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo),
    "JWK": json.dumps(jwk_of(KEYS["RS256"], "RS256")).encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "hs256"])
def test_the_public_key_is_no_secret_to_sign_with(verify: Verify, secret: str, algorithm: str) -> None:
    digest = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}.get(algorithm, hashlib.sha256)
    header = {"typ": "JWT", "alg": algorithm, "kid": "RS256"}
    bad = forged(header, lambda data: hmac.digest(SECRETS[secret], data, digest))
    assert refusal(verify, bad) == "alg is none of EdDSA, ES256, RS256"
    # Nor under the name of an algorithm that the key is for.
    bad = forged(header | {"alg": "RS256"}, lambda data: hmac.digest(SECRETS[secret], data, digest))
    assert refusal(verify, bad) == "its signature is not its issuer's"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, ["ES256"], {}, 7])
def test_an_unsigned_token_is_refused(verify: Verify, algorithm: object) -> None:
    bad = forged({"typ": "JWT", "alg": algorithm, "kid": "ES256"}, lambda _: b"")
    assert refusal(verify, bad) == "alg is none of EdDSA, ES256, RS256"


@pytest.mark.parametrize("algorithm", ["ES384", "ES512", "ES256K", "RS384", "RS512", "PS256", "Ed448"])
def test_no_other_algorithm_is_taken(verify: Verify, algorithm: str) -> None:
    bad = forged({"typ": "JWT", "alg": algorithm, "kid": "ES256"}, lambda _: b"0" * 64)
    assert refusal(verify, bad) == "alg is none of EdDSA, ES256, RS256"


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_signature_that_is_not_the_issuers_is_refused(verify: Verify, algorithm: str) -> None:
    said = "its signature is not its issuer's"
    assert refusal(verify, signed(signing_key(algorithm), algorithm)) == said
    for signature in (b"", b"\0" * 64, b"\0" * 256):  # CVE-2022-21449: zeros verified as ECDSA
        bad = forged({"typ": "JWT", "alg": algorithm, "kid": algorithm}, lambda _, found=signature: found)  # type: ignore[misc]
        assert refusal(verify, bad) == said
    head, _, signature_of_good = token().rpartition(".")
    other = token(sub="root", flockstep_role="admin").rpartition(".")[0]
    assert refusal(verify, f"{other}.{signature_of_good}") == said
    assert verify(f"{head}.{signature_of_good}").name == "ann"


def test_a_key_is_for_its_own_kid_and_algorithm(verify: Verify) -> None:
    assert refusal(verify, signed(KEYS["ES256"], "RS256")) == "its issuer has no ES256 key of that kid"
    assert refusal(verify, signed(KEYS["ES256"], "unknown")) == "its issuer has no ES256 key of that kid"
    assert refusal(verify, signed(KEYS["ES256"])) == "its issuer has no ES256 key of that kid"
    for kid in ("../../../dev/null", "' OR 1=1 --", "ES256\0"):
        assert refusal(verify, signed(KEYS["ES256"], kid)) == "its issuer has no ES256 key of that kid"


def test_a_key_in_the_header_is_ignored(verify: Verify) -> None:
    own = signing_key("ES256")
    mine = {
        "jwk": jwk_of(own, "ES256"),
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example/cert",
    }
    assert refusal(verify, signed(own, "ES256", mine)) == "its signature is not its issuer's"
    assert verify(token(mine)).name == "ann"  # nor does it do any harm


BAD_CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "another audience": ({"aud": "other"}, "aud is not flockstep (trust.jwt_audience)"),
    "audience that begins so": ({"aud": "flockstep2"}, "aud is not flockstep (trust.jwt_audience)"),
    "audience of numbers": ({"aud": [7]}, "aud is not flockstep (trust.jwt_audience)"),
    "no audience": ({"aud": None}, "aud is missing"),
    "empty audience": ({"aud": ""}, "aud is missing"),
    "another issuer": ({"iss": "https://evil.example"}, f"iss is not {ISSUER} (trust.jwt_issuer)"),
    "issuer with a slash": ({"iss": ISSUER + "/"}, f"iss is not {ISSUER} (trust.jwt_issuer)"),
    "no issuer": ({"iss": None}, "iss is missing"),
    "no subject": ({"sub": None}, "sub is missing"),
    "empty subject": ({"sub": ""}, "sub is empty"),
    "no end": ({"exp": None}, "exp is missing"),
    "no beginning": ({"iat": None}, "iat is missing"),
    "no role": (
        {"flockstep_role": None},
        "flockstep_role is none of learner, aggregator, observer, operator, admin",
    ),
    "role of gateways": (
        {"flockstep_role": "gateway"},
        "flockstep_role is none of learner, aggregator, observer, operator, admin",
    ),
    "role of the leader": (
        {"flockstep_role": "leader"},
        "flockstep_role is none of learner, aggregator, observer, operator, admin",
    ),
    "roles": (
        {"flockstep_role": ["learner"]},
        "flockstep_role is none of learner, aggregator, observer, operator, admin",
    ),
    "role with capitals": (
        {"flockstep_role": "Admin"},
        "flockstep_role is none of learner, aggregator, observer, operator, admin",
    ),
}


@pytest.mark.parametrize("case", BAD_CLAIMS)
def test_claims_that_are_not_for_this_leader_are_refused(verify: Verify, case: str) -> None:
    claims, said = BAD_CLAIMS[case]
    assert refusal(verify, token(**claims)) == said


def test_a_token_counts_only_in_its_time(verify: Verify) -> None:
    now = time.time()
    early = "it is not valid yet: are the clocks of issuer and leader right?"
    assert refusal(verify, token(iat=now + 60)) == early
    assert refusal(verify, token(nbf=now + 60)) == early
    for ago_s in (60, 1):  # no leeway at its end
        with pytest.raises(EndedError, match="this JWT has ended; get a new one"):
            verify(token(iat=now - 3600, exp=now - ago_s))
    assert refusal(verify, token(iat=now, exp=now + 24 * 3600 + 1)) == "it lives longer than 24 hours"
    assert refusal(verify, token(iat=0, exp=now + 60)) == "it lives longer than 24 hours"


@pytest.mark.parametrize("number", ["1", "soon", [1], {}, float("inf"), float("nan"), True, 1e300, -1e300])
def test_times_that_are_none_are_refused(verify: Verify, number: object) -> None:
    for claim in ("iat", "exp", "nbf"):
        if (claim, number) in (("nbf", "1"), ("nbf", True), ("nbf", -1e300)):
            continue  # long past, however it is said
        wrong: dict[str, Any] = {claim: number}
        with pytest.raises(ForbiddenError):
            verify(token(**wrong))
    far = str(int(time.time()) + 600)
    assert refusal(verify, token(exp=far)) == "iat or exp is no number"


@pytest.mark.parametrize(
    "kind", [None, "", "JOSE", "dpop+jwt", "logout+jwt", "secevent+jwt", "at", 7, ["JWT"]]
)
def test_a_token_of_another_kind_is_refused(verify: Verify, kind: object) -> None:
    own = KEYS["ES256"]
    header = {"alg": "ES256", "kid": "ES256"} | ({} if kind is None else {"typ": kind})
    bad = forged(header, lambda data: jwt.get_algorithm_by_name("ES256").sign(data, own))
    assert refusal(verify, bad) == "typ is neither JWT nor at+jwt"


@pytest.mark.parametrize("crit", [["exp"], ["b64"], ["made-up"], [], "exp", None])
def test_a_header_that_asks_for_more_is_refused(verify: Verify, crit: object) -> None:
    own = KEYS["ES256"]
    header = {"typ": "JWT", "alg": "ES256", "kid": "ES256", "crit": crit, "b64": True, "made-up": 1}
    bad = forged(header, lambda data: jwt.get_algorithm_by_name("ES256").sign(data, own))
    assert refusal(verify, bad) in ("crit asks for what is not known here", "it is damaged, or no JWT")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "Bearer",
        "\u20ac",
        "e30.e30.",  # {}.{}.
        base64url(b'{"alg":"ES256","kid":7}') + ".e30.AA",
        base64url(b"[" * 10_000) + ".e30.AA",
        base64url(b'{"alg":' + b"1" * 5000 + b"}") + ".e30.AA",
    ],
)
def test_what_is_no_jwt_is_refused(verify: Verify, bad: str) -> None:
    assert refusal(verify, bad) in ("it is damaged, or no JWT", "alg is none of EdDSA, ES256, RS256")


def test_a_token_beyond_16_ki_characters_is_refused_unread(verify: Verify) -> None:
    assert refusal(verify, token(more="x" * 16_000)) == "it has more than 16384 characters"
    assert verify(token(more="x" * 11_000)).name == "ann"


@given(st.text(alphabet=st.sampled_from('abcXYZ019-_.=e{}"\n\u20ac'), max_size=60), st.integers(0, 3))
def test_a_token_with_a_piece_put_in_is_refused_in_words(piece: str, where: int) -> None:
    parts = GOOD.split(".")
    parts[min(where, 2)] = piece
    with pytest.raises((ForbiddenError, NotReadyError)):
        asyncio.run(JwtVerifier(TrustConfig(jwt_issuer="http://127.0.0.1:1")).verify(".".join(parts)))


GOOD = token()


def test_keys_are_discovered_and_rotated_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    async def run() -> None:
        with oidc_issuer(tmp_path) as issuer:
            verifier = JwtVerifier(TrustConfig(jwt_issuer=issuer.url))
            old = issuer.token("first")
            assert (await verifier.verify(old)).name == "ann"
            issuer.rotate("second")
            new = issuer.token("second", sub="bob")
            assert (await verifier.verify(new)).name == "bob"
            with pytest.raises(ForbiddenError, match="no ES256 key of that kid"):
                await verifier.verify(old)
            with pytest.raises(ForbiddenError, match=f"iss is not {issuer.url}"):
                await verifier.verify(signed(issuer.key, "second", iss=issuer.url + "/"))
        assert (await verifier.verify(new)).name == "bob"  # the issuer is down

    asyncio.run(run())


def test_without_an_issuer_a_files_keys_speak_for_themselves(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks_of(jwk_of(KEYS["EdDSA"])))
    verifier = JwtVerifier(TrustConfig(jwt_jwks=path, jwt_role_claim="https://a.example/role"))
    claims: dict[str, Any] = {"iss": "anybody", "https://a.example/role": "learner"}
    good = signed(KEYS["EdDSA"], **claims)
    assert asyncio.run(verifier.verify(good)).role == "learner"
    with pytest.raises(ForbiddenError, match="iss is missing"):
        asyncio.run(verifier.verify(signed(KEYS["EdDSA"], iss=None)))
