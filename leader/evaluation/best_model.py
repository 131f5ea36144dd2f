"""The best model of a run so far, best.safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from leader.metric_names import Mode, is_better, lower_is_better
from model.layout import Layout
from model.weights_file import model_header
from utils.errors import PayloadError
from utils.files import write_atomically
from utils.vector import Vector
from utils.wire.payload import parse_header

_MAX_HEADER = 8 << 20  # bytes


@dataclass(frozen=True)
class Best:
    """The best value of a metric so far, and the round whose model it is of."""

    round: int
    metric: str
    value: float


class BestModel:
    """Keeps the weights with the best value of one metric; the file says itself what it holds. Not thread-safe."""

    def __init__(self, path: Path, layout: Layout, model: str, metric: str, mode: Mode) -> None:
        self.metric = metric
        self._path = path
        self._layout = layout
        self._model = model
        self._lower = lower_is_better(metric, mode)
        self.best = _read(path, metric)

    def offer(self, round_: int, metrics: Mapping[str, float], vector: Vector) -> None:
        """Write `vector` (total,), the weights of `round_`, if they are better than all before.

        Raises CheckpointError, such as for a full disk.
        """
        value = metrics.get(self.metric)
        before = self.best.value if self.best else None
        if value is None or not is_better(value, before, lower=self._lower):
            return
        metadata = {"format": "pt", "model": self._model}
        facts = {"round": str(round_), "metric": self.metric, "value": repr(value)}
        write_atomically(self._path, [model_header(self._layout, metadata | facts), vector.data.cast("B")])
        self.best = Best(round_, self.metric, value)


def _read(path: Path, metric: str) -> Best | None:
    """What the file at `path` holds; None where there is none, or one of another metric."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            head = file.read(8)
            head += file.read(min(int.from_bytes(head, "little"), _MAX_HEADER))
        facts = parse_header(head).metadata
        best = Best(int(facts["round"]), facts["metric"], float(facts["value"]))
    except (PayloadError, KeyError, ValueError):  # not written by a run; the next best replaces it
        return None
    return best if best.metric == metric else None
