from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from leader.trust.identities.revocations import MOST
from leader.trust.identities.state import IdentityEntry, Records, Revocation, TrustState
from utils.errors import CheckpointError, ConfigError, ForbiddenError


def entry(**changes: object) -> IdentityEntry:
    """Somebody admitted with one certificate."""
    return IdentityEntry(role="learner", key_sha256="ab", serials=["1f"], until=9.0).model_copy(
        update=changes
    )


def test_an_edit_is_read_by_whoever_has_the_folder_open(tmp_path: Path) -> None:
    writer, reader = TrustState(tmp_path), TrustState(tmp_path)
    assert reader.read() == Records()
    with writer.edit() as records:
        records.identities["ann"] = entry()
    first = reader.read()
    assert first.identities == {"ann": entry()}
    assert reader.read() is first
    with writer.edit() as records:
        records.identities["ann"].until = 10.0
    assert reader.read().identities["ann"].until == 10.0
    assert first.identities["ann"].until == 9.0


class Behind(TrustState):
    """Each time that a thread has read the file, another one puts down what it has read before."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, self.__dict__.get(name, value))


def test_whoever_reads_after_an_edit_sees_it_though_another_thread_is_behind(tmp_path: Path) -> None:
    state = Behind(tmp_path)
    with state.edit() as records:
        records.identities["ann"] = entry()
    assert list(state.read().identities) == ["ann"]


def test_an_edit_that_fails_changes_nothing(tmp_path: Path) -> None:
    state = TrustState(tmp_path)
    with state.edit() as records:
        records.identities["ann"] = entry()

    def refused() -> None:
        with state.edit() as records:
            del records.identities["ann"]
            records.check_shown("ann", "learner", 0x1F)

    with pytest.raises(ForbiddenError):
        refused()
    assert list(state.read().identities) == ["ann"]


def test_edits_at_once_are_all_kept(tmp_path: Path) -> None:
    def admit(number: int) -> None:
        with TrustState(tmp_path).edit() as records:
            records.identities[f"n{number}"] = entry()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(admit, range(40)))
    assert len(TrustState(tmp_path).read().identities) == 40


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    with TrustState(tmp_path).edit():
        pass
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("text", ["{", '{"identities": {"ann": {}}}', '{"more": 1}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ConfigError, match=r"state\.json is damaged; put back a copy"):
        TrustState(tmp_path).read()


def test_a_folder_that_can_not_be_looked_into_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the watch over revocations ended with it, and nobody noticed."""

    def stale(path: Path) -> None:
        raise OSError(116, os.strerror(116))

    state = TrustState(tmp_path)
    monkeypatch.setattr(Path, "stat", stale)
    with pytest.raises(ConfigError, match=r"state\.json can't be read: Stale file handle"):
        state.read()


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    state = TrustState(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(CheckpointError, match=r"state\.json: No space left on device"),
        state.edit() as records,
    ):
        records.identities["ann"] = entry()
    assert state.read() == Records()


def test_a_certificate_counts_while_its_name_role_and_serial_are_on_record() -> None:
    records = Records(identities={"ann": entry()})
    records.check_shown("ann", "learner", 0x1F)
    for name, role, serial in [
        ("ann", "admin", 0x1F),
        ("ann", "learner", 0x1E),
        ("bob", "learner", 0x1F),
    ]:
        with pytest.raises(ForbiddenError, match="replaced or forgotten; join with a new token"):
            records.check_shown(name, role, serial)
    records.revoked["ann"] = Revocation(when=1.0, why="left", by="uid 0")
    with pytest.raises(ForbiddenError, match=r"^ann was revoked; ask the leader's operator$"):
        records.check_shown("ann", "learner", 0x1F)


def test_what_edges_are_told_is_bounded_to_the_newest_and_to_what_has_not_ended() -> None:
    records = Records()
    records.withdraw(IdentityEntry(role="learner", key_sha256="", serials=["a", "b"], until=9.0), now=1.0)
    records.withdraw(IdentityEntry(role="learner", key_sha256="", serials=["c"], until=20.0), now=10.0)
    for number in range(MOST + 1):
        records.revoked[f"n{number}"] = Revocation(when=float(number != 5), why="", by="")
    told = records.revocations
    assert told.serials == {0xC}
    assert len(told.names) == MOST
    assert "n5" not in told.names
