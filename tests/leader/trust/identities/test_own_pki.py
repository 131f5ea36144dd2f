"""A PKI of one's own: rules name its holders, and its files may change while a run goes on."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from leader.config import TrustConfig
from leader.trust.identities.callers import Caller
from leader.trust.identities.own_pki import OwnPki, read_rules
from leader.trust.identities.state import Revocation, TrustState
from scripts.cluster import Cluster
from tests.clusters import NOISE, TINY, play
from tests.leader.trust.corporate import SERVER_NAME, Corporation
from utils.errors import ConfigError, ForbiddenError
from utils.trust import pki

RULES = """\
# who may do what
spiffe://corp/ns/fl/sa/trainer-*  = learner
CN=ann@corp = operator   # she is on call
CN=hospital-* = learner
CN=* = observer
"""


def files_of(corporation: Corporation, folder: Path, rules: str = RULES) -> TrustConfig:
    corporation.write(folder, "leader", dns=(SERVER_NAME,))
    (folder / "roles").write_text(rules)
    paths = {"certificate": "leader.pem", "key": "leader.key", "client_ca": "ca.pem", "roles": "roles"}
    return TrustConfig(mode="on", **{key: folder / name for key, name in paths.items()})


def opened(corporation: Corporation, folder: Path) -> OwnPki:
    return OwnPki(files_of(corporation, folder), TrustState(folder))


@pytest.mark.parametrize(
    ("name", "uris", "holder"),
    [
        ("ann@corp", (), ("ann-corp-", "operator")),
        ("hospital-7", (), ("hospital-7", "learner")),
        ("x", ("spiffe://corp/ns/fl/sa/trainer-1",), ("spiffe-corp-ns-fl-sa-trainer-1-", "learner")),
        ("x", ("spiffe://corp/ns/fl/sa/trainer-1/admin",), ("x", "observer")),
        ("x", ("CN=ann@corp",), ("x", "observer")),
        ("x", ("spiffe://corpxns/fl/sa/trainer-1",), ("x", "observer")),
    ],
)
def test_the_first_rule_that_fits_gives_the_role(
    tmp_path: Path, name: str, uris: tuple[str, ...], holder: tuple[str, str]
) -> None:
    corporation = Corporation()
    found, role = opened(corporation, tmp_path).holder(corporation.leaf(name, uris)[0])
    assert (found.rstrip("0123456789abcdef") if found != holder[0] else found, role) == holder


def test_two_holders_never_share_a_name(tmp_path: Path) -> None:
    corporation = Corporation()
    own = opened(corporation, tmp_path)
    same = [("hospital-a b", ()), ("hospital-a-b", ()), ("hospital-a@b", ())]
    assert len({own.holder(corporation.leaf(*who)[0])[0] for who in same}) == 3


def test_who_fits_no_rule_or_is_of_another_ca_is_nobody(tmp_path: Path) -> None:
    corporation = Corporation()
    own = OwnPki(files_of(corporation, tmp_path, "CN=a = learner\n"), TrustState(tmp_path))
    assert own.holder(corporation.leaf("a")[0]) == ("a", "learner")
    with pytest.raises(ForbiddenError, match=r"no rule of trust.roles fits CN=b"):
        own.holder(corporation.leaf("b")[0])
    with pytest.raises(ForbiddenError, match=r"no CA of trust.client_ca"):
        own.holder(Corporation().leaf("a")[0])


def test_a_revoked_name_is_refused_whatever_certificate_it_gets(tmp_path: Path) -> None:
    own = opened(Corporation(), tmp_path)
    caller = Caller("hospital-7", "learner", "", "hospital-7")
    own.check(caller)
    with TrustState(tmp_path).edit() as records:
        records.revoked["hospital-7"] = Revocation(when=1.0, why="left", by="ann")
    with pytest.raises(ForbiddenError, match="hospital-7 was revoked"):
        own.check(caller)


@pytest.mark.parametrize(
    "line", ["CN=a", "CN=a = king", "a = learner", "CN= = learner", "= learner", "://x = learner"]
)
def test_a_rule_that_is_none_is_told_by_its_line(line: str) -> None:
    with pytest.raises(ConfigError, match=r"^roles:3: "):
        read_rules(f"# rules\n\n{line}\n", "roles")


def test_files_that_do_not_belong_together_are_told(tmp_path: Path) -> None:
    config = files_of(Corporation(), tmp_path)
    assert config.key is not None
    config.key.write_bytes(pki.key_to_pem(pki.new_key()))
    with pytest.raises(ConfigError, match=r"leader.key is not the key of .*leader.pem; put back the pair"):
        OwnPki(config, TrustState(tmp_path))
    config.key.unlink()
    with pytest.raises(ConfigError, match=r"leader.key: No such file"):
        OwnPki(config, TrustState(tmp_path))


async def said(words: str) -> None:
    """Returns when these words are logged."""
    done = asyncio.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                done.set()

    listener = Listener()
    logging.getLogger("leader").addHandler(listener)
    try:
        await asyncio.wait_for(done.wait(), 20)
    finally:
        logging.getLogger("leader").removeHandler(listener)


def test_new_files_count_once_they_fit_together(tmp_path: Path) -> None:
    corporation = Corporation()
    config = files_of(corporation, tmp_path)

    async def scenario() -> None:
        own = OwnPki(config, TrustState(tmp_path))
        before = own.server_credentials()
        renewed, other = (asyncio.ensure_future(own.renewed()) for _ in range(2))  # of two listeners
        assert config.key is not None
        assert config.certificate is not None
        key = config.key.read_bytes()
        corporation.write(tmp_path, "leader", dns=(SERVER_NAME,))
        new_key = config.key.read_bytes()
        config.key.write_bytes(key)  # as if the new key came late
        await said("stay in use")
        assert own.server_credentials() == before
        assert not renewed.done()
        config.key.write_bytes(new_key)
        await asyncio.gather(renewed, other)
        assert own.server_credentials().key == new_key

    asyncio.run(asyncio.wait_for(scenario(), 20))


def shown(address: str, folder: Path) -> bytes:
    """The certificate that a server shows to a client that has one, DER."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "hospital-a.pem", folder / "hospital-a.key")
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as tls,
    ):
        found = tls.getpeercert(binary_form=True)
        assert found is not None
        return found


