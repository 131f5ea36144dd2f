"""Scalars of a run for TensorBoard, in the folder tb of the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from leader.services.mlflow import points
from leader.services.record.file import Row
from utils.errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorboardFollower:
    """Follower: a scalar for each metric and round; those that are there already are passed over.

    Raises ConfigError.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise ConfigError("TensorBoard needs a package: pip install 'flockstep[tensorboard]'")
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._there: set[tuple[str, int]] = set()  # metrics and rounds

    def send(self, rows: Sequence[Row]) -> None:
        """See Follower; raises OSError."""
        if not (scalars := points(rows)):
            return
        if self._writer is None:
            self._writer = self._open()
        times = {row.values["round"]: row.values["committed_at"] for row in rows if row.table == "rounds"}
        for round_, name, value in scalars:
            if (name, round_) not in self._there:
                self._writer.add_scalar(name, value, round_, walltime=times.get(round_))
                self._there.add((name, round_))
        self._writer.flush()

    def _open(self) -> SummaryWriter:
        # Here, as these take more than a second.
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
        from torch.utils.tensorboard import SummaryWriter

        if (
            self._folder.exists()
        ):  # a leader before this one may have been killed before it noted what it wrote
            reader = EventAccumulator(str(self._folder), {SCALARS: 0})
            reader.Reload()
            self._there = {
                (name, event.step) for name in reader.scalars.Keys() for event in reader.Scalars(name)
            }
        return SummaryWriter(str(self._folder))

    def close(self) -> None:
        """See Follower."""
        if self._writer is not None:
            self._writer.close()
