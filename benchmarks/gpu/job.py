"""`python -m benchmarks.gpu.job NAME`: one figure, measured in this process, its result left in a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.result import Figure, Result, SkippedError, Target
from benchmarks.spread import Spread


@dataclass(frozen=True)
class Job:
    """What every figure is told."""

    device: str
    quick: bool
    data: Path | None  # folder with CIFAR-10


def read_result(found: Mapping[str, Any]) -> Result:
    """The result again that a process has left as JSON."""
    figures = [Figure(f["name"], f["unit"], Spread(**f["spread"])) for f in found["figures"]]
    targets = [Target(**target) for target in (found["target"], *found["further"]) if target]
    return Result(
        entry=found["entry"],
        about=found["about"],
        target=targets[0] if targets else None,
        figures=tuple(figures),
        ratios=found["ratios"],
        series=found["series"],
        further=tuple(targets[1:]),
    )


def main() -> int:
    """Measure; an exception is this process's own end, and its traceback the log's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.job", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--outcome", type=Path, required=True)
    options = parser.parse_args()
    job = Job(options.device, options.quick, options.data)
    try:
        outcome: object = asdict(import_module(f"benchmarks.gpu.{options.name}").measure(job))
    except SkippedError as reason:
        outcome = str(reason)
    options.outcome.write_text(json.dumps(outcome), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
