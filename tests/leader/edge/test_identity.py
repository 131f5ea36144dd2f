"""An edge's files: which certificate makes one an edge, whom it then knows, and files that are replaced."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from leader.edge import identity
from leader.edge.app import App
from leader.edge.identity import Files
from leader.edge.options import EdgeOptions
from leader.trust.identities.callers import Caller
from leader.trust.identities.manager import Manager
from protos import trust_pb2
from tests.leader.trust.fleet import Fleet
from utils.errors import ConfigError, ForbiddenError
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.names import EDGE_TLS_NAME


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "trust")


def write(folder: Path, own: Credentials) -> None:
    for name, text in (("key", own.key), ("certificate", own.certificate), ("ca", own.roots)):
        (folder / name).write_bytes(text)


def options(folder: Path, own: Credentials, **more: Any) -> EdgeOptions:
    write(folder, own)
    files = {name: folder / name for name in ("key", "certificate", "ca")}
    return EdgeOptions(leader="leader.example:50060", **files, **more)


def test_one_that_the_leader_admitted_knows_others_of_its_ca(fleet: Fleet, tmp_path: Path) -> None:
    edge = Files(options(tmp_path, fleet.admit("east", "aggregator"), edges_listen="127.0.0.1:0"))
    assert edge.parent_name == EDGE_TLS_NAME
    for name, role in (("west", "aggregator"), ("ann", "learner")):
        certificate = pki.from_pem(fleet.admit(name, role).certificate)
        assert edge.holder(certificate) == (name, role)
    stranger = Fleet(tmp_path / "other").admit("west", "aggregator")
    with pytest.raises(ForbiddenError, match="not an identity of"):
        edge.holder(pki.from_pem(stranger.certificate))


def test_it_checks_who_is_revoked_as_it_was_told_last(fleet: Fleet, tmp_path: Path) -> None:
    edge = Files(options(tmp_path, fleet.admit("east", "aggregator")))
    manager, callers = Manager(fleet.authority), {}
    for name in ("west", "north", "south"):
        certificate = pki.from_pem(fleet.admit(name, "aggregator").certificate)
        callers[name] = Caller(name, "aggregator", "", name, serial=certificate.serial_number)
    for name in ("west", "north"):
        fleet.revoke(name)
    manager.forget(trust_pb2.ForgetRequest(name="north"))
    fleet.admit("south", "aggregator")  # another key takes the name
    edge.check(callers["west"])
    edge.revocations = fleet.authority.state.read().revocations
    for name, why in (("west", "was revoked"), ("north", "or forgotten"), ("south", "was replaced")):
        with pytest.raises(ForbiddenError, match=f"{name} {why}" if why == "was revoked" else why):
            edge.check(callers[name])
    edge.check(Caller("north", "aggregator", "", "north", serial=5))


@pytest.mark.parametrize("role", ["learner", "operator", "gateway"])
def test_a_certificate_of_another_role_makes_no_edge(fleet: Fleet, tmp_path: Path, role: str) -> None:
    with pytest.raises(
        ForbiddenError, match=f"is of role {role}; get one of role aggregator .*--role aggregator"
    ):
        Files(options(tmp_path, fleet.admit("x", role)))


def test_with_a_pki_of_ones_own_no_edges_are_taken_below(fleet: Fleet, tmp_path: Path) -> None:
    foreign = fleet.admit("east", "aggregator")
    root = Fleet(tmp_path / "other").roots
    own = Credentials(foreign.key, foreign.certificate, root)
    assert Files(options(tmp_path, own)).parent_name == ""
    with pytest.raises(ConfigError, match=r"--edges-listen: .*or have all edges join the leader"):
        App(options(tmp_path, own, edges_listen="127.0.0.1:0"))


def test_files_that_cant_be_used_are_named(fleet: Fleet, tmp_path: Path) -> None:
    own, other = fleet.admit("east", "aggregator"), fleet.admit("west", "aggregator")
    with pytest.raises(ConfigError, match="--certificate, --key, --ca: "):
        Files(options(tmp_path, Credentials(other.key, own.certificate, own.roots)))
    given = options(tmp_path, own)
    (tmp_path / "ca").unlink()
    with pytest.raises(ConfigError, match="No such file"):
        Files(given)


class Told(logging.Handler):
    """Says when a line is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put_nowait(record.getMessage())


def test_files_that_are_replaced_count_once_they_fit_together(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_LOOK_S", 0.001)
    old, new = fleet.admit("east", "aggregator"), fleet.admit("east", "aggregator")
    edge = Files(options(tmp_path, old))

    async def story() -> None:
        told = Told()
        identity._log.addHandler(told)
        try:
            renewed = asyncio.ensure_future(edge.renewed())
            (tmp_path / "key").write_bytes(new.key)
            async with asyncio.timeout(30):
                assert "the old certificate stays in use: --certificate" in await told.lines.get()
                assert edge.server_credentials() == old
                write(tmp_path, new)
                await renewed
        finally:
            identity._log.removeHandler(told)

    asyncio.run(story())
    assert edge.server_credentials() == new
