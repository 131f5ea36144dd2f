"""The audit: lines that outlive their writer, whoever writes beside it, and hold no secret."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import queue
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from leader.trust.audit import chain
from leader.trust.audit.chain import FILE, KEY, PUBLIC_KEY, Audit, Head
from leader.trust.audit.check import verify
from utils.errors import CheckpointError, ConfigError

ROOT = Path(__file__).parents[4]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text(encoding="ascii").splitlines()]


def test_a_line_says_who_did_what_from_where_and_is_chained_to_the_one_before(tmp_path: Path) -> None:
    audit = Audit(tmp_path, clock=lambda: 12.34567)
    audit.record("enrolled", who="clinic-a", role="learner", ip="10.0.0.7", token="3f9a1c22d0")
    audit.record("committed", round=3, learners=["clinic-a", "clinic-b"])
    first, second = records(tmp_path)
    lines = (tmp_path / FILE).read_bytes().splitlines()
    assert first == {
        "n": 1, "t": 12.346, "what": "enrolled", "who": "clinic-a", "role": "learner", "ip": "10.0.0.7",
        "token": "3f9a1c22d0", "prev": "", "sig": first["sig"],
    }  # fmt: skip
    assert second["n"] == 2
    assert second["prev"] == hashlib.sha256(lines[0]).hexdigest()
    assert second["learners"] == ["clinic-a", "clinic-b"]
    assert audit.head == Head(2, hashlib.sha256(lines[1]).digest())


def test_only_the_owner_can_read_key_and_lines(tmp_path: Path) -> None:
    folder = tmp_path / "trust"
    Audit(folder).record("start")
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert rights["trust"] == 0o700
    assert rights[KEY] == rights[FILE] == 0o600
    assert set(rights) == {"trust", KEY, FILE, PUBLIC_KEY}


def test_the_next_process_goes_on_from_the_last_line(tmp_path: Path) -> None:
    for number in range(3):
        audit = Audit(tmp_path)
        assert audit.head.number == number
        audit.record("start")
        audit.close()
    assert verify(tmp_path).head == audit.head
    assert audit.head.number == 3


def test_two_open_audits_take_turns_and_lose_nothing(tmp_path: Path) -> None:
    one, other = Audit(tmp_path), Audit(tmp_path)
    for number in range(5):
        one.record("left", who="one", reason=str(number))
        other.record("left", who="other", reason=str(number))
    assert [record["who"] for record in records(tmp_path)] == ["one", "other"] * 5
    assert not verify(tmp_path).why


def _write_many(folder: Path, who: str, lines: int) -> None:
    audit = Audit(folder)

    def write() -> None:
        for _ in range(lines):
            audit.record("left", who=who)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()


def test_processes_and_threads_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    names = ("leader", "cli", "other")
    writers = [context.Process(target=_write_many, args=(tmp_path, name, 100)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    written = [record["who"] for record in records(tmp_path)]
    assert {name: written.count(name) for name in names} == dict.fromkeys(names, 200)
    assert not verify(tmp_path).why
    assert verify(tmp_path).head.number == 600


_ENDLESS = """
import sys
from pathlib import Path
from leader.trust.audit.chain import Audit
audit = Audit(Path(sys.argv[1]))
while True:
    audit.record("left", who="doomed")
    print(audit.head, flush=True)