def test_a_run_goes_on_when_the_leaders_certificate_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    corporation, folder = Corporation(), tmp_path / "pki"
    config = files_of(corporation, folder)
    settings: dict[str, object] = {
        **{f"trust.{name}": getattr(config, name) for name in ("certificate", "key", "client_ca", "roles")},
        "trust.mode": "on",
        "trust.dir": tmp_path / "trust",
    }
    learners = {}
    for name in ("hospital-a", "hospital-b"):
        corporation.write(folder, name)
        learners[name] = {
            "ca": folder / "ca.pem",
            "certificate": folder / f"{name}.pem",
            "key": folder / f"{name}.key",
        }

    def start(cluster: Cluster, name: str, **more: Any) -> None:
        cluster.learner(name, task=NOISE, data=name, **more)

    async def scenario(cluster: Cluster) -> None:
        first = await asyncio.to_thread(shown, cluster.address, folder)
        start(cluster, "hospital-a", **learners["hospital-a"], server_name=SERVER_NAME)
        corporation.write(folder, "leader", dns=(SERVER_NAME,))
        await said("listening with other certificates")
        assert await asyncio.to_thread(shown, cluster.address, folder) != first
        start(cluster, "hospital-b", **learners["hospital-b"], server_name=SERVER_NAME)
        await cluster.finished()

    async def plain(cluster: Cluster) -> None:
        for name in learners:
            start(cluster, name)
        await cluster.finished()

    assert play(scenario, {**TINY, **settings}).model_sha256 == play(plain).model_sha256
