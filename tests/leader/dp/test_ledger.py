from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from leader.dp.accountant import Accountant
from leader.dp.ledger import Head, Ledger, Release
from tests.vectors import vectors
from utils.errors import CheckpointError, PrivacyError

PARTS = ("own-a", "own-b", "own-c")
SHM = Path("/dev/shm")  # where a sync costs nothing
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.leader.dp.test_ledger import opened, release
from utils.errors import CheckpointError
ledger = opened(Path(sys.argv[1]))
ledger.charge(release(1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = Path(sys.argv[1]).stat().st_size + 30
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    ledger.charge(release(2))
except CheckpointError as error:
    print(error)
"""


def opened(path: Path, known: Head | None = None, **budget: Any) -> Ledger:
    given = {"epsilon": 50.0, "delta": 1e-5, **budget}
    return Ledger(path, Accountant(**given), "run-1", "none", known)


def release(round_: int, of: str = "aa", parts: tuple[str, ...] = PARTS, z: float = 2.0) -> Release:
    return Release(round_, of, "central", z, 1.0, parts)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_reads_and_adds_up_the_entries_of_the_reference(tmp_path: Path) -> None:
    reference = vectors("ledger")
    for count in range(1, len(reference["lines"]) + 1):
        path = tmp_path / f"{count}.jsonl"
        path.write_text("".join(f"{line}\n" for line in reference["lines"][:count]))
        ledger = Ledger(path, Accountant(8.0, 1e-5), "7f3a", "none")
        assert ledger.accountant.spent_max == pytest.approx(
            reference["epsilon_after"][count - 1], rel=1e-9, abs=0
        )
    assert ledger.head == Head(len(reference["lines"]), reference["head"])


def test_a_release_is_an_entry_and_its_parts_are_one_when_they_are_new(tmp_path: Path) -> None:
    path = tmp_path / "privacy.jsonl"
    ledger = opened(path)
    ledger.charge(release(1))
    ledger.charge(release(2, parts=PARTS[::-1]))
    ledger.charge(release(3, parts=PARTS[:1]))
    kinds = [entry["kind"] for entry in lines(path)]
    assert kinds == ["open", "parts", "release", "release", "parts", "release"]
    assert lines(path)[0] | {"prev": ""} == {
        "kind": "open",
        "run": "run-1",
        "epsilon": 50.0,
        "delta": 1e-5,
        "adjacency": "zero-out",
        "sampling": "none",
        "prev": "",
    }
    assert lines(path)[2]["round"] == 1
    assert lines(path)[2]["set"] == lines(path)[3]["set"] != lines(path)[5]["set"]
    assert lines(path)[4]["parts"] == ["own-a"]
    assert ledger.accountant.spent("own-a") > ledger.accountant.spent("own-b") > 0


def test_the_same_release_is_charged_once_and_another_sum_of_the_round_anew(tmp_path: Path) -> None:
    path = tmp_path / "privacy.jsonl"
    for _ in range(2):
        ledger = opened(path)
        ledger.charge(release(1))
        ledger.charge(release(1))
    assert Counter(entry["kind"] for entry in lines(path))["release"] == 1
    once = ledger.accountant.spent_max
    ledger.charge(release(1, of="bb"))
    assert ledger.accountant.spent_max > once


def test_what_goes_beyond_the_budget_is_refused_and_leaves_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "privacy.jsonl"
    ledger = opened(path, epsilon=5.0)
    ledger.charge(release(1, z=1.0))
    before = path.read_bytes()
    with pytest.raises(
        PrivacyError, match=r"^privacy budget: round 2 would bring own-a to epsilon 6\.\d\d of 5$"
    ):
        ledger.charge(release(2, z=1.0))
    assert path.read_bytes() == before
    ledger.charge(release(2, parts=("own-z",), z=1.0))  # who has paid nothing can
    ledger.charge(release(1, z=1.0))  # and what is paid is


@pytest.mark.parametrize("cut", [1, 40, 150])
def test_a_line_that_a_crash_tore_is_cut_and_charged_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "privacy.jsonl"
    ledger = opened(path)
    ledger.charge(release(1))
    whole = path.read_bytes()
    ledger.charge(release(2))
    undisturbed = path.read_bytes()
    path.write_bytes(undisturbed[: len(whole) + cut])
    again = opened(path)
    assert path.read_bytes() == whole
    again.charge(release(2))
    assert path.read_bytes() == undisturbed


def test_missing_changed_and_foreign_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "privacy.jsonl"
    ledger = opened(path)
    for round_ in (1, 2, 3):
        ledger.charge(release(round_))
    known, sound = ledger.head, path.read_bytes().splitlines(keepends=True)
    assert known.entries == 5

    def refusal(content: list[bytes], **budget: Any) -> str:
        path.write_bytes(b"".join(content))
        with pytest.raises(PrivacyError) as caught:
            opened(path, known, **budget)
        return str(caught.value)

    next_ = "restore the file or start a new run"
    assert refusal(sound[:3]) == f"{path} has 3 entries, the checkpoint knows of 5; {next_}"
    assert refusal([]) == f"{path} has 0 entries, the checkpoint knows of 5; {next_}"
    assert refusal(sound[:2] + sound[3:]) == f"{path}: entry 3 does not follow the one before; {next_}"
    changed = [*sound[:3], sound[3].replace(b'"z":2.0', b'"z":9.0'), sound[4]]
    assert refusal(changed) == f"{path}: entry 5 does not follow the one before; {next_}"
    last = [*sound[:4], sound[4].replace(b'"z":2.0', b'"z":9.0')]
    assert refusal(last) == f"{path}: entry 5 is not what the checkpoint knows; {next_}"
    assert "entry 4 is damaged" in refusal([*sound[:3], b"{}\n", sound[4]])
    assert "entry 1 is damaged" in refusal([b"\xff\n", *sound[1:]])
    for z in (b"0.0", b"-2.0", b"1e-300", b"NaN", b'"2"'):
        wrong = [*sound[:2], sound[2].replace(b'"z":2.0', b'"z":' + z)]
        assert "entry 3 is damaged" in refusal(wrong)
    assert "entry 1 is damaged" in refusal([b"[" * 100_000 + b"\n"])
    assert "is of another run or budget" in refusal(sound, epsilon=51.0)
    path.write_bytes(b"".join(sound))
    assert opened(path, known).head == known


def test_entries_that_the_checkpoint_does_not_know_of_yet_count(tmp_path: Path) -> None:
    path = tmp_path / "privacy.jsonl"
    ledger = opened(path)
    ledger.charge(release(1))
    known = ledger.head
    ledger.charge(release(2))
    assert opened(path, known).accountant.spent_max == ledger.accountant.spent_max


def test_a_full_disk_charges_nothing(tmp_path: Path) -> None:
    path = tmp_path / "privacy.jsonl"
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], check=True, capture_output=True, text=True
    )
    assert run.stdout == (
        f"can't write {path}: File too large; free the disk or fix the folder, then resume the run\n"
    )
    assert [entry["kind"] for entry in lines(path)] == ["open", "parts", "release"]
    assert path.read_bytes().endswith(b"\n")


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file or directory"):
        opened(tmp_path / "missing" / "privacy.jsonl")


class Run:
    """A leader that charges, releases and commits rounds, and may crash after each of these or amid a write."""

    def __init__(self, random: Random, path: Path) -> None:
        self.random = random
        self.path = path
        self.released: set[tuple[int, str]] = set()
        self.charged: Counter[tuple[int, str]] = Counter()
        self.committed, self.known = 0, Head()

    def play(self, rounds: int) -> None:
        """All rounds, however often it crashes."""
        while self.committed < rounds:
            self._live(rounds)

    def _live(self, rounds: int) -> None:
        """One process, from its start to its crash or its last commit."""
        ledger = opened(self.path, self.known, epsilon=1e4)
        self.known = ledger.head  # the checkpoint that is written at the start
        while self.committed < rounds:
            round_ = self.committed + 1
            of = self.random.choice(["same", "same", "other"])  # another sum: other updates were in time
            if self._crashes():
                return
            before = self.path.stat().st_size
            ledger.charge(release(round_, of))
            if self._crashes():  # amid the write: any part of it may be there, and nothing was released
                written = self.path.stat().st_size - before
                with self.path.open("r+b") as file:
                    file.truncate(before + self.random.randint(0, written))
                return
            if self._crashes():
                return
            self.released.add((round_, of))
            if self._crashes():
                return
            self.committed, self.known = round_, ledger.head

    def _crashes(self) -> bool:
        return self.random.random() < 0.12


def test_in_ten_thousand_runs_with_crashes_nothing_is_released_uncharged_and_nothing_charged_twice() -> None:
    crashes = 0
    with tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder:
        for seed in range(10_000):
            path = Path(folder, "privacy.jsonl")
            path.unlink(missing_ok=True)
            run = Run(Random(seed), path)
            run.play(rounds=3)
            entries = [entry for entry in lines(path) if entry["kind"] == "release"]
            charged = Counter((entry["round"], entry["of"]) for entry in entries)
            assert run.released <= charged.keys(), seed
            assert set(charged.values()) == {1}, seed
            accountant = opened(path, run.known, epsilon=1e4).accountant
            expected = Accountant(1e4, 1e-5).spent_after("x", 2.0 / len(entries) ** 0.5)
            assert math.isclose(accountant.spent_max, expected, rel_tol=1e-12)
            crashes += len(entries) - 3
    assert crashes > 1000  # rounds were charged again with other sums
