"""Certificates: what the CA issues, what counts as issued by it, and what a request may say."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.trust.pki import Fleet
from utils.errors import ConfigError, ForbiddenError
from utils.trust import pki
from utils.trust.names import EDGE, EDGE_TLS_NAME, ROLES, TLS_NAME, Identity, learner_tls_name

FLEET = Fleet()


def signed(
    key: pki.PublicKey,
    issuer: x509.Name,
    issuer_key: pki.Key,
    *uris: str,
    ca: bool = False,
    subject: x509.Name | None = None,
) -> x509.Certificate:
    """A certificate as an attacker, or a CA with other habits, would make it."""
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject or x509.Name([]), key, x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def uses_of(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def names_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_a_fleet_is_told_by_its_key_alone() -> None:
    key = ec.derive_private_key(7, ec.SECP256R1())
    assert pki.fleet_of(key.public_key()) == "11086649cd3e5d18"
    first, second = pki.make_ca(key, 1e9), pki.make_ca(key, 1e9)
    assert first.subject == second.subject
    assert pki.ends_at(first) == 1e9 + 3650 * 86400


@pytest.mark.parametrize("serves", [False, True])
def test_an_identity_is_a_client_and_a_server_only_under_its_own_name(serves: bool) -> None:
    holder = FLEET.issue("clinic-a", serves=serves)
    assert holder.identity(FLEET) == Identity(FLEET.name, "learner", "clinic-a")
    client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    assert uses_of(holder.certificate) == ([client, server] if serves else [client])
    served = [learner_tls_name("clinic-a")] if serves else []
    assert names_of(holder.certificate).get_values_for_type(x509.DNSName) == served
    basics = holder.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basics.critical
    assert not basics.value.ca


@pytest.mark.parametrize("role", ROLES)
def test_an_edge_alone_serves_under_the_name_of_edges(role: str) -> None:
    served = names_of(FLEET.issue("a", role, serves=True).certificate).get_values_for_type(x509.DNSName)
    assert served == [learner_tls_name("a"), *([EDGE_TLS_NAME] if role == EDGE else [])]
    assert names_of(FLEET.issue("a", role).certificate).get_values_for_type(x509.DNSName) == []


def test_a_certificate_begins_five_minutes_ago_and_never_outlives_its_ca() -> None:
    now = time.time()
    key = pki.new_key().public_key()
    identity = Identity(FLEET.name, "learner", "a")
    short = pki.issue(FLEET.ca, FLEET.key, key, identity, until=now + 6, now=now)
    assert pki.ends_at(short) == int(now + 6)
    assert short.not_valid_before_utc.timestamp() == int(now - 300)
    long = pki.issue(FLEET.ca, FLEET.key, key, identity, until=now + 1e10, now=now)
    assert pki.ends_at(long) == pki.ends_at(FLEET.ca)


def test_the_listeners_certificate_is_no_identity_and_bears_the_names_given() -> None:
    server = FLEET.server(["fl.example.org", "10.0.0.1", "::1"]).certificate
    assert names_of(server).get_values_for_type(x509.DNSName) == [TLS_NAME, EDGE_TLS_NAME, "fl.example.org"]
    assert [str(ip) for ip in names_of(server).get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    assert uses_of(server) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert pki.ends_at(server) == pki.ends_at(FLEET.ca)
    with pytest.raises(ForbiddenError, match="not an identity of"):
        pki.identity_of(server, FLEET.ca)


def forged() -> dict[str, x509.Certificate]:
    """Certificates that name an identity of the fleet, or come from its CA, but not both."""
    uri = Identity(FLEET.name, "admin", "a").uri
    leaf, other, key = FLEET.issue("leaf"), Fleet(), pki.new_key()
    public, name = key.public_key(), FLEET.ca.subject
    return {
        "another CA": signed(public, other.ca.subject, other.key, uri),
        "another CA of this name": signed(public, name, other.key, uri),
        "a leaf": signed(public, leaf.certificate.subject, leaf.key, uri),
        "a leaf by the name of the CA": signed(public, name, leaf.key, uri),
        "itself": signed(public, x509.Name([]), key, uri),
        "the door": signed(public, FLEET.door.certificate.subject, FLEET.door.key, uri),
        "the CA, without a URI": signed(public, name, FLEET.key),
        "the CA, with two URIs": signed(public, name, FLEET.key, uri, uri.replace("admin", "learner")),
        "the CA, with a strange URI": signed(public, name, FLEET.key, uri + "/b"),
        "the CA itself": FLEET.ca,
        "the anchor": pki.anchor(FLEET.key.public_key()),
    }


@pytest.mark.parametrize("how", forged())
def test_no_identity_unless_the_ca_itself_issued_one(how: str) -> None:
    with pytest.raises(ForbiddenError, match=f"not an identity of {FLEET.name}; join with a token"):
        pki.identity_of(forged()[how], FLEET.ca)


def test_what_an_intermediate_of_the_cas_own_name_signed_is_no_identity() -> None:
    key = pki.new_key()
    intermediate = signed(key.public_key(), FLEET.ca.subject, FLEET.key, ca=True, subject=FLEET.ca.subject)
    intermediate.verify_directly_issued_by(FLEET.ca)  # so that the chain is whole
    leaf = signed(pki.new_key().public_key(), FLEET.ca.subject, key, Identity(FLEET.name, "admin", "a").uri)
    leaf.verify_directly_issued_by(intermediate)
    with pytest.raises(ForbiddenError, match="not an identity of"):
        pki.identity_of(leaf, FLEET.ca)


def test_an_identity_of_another_fleet_is_none_even_if_the_ca_signed_it() -> None:
    public = pki.new_key().public_key()
    foreign = signed(public, FLEET.ca.subject, FLEET.key, Identity("0" * 16, "admin", "a").uri)
    with pytest.raises(ForbiddenError, match=f"not an identity of {FLEET.name}"):
        pki.identity_of(foreign, FLEET.ca)


def test_a_request_gives_the_key_that_signed_it() -> None:
    key = pki.new_key()
    assert pki.key_of_csr(pki.make_csr(key)) == key.public_key()


def test_a_request_says_nothing_but_its_key() -> None:
    request = x509.load_der_x509_csr(pki.make_csr(pki.new_key()))
    assert list(request.subject) == []
    assert list(request.extensions) == []


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-384", "secp256k1", "RSA", "Ed25519"],
)
def test_a_request_with_a_key_of_another_kind_is_refused(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, digest)
    with pytest.raises(ForbiddenError, match="not one by its own P-256 key: its key is of another kind"):
        pki.key_of_csr(request.public_bytes(Encoding.DER))


def test_a_request_for_somebody_elses_key_is_refused() -> None:
    """Its key replaced by another's of the same length, under the signature of its sender."""
    mine, theirs = pki.new_key(), pki.new_key()
    der = pki.make_csr(mine).replace(pki.spki(mine.public_key()), pki.spki(theirs.public_key()))
    with pytest.raises(ForbiddenError, match="not one by its own P-256 key: signed with another key"):
        pki.key_of_csr(der)


