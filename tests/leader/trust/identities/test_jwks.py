"""Keys of JWTs come from a file or an OpenID issuer over https, and only those that are fit to verify with."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.trust.identities import jwks
from leader.trust.identities.jwks import FileKeys, IssuerKeys, parse, published
from tests.tools.oidc import DISCOVERY, JWKS, OidcIssuer, jwk_of, jwks_of, oidc_issuer, signing_key
from utils.errors import ConfigError, NotReadyError


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OidcIssuer]:
    with oidc_issuer(tmp_path) as found:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        yield found


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_keys_of_the_three_algorithms_are_found_by_kid_and_algorithm() -> None:
    found = parse(jwks_of(*(jwk_of(signing_key(alg), alg.lower()) for alg in jwks.ALGORITHMS)))
    assert set(found) == {("eddsa", "EdDSA"), ("es256", "ES256"), ("rs256", "RS256")}
    assert {key.algorithm_name for key in found.values()} == {"EdDSA", "ES256", "RS256"}


P384 = {"kty": "EC", "crv": "P-384", "kid": "a", "x": "AA", "y": "AA"}
UNFIT = {
    "symmetric": {
        "kty": "oct",
        "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MDA",
        "kid": "a",
        "alg": "HS256",
    },
    "RSA below 2048 bits": jwk_of(signing_key("RS256", 1024), "a"),
    "private": jwk_of(signing_key("ES256"), "a", private=True),
    "private Ed25519": jwk_of(signing_key("EdDSA"), "a", private=True),
    "for encryption": jwk_of(signing_key("RS256"), "a", use="enc"),
    "RSA for PS256": jwk_of(signing_key("RS256"), "a", alg="PS256"),
    "EC for HS256": jwk_of(signing_key("ES256"), "a", alg="HS256"),
    "P-384": P384,
    "a point that is not on its curve": jwk_of(signing_key("ES256"), "a") | {"x": "A" * 43},
    "numbers in place of text": {"kty": "RSA", "kid": "a", "n": 7, "e": 3},
    "a list as type": {"kty": ["RSA"], "kid": "a"},
    "a number as kid": jwk_of(signing_key("ES256")) | {"kid": 7},
    "no object": "a",
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_is_unfit_to_verify_with_is_left_out(case: str) -> None:
    good = jwk_of(signing_key("ES256"), "good")
    assert list(parse(json.dumps({"keys": [UNFIT[case], good]}).encode())) == [("good", "ES256")]


JSON = st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda some: st.lists(some, max_size=3))


@given(st.dictionaries(st.sampled_from(["kid", "alg", "use", "crv", "n", "e", "x", "y"]), JSON))
def test_no_member_of_a_key_brings_down_the_others(members: dict[str, object]) -> None:
    for kty in ("RSA", "EC", "OKP", "oct"):
        good = jwk_of(GOOD, "good")
        assert ("good", "ES256") in parse(json.dumps({"keys": [{"kty": kty, **members}, good]}).encode())


GOOD = signing_key("ES256")


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys": {}}', b"\xff", b'{"keys": [' + b" " * (256 << 10) + b"]}"]
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(document)


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks_of(jwk_of(signing_key("ES256"), "first")))
    keys = FileKeys(path)

    async def kids() -> list[bool]:
        return [await keys.find(kid, "ES256") is not None for kid in ("first", "second")]

    assert asyncio.run(kids()) == [True, False]
    path.write_bytes(jwks_of(jwk_of(signing_key("ES256"), "second")))
    assert asyncio.run(kids()) == [False, True]
    path.unlink()
    with pytest.raises(NotReadyError, match="file of keys") as told:
        asyncio.run(kids())
    assert str(tmp_path) not in str(told.value)  # nobody's business but the leader's


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"no keys", "Expecting value"),
        (jwks_of(), "no public key for EdDSA, ES256, RS256"),
        (json.dumps({"keys": [UNFIT["symmetric"]]}).encode(), "no public key"),
    ],
)
def test_a_file_without_a_usable_key_is_told_at_the_start(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "jwks.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as told:
        FileKeys(path)
    assert f"trust.jwt_jwks is {path}" in str(told.value)


def test_an_issuers_keys_are_discovered_once(issuer: OidcIssuer) -> None:
    async def find() -> None:
        keys = IssuerKeys(issuer.url)
        found = await asyncio.gather(*(keys.find("first", "ES256") for _ in range(20)))
        assert all(key is not None and key.key_id == "first" for key in found)
        assert await keys.find("first", "EdDSA") is None  # another algorithm's

    asyncio.run(find())
    assert issuer.asked == [DISCOVERY, JWKS] * 2  # the second time for a key that was not there


def test_a_new_key_is_found_as_soon_as_a_token_names_it(issuer: OidcIssuer) -> None:
    async def find() -> None:
        keys = IssuerKeys(issuer.url)
        assert await keys.find("first", "ES256")
        issuer.rotate("second")
        second = await keys.find("second", "ES256")
        assert second is not None
        assert second.key.public_numbers() == issuer.key.public_key().public_numbers()  # type: ignore[union-attr]
        assert await keys.find("first", "ES256") is None

    asyncio.run(find())


def test_a_withdrawn_key_is_taken_for_five_minutes_at_most(issuer: OidcIssuer) -> None:
    async def find() -> None:
        clock = Clock()
        keys = IssuerKeys(issuer.url, clock)
        assert await keys.find("first", "ES256")
        issuer.rotate("second")
        clock.now += 299
        assert await keys.find("first", "ES256")
        clock.now += 1
        assert await keys.find("first", "ES256") is None
        issuer.answer(JWKS, jwks_of())
        clock.now += 300
        assert await keys.find("second", "ES256") is None

    asyncio.run(find())


def test_fifty_made_up_kids_make_one_fetch_a_minute(issuer: OidcIssuer) -> None:
    async def find() -> None:
        clock = Clock()
        keys = IssuerKeys(issuer.url, clock)
        assert await keys.find("first", "ES256")
        issuer.asked.clear()
        for number in range(50):
            assert await keys.find(f"made-up-{number}", "ES256") is None
        assert issuer.asked == [DISCOVERY, JWKS]
        await asyncio.gather(*(keys.find(f"more-{number}", "ES256") for number in range(50)))
        clock.now += 59
        assert await keys.find("first", "ES256")
        assert await keys.find("another", "ES256") is None
        assert issuer.asked == [DISCOVERY, JWKS]
        clock.now += 1
        assert await keys.find("another", "ES256") is None
        assert issuer.asked == [DISCOVERY, JWKS] * 2

    asyncio.run(find())


def test_the_last_keys_are_kept_while_the_issuer_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    async def find() -> None:
        clock = Clock()
        with oidc_issuer(tmp_path) as issuer:
            keys = IssuerKeys(issuer.url, clock)
            assert await keys.find("first", "ES256")
        for _ in range(5):
            clock.now += 3600
            assert await keys.find("first", "ES256")
            assert await keys.find("second", "ES256") is None

    asyncio.run(find())
    assert [
        record.getMessage() for record in caplog.records if "can't be fetched" in record.getMessage()
    ] != []
    assert "those of before stay" in caplog.text


def test_an_issuer_that_comes_up_later_is_found(issuer: OidcIssuer) -> None:
    async def find() -> None:
        clock = Clock()
        keys = IssuerKeys(issuer.url, clock)
        issuer.answer(DISCOVERY, b"", 503)
        for _ in range(10):
            with pytest.raises(NotReadyError, match=r"can't be fetched; try again in a minute"):
                await keys.find("first", "ES256")
        assert issuer.asked == [DISCOVERY]
        issuer.__init__(issuer.url)  # type: ignore[misc]
        clock.now += 60
        assert await keys.find("first", "ES256")

    asyncio.run(find())


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Keys are fetched once this is set."""
    held, fetch = threading.Event(), published

    def slow(url: str) -> jwks.KeySet:
        assert held.wait(60)
        return fetch(url)

    monkeypatch.setattr(jwks, "published", slow)
    return held


