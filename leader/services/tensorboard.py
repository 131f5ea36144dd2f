"""Scalars of a run for TensorBoard, in the folder tb of the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from leader.services.mlflow import points
from leader.services.record_file import Row
from utils.errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorboardFollower:
    """Follower: a scalar for each metric and round; those that are sent again come in the place of the first ones.

    Raises ConfigError.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise ConfigError("TensorBoard needs a package: pip install 'flockstep[tensorboard]'")
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def send(self, rows: Sequence[Row]) -> None:
        """See Follower; raises OSError."""
        if not (scalars := points(rows)):
            return
        if self._writer is None:
            self._writer = self._open(rows)
        times = {row.values["round"]: row.values["committed_at"] for row in rows if row.table == "rounds"}
        for round_, name, value in scalars:
            self._writer.add_scalar(name, value, round_, walltime=times.get(round_))
        self._writer.flush()

    def _open(self, rows: Sequence[Row]) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter  # here, as it takes more than a second

        begun = [int(row.values["round"] or 0) for row in rows if row.table == "rounds"]
        return SummaryWriter(str(self._folder), purge_step=min(begun, default=None))

    def close(self) -> None:
        """See Follower."""
        if self._writer is not None:
            self._writer.close()
