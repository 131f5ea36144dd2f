from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.errors import CheckpointError
from utils.files import hold, replace_file, sync_folder, write_atomically


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What fsync was called for, in that order; it is called all the same."""
    paths: list[Path] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        paths.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    return paths


def test_a_file_is_on_disk_before_its_name_and_its_name_when_the_call_returns(
    tmp_path: Path, synced: list[Path]
) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")
    replace_file(path, b"new ", b"bytes", half_written=lambda: synced.append(path.resolve()))
    assert path.read_bytes() == b"new bytes"
    assert synced == [path, tmp_path / "state.partial", tmp_path]
    assert list(tmp_path.iterdir()) == [path]


def test_without_sync_nothing_waits_for_the_disk(tmp_path: Path, synced: list[Path]) -> None:
    replace_file(tmp_path / "state", b"new", sync=False)
    assert (tmp_path / "state").read_bytes() == b"new"
    assert synced == []


def test_a_failure_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")

    def fail() -> None:
        assert path.read_bytes() == b"old"
        raise OSError(28, "No space left on device")

    with pytest.raises(
        CheckpointError, match=r"^can't write .*state: No space left on device; free the disk"
    ):
        write_atomically(path, [b"new"], fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "gone")


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    path, modes = tmp_path / "key", []
    replace_file(
        path,
        b"secret",
        mode=0o600,
        half_written=lambda: modes.append((tmp_path / "key.partial").stat().st_mode & 0o777),
    )
    assert [*modes, path.stat().st_mode & 0o777] == [0o600, 0o600]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_secret_goes_into_no_file_that_somebody_has_laid_out(tmp_path: Path, kind: str) -> None:
    laid, theirs = tmp_path / "key.partial", tmp_path / "theirs"
    theirs.write_bytes(b"")
    if kind == "link":
        laid.symlink_to(theirs)
    else:
        laid.hardlink_to(theirs)
    theirs.chmod(0o644)
    replace_file(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert theirs.read_bytes() == b""
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_holding_a_lock_leaves_alone_what_is_in_it(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"kept")
    (tmp_path / "lock").symlink_to(theirs)
    lock = hold(tmp_path / "lock")
    assert lock is not None
    assert hold(tmp_path / "lock") is None
    lock.close()
    assert theirs.read_bytes() == b"kept"
