"""The whole run in one JSON object, summary.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from leader.events import RunFinished, RunStarted
from leader.run_folder import Record, replace_file


def summarize(
    records: Sequence[Record],
    started: RunStarted,
    finished: RunFinished,
    model_sha256: str,
    refused: Mapping[str, int],
) -> dict[str, object]:
    """What the run came to; totals count all rounds, those before a resume too.

    `test_accuracy` is that of the newest evaluated model, from round `evaluated_round`; both are
    None if none was evaluated. `refused` counts refused calls by kind, since the process began.
    `seconds` is training time; `learners` the most in one round.
    """
    evaluated = [record for record in records if record.get("test_accuracy") is not None]
    newest = evaluated[-1] if evaluated else {}
    return {
        "run": started.run_id,
        "model": started.model,
        "parameters": started.parameters,
        "dataset": started.dataset,
        "exchange": started.exchange,
        "learners": max((record["learners"] for record in records), default=0),
        "rounds": finished.round,
        "test_accuracy": newest.get("test_accuracy"),
        "evaluated_round": newest.get("round"),
        "best_test_accuracy": max((record["test_accuracy"] for record in evaluated), default=None),
        "loss": records[-1]["loss"] if records else None,
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "bytes_up": sum(record["bytes_up"] for record in records),
        "bytes_down": sum(record["bytes_down"] for record in records),
        "refused": dict(refused),
        "stopped": finished.reason or None,
        "model_sha256": model_sha256,
    }


def write_summary(path: Path, summary: dict[str, object]) -> None:
    """Write `summary` to `path`, whole or not at all."""
    replace_file(path, (json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())
