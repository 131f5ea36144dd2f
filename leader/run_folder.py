"""The folder that a run leaves behind: its files, and the metrics of each round."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from leader.events import Evaluated, EvaluationSkipped, Event, FederatedEvaluated, RoundCommitted
from leader.metric_names import on_test_split
from utils.errors import ConfigError

Record = dict[str, Any]  # one line of metrics.jsonl; a value that is not finite is None
TEST, FEDERATED = "test", "federated"  # the evaluations that a line may wait for


def replace_file(path: Path, content: bytes, sync: bool = True) -> None:
    """Write `content` so that `path` always holds all of the old or all of the new bytes.

    Without `sync` that is true when the process is killed, but not when the power fails.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def default_run_dir(model: str, now: datetime, root: Path = Path("runs")) -> Path:
    """A folder that does not exist yet, such as runs/20261122-153000-resnet9-w16 (then -2, -3, ...)."""
    name = f"{now:%Y%m%d-%H%M%S}-{re.sub(r'[^A-Za-z0-9._-]+', '-', model)}"
    path, number = root / name, 1
    while path.exists():
        number += 1
        path = root / f"{name}-{number}"
    return path


@dataclass(frozen=True)
class RunFolder:
    """Where each file of one run lies."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: str) -> RunFolder:
        """Make the folder of a new run with `config` as its config.yaml.

        Raises:
            ConfigError: it holds a run already, or can't be written.
        """
        folder = cls(path)
        if folder.holds_run:
            raise ConfigError(
                f"run_dir {path} already holds a run; go on with it by --resume {path}, or choose another"
            )
        try:
            folder.checkpoints.mkdir(parents=True, exist_ok=True)
            replace_file(folder.config, config.encode())
        except OSError as error:
            raise ConfigError(
                f"run_dir {path} can't be written: {error.strerror}; choose another folder"
            ) from error
        return folder

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """The folder of a run to be resumed.

        Raises:
            ConfigError: there is no run in it.
        """
        folder = cls(path)
        if not folder.config.is_file():
            raise ConfigError(
                f"--resume {path}: no run there (no config.yaml); give the folder of an earlier run"
            )
        return folder

    def discard(self) -> None:
        """Remove what `create` and MetricsLog made, and the folders unless there is more in them."""
        self.config.unlink(missing_ok=True)
        self.metrics.unlink(missing_ok=True)
        with suppress(OSError):
            self.checkpoints.rmdir()
            self.path.rmdir()

    @property
    def holds_run(self) -> bool:
        """Whether any file of a run is there."""
        files = (self.config, self.metrics, self.summary, self.model, self.best)
        return any(file.exists() for file in files) or any(self.checkpoints.glob("*"))

    @property
    def config(self) -> Path:
        """The run's whole configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object a committed round."""
        return self.path / "metrics.jsonl"

    @property
    def pending_metrics(self) -> Path:
        """Committed rounds that still wait for their evaluation; absent when none does."""
        return self.path / ".metrics-pending.jsonl"

    @property
    def summary(self) -> Path:
        """The run in one JSON object."""
        return self.path / "summary.json"

    @property
    def curves(self) -> Path:
        """The metrics as a picture."""
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        """Folder with what a restart needs."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The best model so far by `evaluation.metric`; absent while nothing was evaluated."""
        return self.path / "best.safetensors"


