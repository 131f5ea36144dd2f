"""`python -m tests.chaos`: the undisturbed run, the same under faults, and the comparison."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from tests.chaos.inject import Injector
from tests.chaos.ledger import Ledger, Truth, ViolationError
from tests.chaos.options import Options, parse
from tests.chaos.plan import Fault, plan_faults
from tests.chaos.process import Entry
from tests.chaos.report import Outcome
from tests.chaos.run import TrainingRun

_STALL_S = 180.0  # without a commit


class Deaf:
    """The witness of the undisturbed run: there is nothing to compare it with yet."""

    def hear(self, target: int, process: str, entry: Entry) -> None:
        """Nothing is checked."""

    def struck(self, fault: Fault) -> None:
        """Nothing strikes."""


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """What a finished run says of each round."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def truth_of(metrics: list[dict[str, Any]]) -> dict[int, Truth]:
    """The part of a run's metrics that no fault may change."""
    return {record["round"]: Truth(record["loss"], record["examples"]) for record in metrics}


def sha256_of(run_dir: Path) -> str:
    """The digest of a finished run's weights."""
    digest: str = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))["model_sha256"]
    return digest


async def watch_progress(ledger: Ledger) -> None:
    """Raise ViolationError when no round is committed for too long."""
    while True:
        left_s = ledger.progress_at + _STALL_S - time.monotonic()
        if left_s <= 0:
            raise ViolationError(f"no commit for {_STALL_S:g} s; round {ledger.open_round} is open")
        await asyncio.sleep(left_s)


def check_end(run: TrainingRun, ledger: Ledger) -> None:
    """Raise ViolationError unless the finished run's own files say what was heard."""
    told = truth_of(read_metrics(run.run_dir))
    if told != ledger.truth:
        wrong = [number for number in ledger.truth if told.get(number) != ledger.truth[number]]
        raise ViolationError(f"metrics.jsonl differs from the undisturbed run's in rounds {wrong}")


def disturb(options: Options, undisturbed: TrainingRun, undisturbed_s: float, console: Console) -> Outcome:
    """Train under faults; returns how it ended."""
    metrics = read_metrics(undisturbed.run_dir)
    ledger = Ledger(truth_of(metrics), options.learners, on_struck=lambda injury: console.print(injury.text))
    plan = plan_faults(options.seed, options.rounds, options.learners, options.edges, options.below)
    run = TrainingRun(options, "disturbed", ledger, plan)
    injector = Injector(
        run,
        ledger,
        options,
        round_s=median(record["seconds"] for record in metrics),
        update_bytes=(undisturbed.run_dir / "model.safetensors").stat().st_size,
    )
    digest, violation = "", None
    try:
        asyncio.run(run.run(injector.inject(plan), watch_progress(ledger)))
        check_end(run, ledger)
        digest = sha256_of(run.run_dir)
    except ViolationError as error:
        violation = str(error)
    return Outcome(
        options=options,
        plan=plan,
        injuries=tuple(ledger.injuries),
        undisturbed_s=undisturbed_s,
        disturbed_s=time.monotonic() - ledger.began,
        leader_starts=ledger.starts,
        sha256=(sha256_of(undisturbed.run_dir), digest),
        violation=violation,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run both, print the table and return the exit code: 1 when anything was lost."""
    options = parse(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no process is left behind
    console = Console(width=160)
    console.print(f"undisturbed run of {options.rounds} rounds ...")
    began = time.monotonic()
    undisturbed = TrainingRun(options, "undisturbed", Deaf())
    asyncio.run(undisturbed.run())
    undisturbed_s = time.monotonic() - began
    console.print(f"undisturbed run: {undisturbed_s:.0f} s; now the same under faults ...")
    outcome = disturb(options, undisturbed, undisturbed_s, console)
    console.print(outcome.table())
    console.print(
        f"undisturbed {outcome.undisturbed_s:.0f} s, disturbed {outcome.disturbed_s:.0f} s, "
        f"leader started {outcome.leader_starts} times"
    )
    if options.json:
        options.json.write_text(outcome.json(), encoding="utf-8")
    console.print(
        f"bits identical: {'yes' if outcome.identical else 'no'} ({outcome.sha256[1] or 'no model'})"
    )
    if outcome.violation:
        console.print(f"VIOLATION: {outcome.violation}", markup=False)
    if outcome.violation or not outcome.identical:
        console.print(f"logs are in {options.folder}; replay with: {options.replay}")
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