"""


def test_what_was_recorded_outlives_kill_9_of_its_writer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ENDLESS, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        heads = [writer.stdout.readline() for _ in range(50)]
        os.kill(writer.pid, signal.SIGKILL)
        heads += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    audit = Audit(tmp_path)
    audit.record("start")
    kept = [Head.parse(head) for head in heads]
    assert len(kept) >= 50
    assert not verify(tmp_path, kept).why
    assert audit.head.number in (kept[-1].number + 1, kept[-1].number + 2)  # one line may not have been told


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_last_line_gives_way_to_a_note_with_its_hash(tmp_path: Path, cut: int) -> None:
    audit = Audit(tmp_path)
    for who in ("a", "b", "c"):
        audit.record("left", who=who)
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    torn = whole[:-cut].rpartition(b"\n")[2]
    assert verify(tmp_path).bad == 3
    assert "torn" in verify(tmp_path).why
    Audit(tmp_path).record("start")
    assert not verify(tmp_path).why
    assert [record["what"] for record in records(tmp_path)] == ["left", "left", "repaired", "start"]
    note = records(tmp_path)[2]
    assert (note["bytes"], note["sha256"]) == (len(torn), hashlib.sha256(torn).hexdigest())


def test_a_first_line_that_is_torn_is_repaired_too(tmp_path: Path) -> None:
    Audit(tmp_path).record("start")
    (tmp_path / FILE).write_bytes(b'{"n":1,"t":')
    Audit(tmp_path).record("start")
    assert [record["what"] for record in records(tmp_path)] == ["repaired", "start"]
    assert not verify(tmp_path).why


def test_a_spoilt_last_line_stops_no_writer_and_is_told_by_the_check(tmp_path: Path) -> None:
    for _ in range(3):
        Audit(tmp_path).record("start")
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"nonsense\n"]))
    Audit(tmp_path).record("start")
    assert json.loads(path.read_bytes().splitlines()[3])["n"] == 4
    assert verify(tmp_path).bad == 3


def test_a_full_disk_is_told_and_what_was_cut_short_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(tmp_path)
    audit.record("start")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, text: write(file, text[:30]))
        with pytest.raises(CheckpointError, match="cut short"):
            audit.record("lost", who="half of it")
    audit.record("stop")
    assert [record["what"] for record in records(tmp_path)] == ["start", "repaired", "stop"]
    assert not verify(tmp_path).why


def test_text_from_outside_can_neither_make_a_line_nor_a_long_one(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    hostile = '\n{"n":2,"what":"enrolled"}\u2028\x00\ud800' + "é" * 5000
    audit.record("refused", who=hostile, reason=hostile, learners=[hostile] * 5000, loss=float("nan"))
    (record,) = records(tmp_path)
    assert record["reason"] == record["who"] == hostile[:300]
    assert record["learners"] == [hostile[:300]] * 1000
    assert record["loss"] is None
    audit.record("stop")
    assert verify(tmp_path).head.number == 2


SECRETS = (
    "flk1_AQPt0KD6Vp_CsePz8-xk",
    "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.MEUCIQDx-_4",
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----",
)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("before", ["", "x" * 290, "-"])
def test_a_secret_that_a_caller_says_is_in_no_line(tmp_path: Path, secret: str, before: str) -> None:
    audit = Audit(tmp_path)
    audit.record("refused", who=before + secret, reason=f"no {before}{secret} here", names=[before + secret])
    text = (tmp_path / FILE).read_text(encoding="ascii")
    for part in (secret[-12:], secret[5:17].strip(), secret[:14]):
        assert json.dumps(part)[1:-1] not in text
    assert "[secr" in text


def test_the_key_that_signs_is_in_no_line(tmp_path: Path) -> None:
    Audit(tmp_path).record("start")
    key, text = (tmp_path / KEY).read_bytes(), (tmp_path / FILE).read_bytes()
    assert key not in text
    assert key.hex().encode() not in text


def test_without_its_key_an_audit_that_was_begun_is_not_gone_on_with(tmp_path: Path) -> None:
    Audit(tmp_path).record("start")
    (tmp_path / KEY).unlink()
    with pytest.raises(ConfigError, match=r"audit\.key.*put back"):
        Audit(tmp_path)


def test_a_key_that_others_can_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    Audit(tmp_path).record("start")
    (tmp_path / KEY).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Audit(tmp_path)
    (tmp_path / KEY).chmod(0o600)
    (tmp_path / KEY).write_bytes(b"short")
    with pytest.raises(ConfigError, match="damaged"):
        Audit(tmp_path)


def note_syncs(audit: Path, monkeypatch: pytest.MonkeyPatch) -> queue.Queue[tuple[int, int]]:
    """Of each sync of this file from now on: the thread, and the size that it had."""
    noted: queue.Queue[tuple[int, int]] = queue.Queue()

    def sync(file: int) -> None:
        found = os.fstat(file)
        if found.st_ino == audit.stat().st_ino:
            noted.put((threading.get_ident(), found.st_size))

    monkeypatch.setattr(os, "fsync", sync)
    return noted


def test_each_line_is_synced_in_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path)
    noted = note_syncs(tmp_path / FILE, monkeypatch)
    for what in ("left", "enrolled"):
        audit.record(what)
        thread, size = noted.get(timeout=10)
        assert thread != threading.get_ident()
        assert size == (tmp_path / FILE).stat().st_size


def test_lines_of_one_moment_share_a_sync_and_closing_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(tmp_path)
    monkeypatch.setattr(chain, "_GATHER_S", 3600.0)
    noted = note_syncs(tmp_path / FILE, monkeypatch)
    for _ in range(100):
        audit.record("left")
    audit.close()
    assert [size for _, size in noted.queue] == [(tmp_path / FILE).stat().st_size]
