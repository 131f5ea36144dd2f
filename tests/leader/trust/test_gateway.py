"""What the command for gateways writes, and what it refuses."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from leader.config import TrustConfig
from leader.trust.cli import main
from leader.trust.identities.authority import Authority
from tests.tools.oidc import oidc_issuer
from utils.trust import pki
from utils.trust.names import EDGE_TLS_NAME, TLS_NAME

MIB = 1 << 20


def made(folder: Path, *flags: str) -> dict[str, Any]:
    """Envoy's configuration by the command."""
    command = ["gateway", "edge", "--leader", "10.0.0.1:50051", "--out", str(folder / "edge")]
    assert main([*command, "--dir", str(folder / "trust"), *flags]) == 0
    config: dict[str, Any] = yaml.safe_load((folder / "edge" / "envoy.yaml").read_text())
    return config


def test_all_that_envoy_needs_is_in_one_folder_that_others_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, "--dns", "fl.example.org", "--dns", "192.0.2.7", "--hours", "5")
    files = sorted((tmp_path / "edge").iterdir())
    assert [file.name for file in files] == [
        "ca.pem",
        "client.pem",
        "clients.pem",
        "envoy.yaml",
        "server.pem",
    ]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    out, err = capsys.readouterr()
    assert "of edge, gateway, until " in out
    assert "envoy -c envoy.yaml" in err

    ca = Authority(tmp_path / "trust", TrustConfig(), make=False).ca
    client, server = (
        pki.from_pem((tmp_path / "edge" / f"{name}.pem").read_bytes()) for name in ("client", "server")
    )
    assert pki.identity_of(client, ca).uri.endswith(".flockstep/gateway/edge")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [TLS_NAME, EDGE_TLS_NAME, "fl.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    # A key on a disk elsewhere must not speak for the leader as long as the CA lives.
    assert abs(pki.ends_at(server) - pki.ends_at(client)) < 60
    assert server.public_key() != client.public_key()


def test_once_more_it_is_the_same_gateway_with_new_certificates(tmp_path: Path) -> None:
    made(tmp_path)
    before = (tmp_path / "edge" / "client.pem").read_bytes()
    made(tmp_path)
    after = (tmp_path / "edge" / "client.pem").read_bytes()
    assert before != after
    assert pki.from_pem(before).public_key() == pki.from_pem(after).public_key()
    identities = Authority(tmp_path / "trust", TrustConfig(), make=False).state.read().identities
    assert list(identities) == ["edge"]


def test_limits_are_those_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "limits: {max_learners: 10, calls_per_s: 0.2, handshake_s: 2.5, enrolments_per_min: 7}\n"
    )
    config = made(tmp_path, "--config", str(tmp_path / "run.yaml"), "--listen", "[::]:8443")
    (monitor,) = config["overload_manager"]["resource_monitors"]
    assert monitor["typed_config"]["max_active_downstream_connections"] == 84
    (listener,) = config["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "::", "port_value": 8443}
    (chain,) = listener["filter_chains"]
    assert chain["transport_socket_connect_timeout"] == "2.500s"
    manager = chain["filters"][0]["typed_config"]
    assert manager["http2_protocol_options"]["max_concurrent_streams"] == 32
    assert manager["http2_protocol_options"]["initial_connection_window_size"] == 64 * MIB
    buckets = [one["token_bucket"] for one in manager["http_filters"][0]["typed_config"]["descriptors"]]
    assert [(bucket["max_tokens"], bucket["fill_interval"]) for bucket in buckets] == [
        (1, "1s"),
        (1, "1s"),
        (14, "60s"),
    ]
    (cluster,) = config["static_resources"]["clusters"]
    (threshold,) = cluster["circuit_breakers"]["thresholds"]
    assert (threshold["max_connections"], threshold["max_requests"]) == (84, 104)


def test_nobody_else_may_ask_envoy_anything(tmp_path: Path) -> None:
    config = made(tmp_path)
    assert "admin" not in config
    assert [one["name"] for one in config["static_resources"]["listeners"]] == ["learners"]
    assert "jwt_authn" not in (tmp_path / "edge" / "envoy.yaml").read_text().replace(
        "envoy.filters.http.jwt_authn\n", ""
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--leader", "10.0.0.1"], "--leader 10.0.0.1: it must be HOST:PORT"),
        (["--listen", ":443"], "--listen :443: it must be HOST:PORT"),
        (["--dns", "süd.example"], "--dns: "),
        (["--origin", "*"], "--origin *: it must be what a browser says"),
        (["--origin", "https://fl.example.org/"], "--origin https://fl.example.org/: it must be"),
        (
            ["--origin", "https://fl.example.org", "--edge", "10.0.0.2:1"],
            "--origin: pages call the leader, not",
        ),
        (["--origin", "https://fl.example.org"], "--origin: a page proves by a JWT who calls, and this run"),
    ],
)
def test_a_wrong_address_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    command = ["gateway", "edge", "--leader", "10.0.0.1:50051", "--out", str(tmp_path / "edge")]
    assert main([*command, "--dir", str(tmp_path / "trust"), *flags]) == 2
    assert f"error: {told}" in capsys.readouterr().err
    assert not (tmp_path / "edge").exists()


def test_a_pki_of_ones_own_must_issue_for_its_gateway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = "{mode: 'on', certificate: c, key: k, client_ca: corp.pem, roles: r}"
    (tmp_path / "run.yaml").write_text(f"trust: {files}\n")
    command = ["gateway", "edge", "--leader", "10.0.0.1:50051", "--out", str(tmp_path / "edge")]
    assert main([*command, "--dir", str(tmp_path / "trust"), "--config", str(tmp_path / "run.yaml")]) == 2
    assert "trust.client_ca is corp.pem: that PKI must issue" in capsys.readouterr().err


def test_an_issuer_that_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with oidc_issuer(tmp_path) as issuer:
        pass
    (tmp_path / "run.yaml").write_text(f"trust: {{mode: 'on', jwt_issuer: '{issuer.url}'}}\n")
    command = ["gateway", "edge", "--leader", "10.0.0.1:50051", "--out", str(tmp_path / "edge")]
    assert main([*command, "--dir", str(tmp_path / "trust"), "--config", str(tmp_path / "run.yaml")]) == 2
    assert f"trust.jwt_issuer is {issuer.url}, which does not tell its keys: " in capsys.readouterr().err


def test_edges_stand_in_the_leaders_place(tmp_path: Path) -> None:
    config = made(tmp_path, "--edge", "10.0.0.2:50061", "--edge", "[::1]:50062")
    (cluster,) = config["static_resources"]["clusters"]
    assert (cluster["type"], cluster["lb_policy"]) == ("STRICT_DNS", "RING_HASH")
    places = [one["endpoint"]["address"]["socket_address"] for one in endpoints(cluster)]
    assert [(place["address"], place["port_value"]) for place in places] == [
        ("10.0.0.2", 50061),
        ("::1", 50062),
    ]
    assert cluster["transport_socket"]["typed_config"]["sni"] == EDGE_TLS_NAME
    (before,) = made(tmp_path)["static_resources"]["clusters"]
    assert (before["type"], before.get("lb_policy")) == ("LOGICAL_DNS", None)
    assert len(endpoints(before)) == 1


def endpoints(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    """Where a cluster of Envoy's sends calls."""
    (group,) = cluster["load_assignment"]["endpoints"]
    found: list[dict[str, Any]] = group["lb_endpoints"]
    return found
