"""The whole run in one JSON object, summary.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from leader.evaluation.best_model import Best
from leader.events import RunFinished, RunStarted
from leader.storage.metrics_log import Record
from utils.files import replace_file


def summarize(
    records: Sequence[Record],
    started: RunStarted,
    finished: RunFinished,
    model_sha256: str,
    refused: Mapping[str, int],
    best: Best | None = None,
    audit_head: str = "",
    privacy: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """What the run came to; totals count all rounds, those before a resume too.

    `test_accuracy` (or what else the task measures, as test_NAME) is that of the newest evaluated
    model, from round `evaluated_round`; both are None if none was evaluated. `federated` is what
    learners scored last, of the model of `federated_round`. `best` is what best.safetensors holds.
    `refused` counts refused calls by kind, since the process began. `learners` is the most in one round.
    `audit_head`, of a run with trust, is the newest line of its audit as N:HASH. `privacy`, of a run with dp.mode,
    is what was promised and what is spent.
    """
    return {
        "run": started.run_id,
        "model": started.model,
        "parameters": started.parameters,
        "dataset": started.dataset,
        "exchange": started.exchange,
        "learners": max((record["learners"] for record in records), default=0),
        "rounds": finished.round,
        **_evaluated(records),
        "best": asdict(best) if best else None,
        **_at_learners(records),
        "loss": records[-1]["loss"] if records else None,
        **_totals(records),
        "refused": dict(refused),
        "stopped": finished.reason or None,
        "stopped_early": finished.stopped_early or None,
        "model_sha256": model_sha256,
        **({"audit_head": audit_head} if audit_head else {}),
        **({"privacy": dict(privacy)} if privacy else {}),
    }


def _of_test_split(name: str) -> bool:
    return name.startswith("test_")


def write_summary(path: Path, summary: dict[str, object]) -> None:
    """Write `summary` to `path`, whole or not at all."""
    replace_file(path, (json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def _evaluated(records: Sequence[Record]) -> dict[str, object]:
    newest = next((record for record in reversed(records) if any(map(_of_test_split, record))), {})
    scores = {name: value for name, value in newest.items() if _of_test_split(name)}
    return {"test_accuracy": None, **scores, "evaluated_round": newest.get("round")}


def _at_learners(records: Sequence[Record]) -> dict[str, object]:
    newest = next((record for record in reversed(records) if "federated" in record), {})
    return {"federated": newest.get("federated"), "federated_round": newest.get("round")}


def _totals(records: Sequence[Record]) -> dict[str, object]:
    """Of all rounds, in seconds and bytes."""
    sums = {name: sum(record[name] for record in records) for name in ("seconds", "bytes_up", "bytes_down")}
    return {**sums, "seconds": round(sums["seconds"], 3)}