def test_the_event_loop_is_free_while_keys_are_fetched(issuer: OidcIssuer, held: threading.Event) -> None:
    async def find() -> None:
        keys = IssuerKeys(issuer.url)
        asking = asyncio.create_task(keys.find("first", "ES256"))
        await asyncio.sleep(0)
        assert not asking.done()
        held.set()  # which the loop could not do if it waited itself
        assert await asking

    asyncio.run(find())


def test_whoever_waits_for_keys_may_stop_waiting_and_the_others_get_them(
    issuer: OidcIssuer, held: threading.Event
) -> None:
    async def find() -> None:
        keys = IssuerKeys(issuer.url)
        first, second = (asyncio.create_task(keys.find("first", "ES256")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait((first,))
        held.set()
        assert await second

    asyncio.run(find())
    assert issuer.asked == [DISCOVERY, JWKS]


def test_nobody_waits_longer_than_five_seconds_for_an_issuer_that_hangs(
    issuer: OidcIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jwks._FETCH_S == 5
    held, fetch = threading.Event(), published

    def slow(url: str) -> jwks.KeySet:
        assert held.wait(60)
        return fetch(url)

    monkeypatch.setattr(jwks, "published", slow)
    monkeypatch.setattr(jwks, "_FETCH_S", 0.01)

    async def find() -> None:
        clock = Clock()
        keys = IssuerKeys(issuer.url, clock)
        for _ in range(3):
            with pytest.raises(NotReadyError):
                await keys.find("first", "ES256")
            clock.now += 60
        monkeypatch.setattr(jwks, "_FETCH_S", 60.0)
        held.set()
        assert await keys.find("first", "ES256")

    asyncio.run(find())
    assert issuer.asked == [DISCOVERY, JWKS]  # no second thread while the first one hangs


def refused(issuer: OidcIssuer) -> str:
    with pytest.raises((OSError, ValueError)) as told:
        published(issuer.url)
    return str(told.value)


def test_another_issuers_discovery_is_refused(issuer: OidcIssuer) -> None:
    for name in ("https://issuer.example", issuer.url + "/", ""):
        issuer.answer(DISCOVERY, json.dumps({"issuer": name, "jwks_uri": issuer.url + JWKS}).encode())
        assert "another issuer's" in refused(issuer)
    assert set(issuer.asked) == {DISCOVERY}


@pytest.mark.parametrize("scheme", ["http", "file", "ftp", "data"])
def test_keys_are_fetched_over_https_alone(issuer: OidcIssuer, scheme: str) -> None:
    where = f"{scheme}://127.0.0.1/keys"
    issuer.answer(DISCOVERY, json.dumps({"issuer": issuer.url, "jwks_uri": where}).encode())
    assert f"{where} is not an https address" in refused(issuer)
    with pytest.raises(ValueError, match="is not an https address"):
        published(issuer.url.replace("https", scheme))


def test_no_redirect_is_followed(issuer: OidcIssuer) -> None:
    issuer.answer("/moved", issuer.answers[JWKS][2])
    for status in (301, 302, 303, 307, 308):
        issuer.answer(JWKS, b"", status, Location=issuer.url + "/moved")
        assert f"{JWKS} answers {status}" in refused(issuer)
    assert "/moved" not in issuer.asked


def test_no_proxy_is_asked(issuer: OidcIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # where nobody listens
    assert list(published(issuer.url)) == [("first", "ES256")]


def test_an_answer_beyond_256_kib_is_refused(issuer: OidcIssuer) -> None:
    keys = issuer.answers[JWKS][2]
    issuer.answer(JWKS, keys.ljust(256 << 10))
    assert list(published(issuer.url)) == [("first", "ES256")]
    issuer.answer(JWKS, keys.ljust((256 << 10) + 1))
    assert "more than 262144 bytes" in refused(issuer)


def test_an_issuer_whose_certificate_is_not_trusted_is_refused(
    issuer: OidcIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "CERTIFICATE_VERIFY_FAILED" in refused(issuer)
    assert issuer.asked == []