def test_a_request_cut_anywhere_is_refused() -> None:
    whole = pki.make_csr(pki.new_key())
    for length in range(len(whole)):
        with pytest.raises(ForbiddenError, match="certificate request"):
            pki.key_of_csr(whole[:length])


def test_a_request_damaged_anywhere_gives_no_other_key() -> None:
    """Nearly all are refused: how many bits of a signature's last byte count is told outside of it."""
    key = pki.new_key()
    whole = pki.make_csr(key)
    taken = []
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        try:
            taken.append(pki.key_of_csr(bytes(damaged)))
        except ForbiddenError:
            continue
    assert taken in ([], [key.public_key()])


def test_keys_and_certificates_are_read_back_from_pem() -> None:
    holder = FLEET.issue("a")
    assert pki.from_pem(pki.to_pem(holder.certificate)) == holder.certificate
    assert same(pki.key_from_pem(pki.key_to_pem(holder.key)), holder.key)
    assert same(pki.key_from_pem(pki.key_to_pem(holder.key, "pass"), passphrase="pass"), holder.key)


def same(key: pki.Key, other: pki.Key) -> bool:
    return key.private_numbers() == other.private_numbers()


@pytest.mark.parametrize(
    ("pem", "passphrase"),
    [
        (pki.key_to_pem(FLEET.key, "pass"), None),
        (pki.key_to_pem(FLEET.key, "pass"), "wrong"),
        (pki.key_to_pem(FLEET.key), "pass"),
        (pki.key_to_pem(FLEET.key)[:100], None),
        (b"", None),
    ],
    ids=["none given", "wrong", "none needed", "cut", "empty"],
)
def test_a_key_that_cant_be_read_is_named(pem: bytes, passphrase: str | None) -> None:
    with pytest.raises(ConfigError, match=r"^trust/ca\.key can't be read; is its passphrase right\?"):
        pki.key_from_pem(pem, "trust/ca.key", passphrase)


def test_a_file_without_a_certificate_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^trust/ca\.pem is not a certificate in PEM"):
        pki.from_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "trust/ca.pem")


def test_a_key_of_another_kind_is_not_taken() -> None:
    pem = pki.key_to_pem(ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(ConfigError, match=r"^trust/ca\.key is not a P-256 key"):
        pki.key_from_pem(pem, "trust/ca.key")
