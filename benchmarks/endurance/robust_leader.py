"""`python -m benchmarks.endurance.robust_leader RULE MODEL UPDATES BYTES`: one robust aggregate, measured.

Updates are made one at a time, as uploads end one at a time. Prints the memory that the aggregate
took at its peak and the seconds of its two phases, as one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import nn

from leader.aggregation.base import Contribution
from leader.aggregation.robust import open_robust
from leader.config import RunConfig
from model.layout import Layout
from model.registry import build_model
from utils.wire.payload import Payload, parse_header
from utils.wire.payload import encode_header as encode

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Measured:
    """What one aggregate took."""

    peak_bytes: int  # largest resident set while it worked, less that of before
    combining_s: float


class Updates:
    """Random updates of one model, all in the same memory."""

    def __init__(self, layout: Layout) -> None:
        header = encode((entry.name, "F32", entry.shape) for entry in layout.entries)
        self._manifest = parse_header(header)
        self._values = np.empty(layout.total, np.float32)
        self._random = np.random.Generator(np.random.PCG64(0))

    def next(self, number: int) -> Contribution:
        """The next update; the one before is gone."""
        self._random.standard_normal(out=self._values, dtype=np.float32)
        payload = Payload(self._manifest, self._values.view(np.uint8), number)
        return Contribution(f"part-{number:05d}", 1, payload, 1.0)


def measure(config: RunConfig, module: nn.Module, updates: int) -> Measured:
    """Spool and combine so many updates."""
    layout = Layout.of(module)
    source = Updates(layout)
    source.next(0)  # its memory is taken before the measurement
    before = _reset_peak()
    with closing(open_robust(config, layout, None)) as aggregate:
        for number in range(updates):
            aggregate.add(source.next(number))
        began = time.perf_counter()
        aggregate.finish()
        combining_s = time.perf_counter() - began
    return Measured(_resident("VmHWM") - before, combining_s)


def _reset_peak() -> int:
    """Forget the largest resident set so far (man 5 proc, clear_refs); returns that of now, in bytes."""
    _CLEAR.write_text("5")
    return _resident("VmRSS")


def _resident(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def most_byzantine(updates: int) -> int:
    """As many malicious updates as every rule withstands among so many: Bulyan's (n - 3) / 4."""
    return max(0, (updates - 3) // 4)


def main(rule: str, model: str, updates: str, spool_bytes: str) -> None:
    """Measure one aggregate and print what it took."""
    count = int(updates)
    aggregate = {"rule": rule, "byzantine": most_byzantine(count), "spool_bytes": int(spool_bytes)}
    config = RunConfig.model_validate({"learners": count, "aggregate": aggregate})
    print(json.dumps(asdict(measure(config, build_model(model), count))))


if __name__ == "__main__":
    main(*sys.argv[1:])
