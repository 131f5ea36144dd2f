"""Identities on disk: one process each, keys for their owner alone, and what is kept of what the leader issues."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from protos import trust_pb2
from utils.errors import ConfigError, ForbiddenError, PayloadError
from utils.trust import identity as identities
from utils.trust import pki
from utils.trust.identity import Identity
from utils.trust.names import Identity as Name

NOW = float(int(time.time()))
CA_KEY = pki.new_key()
CA = pki.make_ca(CA_KEY, NOW)
FLEET = pki.fleet_of(CA_KEY.public_key())
ADDRESS = "10.0.0.1:50051"
HELD: list[Identity] = []  # by the test that runs


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where identities are; those of the test are let go."""
    monkeypatch.setenv("FLOCKSTEP_HOME", str(tmp_path / "home"))
    yield tmp_path / "home" / "identities"
    while HELD:
        HELD.pop().close()


def in_folder(folder: Path) -> Identity:
    HELD.append(identities.in_folder(folder))
    return HELD[-1]


def of_fleet(fleet: str, name: str) -> Identity:
    HELD.append(identities.of_fleet(fleet, name))
    return HELD[-1]


def of_address(address: str, name: str) -> Identity | None:
    found = identities.of_address(address, name)
    HELD.extend((found,) if found else ())
    return found


def issued(
    identity: Identity, name: str = "a", *, life_s: float = 100.0, **more: Any
) -> trust_pb2.Credential:
    """What a leader with our CA issues for this identity's key."""
    key = more.pop("key", identity.key.public_key())
    ca, ca_key = more.pop("ca", (CA, CA_KEY))
    whom = Name(FLEET, "learner", name)
    certificate = pki.issue(ca, ca_key, key, whom, until=NOW + life_s, now=NOW, **more)
    return trust_pb2.Credential(
        certificate=certificate.public_bytes(Encoding.DER),
        roots=[ca.public_bytes(Encoding.DER)],
        renew_at=int(NOW + life_s / 2),
    )


def joined(name: str, *, life_s: float = 100.0, address: str = ADDRESS) -> Identity:
    """An identity that has just joined and is held."""
    identity = of_fleet(FLEET, name)
    identity.take(issued(identity, name, life_s=life_s), CA_KEY.public_key())
    identity.remember(address)
    return identity


def test_what_the_leader_issued_is_there_the_next_time_with_its_key_for_its_owner_alone(home: Path) -> None:
    identity = of_fleet(FLEET, "")
    begun = identity.folder
    assert (begun.parent, begun.name[:8]) == (home / FLEET, "joining-")
    key = identity.key.public_key()
    identity.take(issued(identity, "clinic-a", life_s=60.0, serves=True), CA_KEY.public_key())
    identity.close()
    assert not begun.exists()
    again = of_fleet(FLEET, "")
    assert again.folder == home / FLEET / "clinic-a"
    assert again.key.public_key() == key
    assert (again.ends_at, again.renew_at, again.serves) == (NOW + 60, NOW + 30, True)
    assert again.credentials.roots == pki.to_pem(CA)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (again.folder, *again.folder.iterdir())}
    assert (modes["clinic-a"], modes["key.pem"]) == (0o700, 0o600)
    assert repr(again.credentials).count("PRIVATE KEY") == 0


def test_a_key_that_was_made_before_a_lost_answer_is_used_again() -> None:
    first = of_fleet(FLEET, "")
    key = first.key.public_key()
    assert first.ends_at == 0.0
    first.close()
    assert of_fleet(FLEET, "").key.public_key() == key


def test_eight_learners_take_eight_identities_and_come_back_to_them() -> None:
    first = [joined(f"l{number}") for number in range(8)]
    with pytest.raises(ForbiddenError, match=r"^other processes use all identities .*once with --join TOKEN"):
        of_address(ADDRESS, "")
    for identity in first:
        identity.close()
    again = [of_address(ADDRESS, "") for _ in range(8)]
    folders = {identity.folder.name for identity in again if identity}
    assert folders == {f"l{number}" for number in range(8)}


def test_another_process_finds_an_identity_taken() -> None:
    joined("a")
    script = f"from utils.trust.identity import of_address; of_address({ADDRESS!r}, '')"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1].startswith("utils.errors.ForbiddenError: other processes use all")
    script = f"from utils.trust.identity import of_fleet; print(of_fleet({FLEET!r}, '').folder.name)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("joining-")