class MetricsLog:
    """Event subscriber that writes metrics.jsonl, a line a committed round, in round order.

    A line waits for its round's evaluations: those that `awaited(round)` names, and the learners'
    scores at most until the next round is committed. Waiting lines are kept in a second small file,
    so that killing the leader loses none.
    On resume, rounds after `resumed_round` are dropped: they will be trained again.
    """

    def __init__(
        self,
        folder: RunFolder,
        resumed_round: int = 0,
        *,
        awaited: Callable[[int], Iterable[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._awaited = awaited
        self._clock = clock
        self._records = _read_records(folder, resumed_round)
        self._by_round = {record["round"]: record for record in self._records}
        self._written = len(self._records)  # how many of the records, from the first, are in metrics.jsonl
        self._waiting: dict[int, set[str]] = {}  # evaluations that rounds wait for
        self._early: dict[int, Record] = {}  # evaluations that came before their round's commit
        self._rewrite()
        folder.pending_metrics.unlink(missing_ok=True)

    @property
    def records(self) -> list[Record]:
        """All committed rounds so far in round order, those that wait for an evaluation included."""
        return [dict(record) for record in self._records]

    def on_event(self, event: Event) -> None:
        """Take in a commit or what became of an evaluation; a round seen before is ignored."""
        match event:
            case RoundCommitted() if event.round not in self._by_round:
                self._settle(event.round - 1, FEDERATED)
                self._add(event)
            case Evaluated():
                metrics = on_test_split(event.metrics)
                self._evaluated(event.round, TEST, {name: _finite(metrics[name]) for name in metrics})
            case FederatedEvaluated():
                self._evaluated(event.round, FEDERATED, {FEDERATED: event.scores})
            case EvaluationSkipped():
                self._settle(event.round, TEST)
            case _:
                return
        self._write_settled()

    def close(self) -> None:
        """Write the lines whose evaluation never came, without it."""
        self._waiting.clear()
        self._write_settled()

    def _add(self, event: RoundCommitted) -> None:
        record = _record(event, self._clock())
        waiting = set(self._awaited(event.round))
        if event.round in self._early:
            record |= self._early.pop(event.round)
            waiting.discard(TEST)
        self._waiting[event.round] = waiting
        self._records.append(record)
        self._by_round[event.round] = record

    def _settle(self, round_: int, kind: str) -> None:
        """The line of `round_` need not wait for this evaluation any longer."""
        self._waiting.get(round_, set()).discard(kind)

    def _evaluated(self, round_: int, kind: str, evaluation: Mapping[str, object]) -> None:
        record = self._by_round.get(round_)
        if record is None:
            if kind == TEST:  # the learners' scores come after the commit, or are of the initial weights
                self._early[round_] = dict(evaluation)
            return
        record.update(evaluation)
        self._settle(round_, kind)
        if self._written and round_ <= self._records[self._written - 1]["round"]:
            self._rewrite()

    def _write_settled(self) -> None:
        settled = self._written
        while settled < len(self._records) and not self._waiting.get(self._records[settled]["round"]):
            self._waiting.pop(self._records[settled]["round"], None)
            settled += 1
        if settled > self._written:
            with self._folder.metrics.open("ab") as file:
                file.write(_lines(self._records[self._written : settled]))
            self._written = settled
        if settled < len(self._records):
            replace_file(self._folder.pending_metrics, _lines(self._records[settled:]), sync=False)
        else:
            self._folder.pending_metrics.unlink(missing_ok=True)

    def _rewrite(self) -> None:
        replace_file(self._folder.metrics, _lines(self._records[: self._written]))


def _record(event: RoundCommitted, now: float) -> Record:
    return {
        "round": event.round,
        "loss": _finite(event.loss),
        "seconds": round(event.seconds, 6),
        "bytes_up": event.bytes_up,
        "bytes_down": event.bytes_down,
        "learners": event.learners,
        "examples": event.examples,
        "lr": event.lr,
        "time": round(now, 3),
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _lines(records: list[Record]) -> bytes:
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()


def _read_records(folder: RunFolder, resumed_round: int) -> list[Record]:
    """The records of rounds up to `resumed_round`; a line cut off by a crash is passed over."""
    by_round: dict[int, Record] = {}
    for path in (folder.pending_metrics, folder.metrics):
        if path.exists():
            by_round |= {record["round"]: record for record in _whole_records(path)}
    return [by_round[number] for number in sorted(by_round) if number <= resumed_round]


def _whole_records(path: Path) -> list[Record]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["round"] = int(record["round"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise ConfigError(
                f"{path} line {number} is not a record of a round; mend or remove that line"
            ) from error
        records.append(record)
    return records
