from __future__ import annotations

import math
import multiprocessing
import stat
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from leader.config import TrustConfig
from leader.trust.identities.authority import Applicant, Authority
from leader.trust.identities.bearer import Claims
from leader.trust.identities.callers import Caller
from leader.trust.identities.manager import Manager
from protos import trust_pb2
from utils.errors import ConfigError, ForbiddenError, PayloadError
from utils.trust.names import EDGE_TLS_NAME, LEADER, TLS_NAME, Identity, learner_tls_name
from utils.trust.pki import Key, from_pem, identity_of, key_from_pem, make_csr, new_key
from utils.trust.token import JoinToken, door_credentials

CONFIG = TrustConfig()
CLAIMS = Claims("ann", "operator", 2_000_000_000.0)


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority(tmp_path / "trust", CONFIG, now=clock)


def token_for(authority: Authority, **wishes: Any) -> JoinToken:
    """A token that an admin makes, for one learner unless it is wished otherwise."""
    request = trust_pb2.TokenRequest(**{"role": "learner", "hours": 24, "uses": 1, **wishes})
    return JoinToken.parse(Manager(authority).make_token(request).text)


def request_of(token: JoinToken, key: Key, name: str = "", **more: Any) -> trust_pb2.EnrolRequest:
    """What a learner with this token and key sends."""
    csr = make_csr(key)
    return trust_pb2.EnrolRequest(csr=csr, name=name, token_id=token.token_id, proof=token.prove(csr), **more)


def certificate_of(credential: trust_pb2.Credential) -> x509.Certificate:
    return x509.load_der_x509_certificate(credential.certificate)