def test_eight_processes_that_begin_at_once_take_eight_identities(home: Path) -> None:
    script = (
        "import sys; from utils.trust.identity import of_fleet; print(flush=True); sys.stdin.readline(); "
        f"held = of_fleet({FLEET!r}, ''); print(held.folder.name, flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", script]
    with ExitStack() as stack:
        eight = [stack.enter_context(Popen(command, stdin=PIPE, stdout=PIPE, text=True)) for _ in range(8)]
        for said in ("ready", "took"):
            told = [process.stdout.readline().strip() for process in eight if process.stdout]
            for process in eight:
                if process.stdin:
                    process.stdin.write(f"{said}\n")
                    process.stdin.flush()
    assert len(set(told)) == 8
    assert {path.name for path in (home / FLEET).iterdir()} == set(told)


def test_of_the_free_identities_the_one_that_lasts_longest_is_taken_or_the_one_that_is_named() -> None:
    for name, life_s in (("old", 10.0), ("new", 100.0), ("older", 5.0)):
        joined(name, life_s=life_s).close()
    joined("elsewhere", life_s=200.0, address="10.0.0.2:50051").close()
    found = of_address(ADDRESS, "")
    assert found is not None
    assert found.folder.name == "new"
    named = of_address(ADDRESS, "older")
    assert named is not None
    assert named.folder.name == "older"
    assert of_address(ADDRESS, "elsewhere") is None
    assert of_address("10.0.0.3:50051", "") is None


def test_a_folder_of_ones_own_holds_one_identity_for_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "identity"
    identity = in_folder(folder)
    identity.take(issued(identity, "a"))
    assert identity.folder == folder  # it stays where it was put
    with pytest.raises(ConfigError, match=rf"^another process uses the identity in {folder}; give each"):
        in_folder(folder)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^can't use the identity in .*/file/x: Not a directory$"):
        in_folder(tmp_path / "file" / "x")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    in_folder(tmp_path / "a").close()
    path = tmp_path / "a" / "key.pem"
    path.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        in_folder(tmp_path / "a")
    assert str(caught.value) == f"{path} can be read by others (mode 0644): chmod 600 {path}"


def test_what_is_not_for_this_key_or_not_of_this_ca_is_not_kept(tmp_path: Path) -> None:
    identity = in_folder(tmp_path / "a")
    other = pki.new_key()
    other_ca = pki.make_ca(other, NOW)
    wrong = {
        "for another key": (issued(identity, key=other.public_key()), None),
        "of another CA": (issued(identity), other.public_key()),
        "not an identity of": (issued(identity, ca=(other_ca, other)), None),
    }
    for words, (credential, ca_key) in wrong.items():
        with pytest.raises(ForbiddenError, match=words):
            identity.take(credential, ca_key)
    with pytest.raises(PayloadError, match="holds no certificate"):
        identity.take(trust_pb2.Credential(certificate=b"x"))
    assert sorted(path.name for path in identity.folder.iterdir()) == ["key.pem", "lock"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    identity = in_folder(tmp_path / "a")
    identity.take(issued(identity))
    identity.close()
    (tmp_path / "a" / "about.json").write_text("{")
    with pytest.raises(ConfigError, match=r"a/about\.json is damaged: .*; delete it and join again$"):
        in_folder(tmp_path / "a")


def test_the_newest_head_of_the_audit_chain_is_kept(tmp_path: Path) -> None:
    identity = in_folder(tmp_path / "a")
    identity.witness(0, b"")  # a leader without one
    assert not (tmp_path / "a" / "witness.json").exists()
    identity.witness(7, b"\x07" * 32)
    identity.close()
    again = in_folder(tmp_path / "a")
    again.witness(6, b"\x06" * 32)  # what came first counts: somebody has turned it back
    kept = json.loads((tmp_path / "a" / "witness.json").read_text())
    assert kept == {"number": 7, "head": "7:" + "07" * 32}
    again.witness(8, b"\x08" * 32)
    assert json.loads((tmp_path / "a" / "witness.json").read_text())["head"] == "8:" + "08" * 32