def uses_of(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def names_of(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return found.get_values_for_type(x509.DNSName)


def check(authority: Authority, credential: trust_pb2.Credential) -> None:
    """Raise ForbiddenError unless this certificate is admitted now."""
    certificate = certificate_of(credential)
    identity = identity_of(certificate, authority.ca)
    authority.state.read().check_shown(identity.name, identity.role, certificate.serial_number)


def test_the_ca_is_made_once_and_its_secrets_are_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "trust"
    first, second = Authority(folder, CONFIG), Authority(folder, CONFIG)
    assert (first.made, second.made) == (True, False)
    assert first.fleet == second.fleet
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes["trust"] == 0o700
    assert {modes["ca.key"], modes["door"]} == {0o600}


def test_commands_that_need_a_ca_make_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trust/ca\.key: No such file .*; is this the leader's folder"):
        Authority(tmp_path / "trust", CONFIG, make=False)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_others_can_read_is_refused(authority: Authority) -> None:
    path = authority.folder / "ca.key"
    path.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        Authority(authority.folder, CONFIG)
    assert str(caught.value) == f"{path} can be read by others (mode 0644): chmod 600 {path}"


def test_a_key_with_a_passphrase_opens_with_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOCKSTEP_TRUST_PASSPHRASE", "of the fleet")
    fleet = Authority(tmp_path, CONFIG).fleet
    assert b"ENCRYPTED" in (tmp_path / "ca.key").read_bytes()
    assert Authority(tmp_path, CONFIG).fleet == fleet
    for wrong in ("another", ""):
        monkeypatch.setenv("FLOCKSTEP_TRUST_PASSPHRASE", wrong)
        with pytest.raises(ConfigError, match=r"ca\.key"):
            Authority(tmp_path, CONFIG)


def test_a_certificate_of_another_ca_is_noticed(authority: Authority, tmp_path: Path) -> None:
    Authority(tmp_path / "other", CONFIG)
    (authority.folder / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(ConfigError, match="put back the pair"):
        Authority(authority.folder, CONFIG)


def test_the_listener_has_a_key_of_its_own_each_time(authority: Authority) -> None:
    first, second = authority.server_credentials(), authority.server_credentials()
    certificate = from_pem(first.certificate)
    assert first.key != second.key
    assert certificate.public_key() == key_from_pem(first.key).public_key()
    assert names_of(certificate) == [TLS_NAME, EDGE_TLS_NAME]
    assert uses_of(certificate) == {ExtendedKeyUsageOID.SERVER_AUTH}
    door, _ = door_credentials(token_for(authority).door)
    assert x509.load_pem_x509_certificates(first.roots) == [authority.ca, door]


def test_the_listener_bears_the_names_of_the_config(tmp_path: Path) -> None:
    authority = Authority(tmp_path, TrustConfig(names="fl.example.org, 10.0.0.1"))
    certificate = from_pem(authority.server_credentials().certificate)
    assert names_of(certificate) == [TLS_NAME, EDGE_TLS_NAME, "fl.example.org"]
    wrong = Authority(tmp_path, TrustConfig(names="fl.exämple.org"))
    with pytest.raises(ConfigError, match=r"^trust\.names: "):
        wrong.server_credentials()


def test_a_leader_that_dials_shows_its_role(authority: Authority) -> None:
    certificate = from_pem(authority.client_credentials().certificate)
    assert identity_of(certificate, authority.ca) == Identity(authority.fleet, LEADER, LEADER)
    assert uses_of(certificate) == {ExtendedKeyUsageOID.CLIENT_AUTH}


def test_a_token_admits_a_key_for_thirty_days(authority: Authority, clock: Clock) -> None:
    key = new_key()
    credential = authority.enrol(request_of(token_for(authority), key, "clinic-a"))
    certificate = certificate_of(credential)
    assert certificate.public_key() == key.public_key()
    assert identity_of(certificate, authority.ca) == Identity(authority.fleet, "learner", "clinic-a")
    assert certificate.not_valid_after_utc.timestamp() == clock.now + 30 * 86_400
    assert credential.renew_at == clock.now + 15 * 86_400
    assert (credential.name, credential.role, credential.fleet) == ("clinic-a", "learner", authority.fleet)
    assert list(credential.roots) == [authority.ca.public_bytes(Encoding.DER)]
    check(authority, credential)


def test_a_learner_that_the_leader_dials_may_serve_under_its_name(authority: Authority) -> None:
    credential = authority.enrol(request_of(token_for(authority), new_key(), "clinic-a", serves=True))
    certificate = certificate_of(credential)
    assert uses_of(certificate) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert names_of(certificate) == [learner_tls_name("clinic-a")]
    operator = authority.enrol(request_of(token_for(authority, role="operator"), new_key(), serves=True))
    assert uses_of(certificate_of(operator)) == {ExtendedKeyUsageOID.CLIENT_AUTH}


def test_nothing_of_a_request_counts_but_its_key(authority: Authority) -> None:
    key, token = new_key(), token_for(authority)
    boast = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(TLS_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    request = trust_pb2.EnrolRequest(csr=boast, token_id=token.token_id, proof=token.prove(boast))
    certificate = certificate_of(authority.enrol(request))
    assert identity_of(certificate, authority.ca).role == "learner"
    assert names_of(certificate) == []
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "admin" not in certificate.subject.rfc4514_string()


def test_the_same_key_again_gets_the_same_name_and_uses_nothing_up(authority: Authority) -> None:
    token, key = token_for(authority), new_key()
    first = authority.enrol(request_of(token, key))
    again = authority.enrol(request_of(token, key))
    assert again.name == first.name != ""
    assert authority.state.read().tokens[token.token_id].used == [
        authority.state.read().identities[first.name].key_sha256
    ]
    check(authority, first)  # a lost answer and its repetition are both good
    check(authority, again)
    with pytest.raises(ForbiddenError, match=r"^this token is used up; make a new one: python -m leader"):
        authority.enrol(request_of(token, new_key()))


def test_a_stolen_request_is_of_no_use_to_another_key(authority: Authority) -> None:
    token = token_for(authority)
    stolen = request_of(token, new_key())
    stolen.csr = make_csr(new_key())
    with pytest.raises(ForbiddenError, match="the proof that you hold this token is wrong"):
        authority.enrol(stolen)
    assert authority.state.read().tokens[token.token_id].used == []


def test_a_token_of_another_leader_is_not_known(authority: Authority, tmp_path: Path) -> None:
    other = token_for(Authority(tmp_path / "other", CONFIG))
    with pytest.raises(ForbiddenError, match="no such token"):
        authority.enrol(request_of(other, new_key()))


def test_a_token_ends(authority: Authority, clock: Clock) -> None:
    token, key = token_for(authority, hours=2, uses=0), new_key()
    clock.now += 7199
    authority.enrol(request_of(token, key))
    clock.now += 1
    for whose in (key, new_key()):
        with pytest.raises(ForbiddenError, match=r"^this token has ended; make a new one"):
            authority.enrol(request_of(token, whose))


def test_a_token_for_a_name_is_for_that_name(authority: Authority) -> None:
    token = token_for(authority, name="clinic-a")
    with pytest.raises(ForbiddenError, match="for the name 'clinic-a' alone"):
        authority.enrol(request_of(token, new_key(), "clinic-b"))
    assert authority.enrol(request_of(token, new_key())).name == "clinic-a"


def test_a_name_is_one_keys_until_a_token_replaces_it(authority: Authority) -> None:
    old = authority.enrol(request_of(token_for(authority), new_key(), "clinic-a"))
    token = token_for(authority, role="observer")
    with pytest.raises(ForbiddenError) as caught:
        authority.enrol(request_of(token, new_key(), "clinic-a"))
    assert str(caught.value) == (
        "the name 'clinic-a' is another key's; choose another --name, or there: "
        "python -m leader.trust token --name clinic-a --replace"
    )
    assert authority.state.read().tokens[token.token_id].used == []
    new = authority.enrol(request_of(token_for(authority, name="clinic-a", replace=True), new_key()))
    check(authority, new)
    with pytest.raises(ForbiddenError, match="replaced or forgotten"):
        check(authority, old)


def test_a_token_replaces_no_identity_of_another_role(authority: Authority) -> None:
    admin = authority.enrol(request_of(token_for(authority, role="admin"), new_key(), "ann"))
    token = token_for(authority, name="ann", replace=True)
    with pytest.raises(ForbiddenError, match="the name 'ann' is another key's"):
        authority.enrol(request_of(token, new_key()))
    check(authority, admin)


def test_a_key_has_one_name(authority: Authority) -> None:
    key = new_key()
    authority.enrol(request_of(token_for(authority), key, "clinic-a"))
    with pytest.raises(ForbiddenError, match="this key is that of 'clinic-a' already"):
        authority.enrol(request_of(token_for(authority), key, "clinic-b"))


def test_a_revoked_name_or_key_comes_back_only_when_forgotten(authority: Authority) -> None:
    key, manager = new_key(), Manager(authority)
    first = authority.enrol(request_of(token_for(authority), key, "clinic-a"))
    manager.revoke(trust_pb2.RevokeRequest(name="clinic-a"))
    for name, whose in [("clinic-a", key), ("clinic-a", new_key()), ("clinic-b", key), ("", key)]:
        with pytest.raises(ForbiddenError, match=r"clinic-a was revoked|that of 'clinic-a'"):
            authority.enrol(request_of(token_for(authority), whose, name))
    manager.forget(trust_pb2.ForgetRequest(name="clinic-a"))
    with pytest.raises(ForbiddenError, match="replaced or forgotten"):
        check(authority, first)
    check(authority, authority.enrol(request_of(token_for(authority), key, "clinic-a")))


@pytest.mark.parametrize("name", ["..", "a b", "a/b", "x" * 65, "ü"])
def test_a_name_that_is_no_path_segment_is_refused(name: str, authority: Authority) -> None:
    with pytest.raises(PayloadError, match="is not 1 to 64 of letters"):
        authority.enrol(request_of(token_for(authority), new_key(), name))


def test_a_request_for_a_key_of_another_kind_is_refused(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    request = request_of(token_for(authority), key)
    with pytest.raises(ForbiddenError, match="P-256"):
        authority.enrol(request)
    with pytest.raises(ForbiddenError, match="certificate request"):
        authority.enrol(trust_pb2.EnrolRequest(csr=b"\x30\x00"))


def caller(name: str, role: str = "learner", shown: trust_pb2.Credential | None = None) -> Caller:
    """Whoever shows this certificate, or a JWT."""
    serial = certificate_of(shown).serial_number if shown else 0
    return Caller(name, role, "10.0.0.7", name, serial=serial)


def test_a_certificate_that_was_forgotten_is_told_of_until_it_ends_though_a_newer_one_ended_before(
    tmp_path: Path, clock: Clock
) -> None:
    """As where trust.cert_hours is lowered meanwhile: whoever knows only the CA and the revocations would admit it."""
    authority = Authority(tmp_path, TrustConfig(cert_hours=720), now=clock)
    old = authority.enrol(request_of(token_for(authority, uses=2), new_key(), "clinic-a"))
    short = Authority(tmp_path, TrustConfig(cert_hours=1), now=clock)
    new = short.renew(trust_pb2.RenewRequest(csr=make_csr(new_key())), caller("clinic-a", shown=old))
    assert new.renew_at == clock.now + 1800
    Manager(short).forget(trust_pb2.ForgetRequest(name="clinic-a"))
    clock.now += 7200
    short.enrol(request_of(token_for(short), new_key(), "clinic-b"))
    Manager(short).forget(trust_pb2.ForgetRequest(name="clinic-b"))
    assert certificate_of(old).serial_number in short.state.read().revocations.serials


def test_renewing_gives_a_longer_certificate_and_keeps_the_old(authority: Authority, clock: Clock) -> None:
    key = new_key()
    old = authority.enrol(request_of(token_for(authority), key, "clinic-a"))
    clock.now += 15 * 86_400
    shown = caller("clinic-a", shown=old)
    new = authority.renew(trust_pb2.RenewRequest(csr=make_csr(new_key())), shown)
    assert certificate_of(new).not_valid_after_utc.timestamp() == clock.now + 30 * 86_400
    check(authority, old)
    check(authority, new)
    entry = authority.state.read().identities["clinic-a"]
    assert (entry.since, entry.until) == (clock.now - 15 * 86_400, clock.now + 30 * 86_400)


def test_who_is_not_admitted_can_renew_nothing(authority: Authority) -> None:
    request = trust_pb2.RenewRequest(csr=make_csr(new_key()))
    authority.enrol(request_of(token_for(authority), new_key(), "clinic-a"))
    for who in (caller(""), caller("clinic-b"), caller("clinic-a", "admin")):
        with pytest.raises(ForbiddenError, match="only an identity of this leader's own CA"):
            authority.renew(request, who)
    Manager(authority).revoke(trust_pb2.RevokeRequest(name="clinic-a"))
    with pytest.raises(ForbiddenError, match="was revoked"):
        authority.renew(request, caller("clinic-a"))


def test_a_key_that_was_renewed_away_or_forgotten_takes_another_use_of_its_token(
    authority: Authority,
) -> None:
    """Else a token for one let any number in, and let who was revoked and forgotten come back."""
    token, key = token_for(authority), new_key()
    eve = authority.enrol(request_of(token, key, "eve"))
    authority.renew(trust_pb2.RenewRequest(csr=make_csr(new_key())), caller("eve", shown=eve))
    with pytest.raises(ForbiddenError, match="this token is used up"):
        authority.enrol(request_of(token, key, "eve-2"))
    token, key, manager = token_for(authority), new_key(), Manager(authority)
    authority.enrol(request_of(token, key, "bob"))
    manager.revoke(trust_pb2.RevokeRequest(name="bob"))
    manager.forget(trust_pb2.ForgetRequest(name="bob"))
    with pytest.raises(ForbiddenError, match="this token is used up"):
        authority.enrol(request_of(token, key, "bob"))
    assert authority.state.read().identities.keys() == {"eve"}


@pytest.mark.parametrize("by_jwt", [False, True])
def test_a_renewal_that_began_before_the_name_was_anothers_is_refused(
    authority: Authority, *, by_jwt: bool
) -> None:
    """A call may be let through, and its request come only then."""
    if by_jwt:
        claims, request = Claims("ann", "learner", math.inf), trust_pb2.EnrolRequest(csr=make_csr(new_key()))
        authority.exchange(request, claims)
        Manager(authority).forget(trust_pb2.ForgetRequest(name="ann"))
        old = None
    else:
        claims, old = None, authority.enrol(request_of(token_for(authority), new_key(), "ann"))
    key = new_key()
    authority.enrol(request_of(token_for(authority, name="ann", replace=True), key))
    with pytest.raises(ForbiddenError, match=r"was replaced|came by no JWT"):
        authority.renew(trust_pb2.RenewRequest(csr=make_csr(new_key())), caller("ann", shown=old), claims)
    assert authority.enrol(request_of(token_for(authority), key)).name == "ann"  # whose key it still is


def test_who_saw_anothers_request_can_not_take_its_key(authority: Authority) -> None:
    """Requests are no secret; the owner of the key could renew no more."""
    eve = authority.enrol(request_of(token_for(authority), new_key(), "eve"))
    seen = make_csr(key := new_key())
    ann = authority.enrol(request_of(token_for(authority), key, "ann"))
    with pytest.raises(ForbiddenError, match="this key is that of 'ann' already"):
        authority.renew(trust_pb2.RenewRequest(csr=seen), caller("eve", shown=eve))
    authority.renew(trust_pb2.RenewRequest(csr=make_csr(key)), caller("ann", shown=ann))


@pytest.mark.parametrize("turn_out", [Manager.revoke, Manager.forget])
def test_tokens_end_with_the_operator_who_made_them(
    authority: Authority, turn_out: Callable[[Manager, Any], Any]
) -> None:
    authority.enrol(request_of(token_for(authority, role="operator"), new_key(), "eve"))
    request = trust_pb2.TokenRequest(role="learner", hours=24)
    kept, eves = token_for(authority), Manager(authority, caller("eve", "operator")).make_token(request)
    turn_out(Manager(authority), trust_pb2.RevokeRequest(name="eve"))
    with pytest.raises(ForbiddenError, match="no such token, or it was revoked"):
        authority.enrol(request_of(JoinToken.parse(eves.text), new_key()))
    authority.enrol(request_of(kept, new_key()))


def claims_of_ann(role: str = "operator") -> Claims:
    return Claims("ann", role, math.inf)


def test_a_jwt_is_exchanged_for_a_day_and_the_newest_key_has_the_name(
    authority: Authority, clock: Clock
) -> None:
    first = authority.exchange(trust_pb2.EnrolRequest(csr=make_csr(new_key())), claims_of_ann())
    assert (first.name, first.role) == ("ann", "operator")
    assert certificate_of(first).not_valid_after_utc.timestamp() == clock.now + 86_400
    second = authority.exchange(trust_pb2.EnrolRequest(csr=make_csr(new_key())), claims_of_ann())
    check(authority, second)
    with pytest.raises(ForbiddenError, match="replaced"):
        check(authority, first)
    with pytest.raises(ForbiddenError, match="for the name 'ann'"):
        authority.exchange(trust_pb2.EnrolRequest(csr=make_csr(new_key()), name="bob"), claims_of_ann())


def test_what_came_by_a_jwt_renews_by_a_new_one(authority: Authority, clock: Clock) -> None:
    authority.exchange(trust_pb2.EnrolRequest(csr=make_csr(new_key())), claims_of_ann())
    request, ann = trust_pb2.RenewRequest(csr=make_csr(new_key())), caller("ann", "operator")
    for claims in (None, claims_of_ann("admin")):
        with pytest.raises(ForbiddenError, match="ann came by a JWT"):
            authority.renew(request, ann, claims)
    clock.now += 43_200
    renewed = authority.renew(request, ann, claims_of_ann())
    assert certificate_of(renewed).not_valid_after_utc.timestamp() == clock.now + 86_400


def test_a_jwt_takes_no_name_that_a_token_gave(authority: Authority) -> None:
    authority.enrol(request_of(token_for(authority), new_key(), "ann"))
    with pytest.raises(ForbiddenError, match="another key's"):
        authority.exchange(trust_pb2.EnrolRequest(csr=make_csr(new_key())), claims_of_ann())


def test_a_certificate_is_issued_without_a_token(authority: Authority, clock: Clock) -> None:
    applicant = Applicant("edge", "gateway", new_key().public_key(), "issued by uid 0", hours=1)
    credential = authority.issue(applicant)
    assert certificate_of(credential).not_valid_after_utc.timestamp() == clock.now + 3600
    check(authority, credential)


def test_what_happens_is_recorded_without_secrets(tmp_path: Path) -> None:
    lines: list[tuple[str, dict[str, Any]]] = []

    def record(what: str, **fields: Any) -> None:
        lines.append((what, fields))

    authority = Authority(tmp_path, CONFIG, record)
    token = token_for(authority, name="clinic-a")
    authority.enrol(request_of(token, new_key()), "10.0.0.7")
    assert [what for what, _ in lines] == ["token made", "enrolled"]
    enrolled = lines[1][1]
    assert (enrolled["who"], enrolled["ip"], enrolled["by"]) == (
        "clinic-a",
        "10.0.0.7",
        f"token {token.token_id}",
    )
    written = repr(lines) + "".join(
        path.read_text() for path in tmp_path.iterdir() if path.name not in {"ca.key", "door"}
    )
    assert token.text not in written
    assert token.secret.hex() not in written
    assert str(token.secret) not in written


def race(folder: Path, token: str, start: Barrier, answers: Any) -> None:
    """Try to join in a process of its own."""
    authority = Authority(folder, CONFIG)
    request = request_of(JoinToken.parse(token), new_key())
    start.wait(60)
    try:
        answers.put(authority.enrol(request).name)
    except ForbiddenError as error:
        answers.put(str(error))


def test_of_two_processes_one_gets_the_last_use(tmp_path: Path) -> None:
    token = token_for(Authority(tmp_path, CONFIG)).text
    method = multiprocessing.get_context("spawn")
    start, answers = method.Barrier(2), method.Queue()
    work: Callable[..., None] = race
    racers = [method.Process(target=work, args=(tmp_path, token, start, answers)) for _ in range(2)]
    for racer in racers:
        racer.start()
    told = sorted(answers.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join(60)
    assert [text.startswith("learner-") for text in told] == [True, False]
    assert told[1].startswith("this token is used up")
    assert len(Authority(tmp_path, CONFIG).state.read().identities) == 1
