"""The folder that a run leaves behind: its files, and the metrics of each round."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from leader.storage.checkpoint import checkpoints
from utils.errors import ConfigError
from utils.files import replace_file


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

    def discard(self) -> bool:
        """Remove what `create` and MetricsLog made, unless a run began here; returns whether that was so."""
        if checkpoints(self.checkpoints):
            return False
        self.config.unlink(missing_ok=True)
        self.metrics.unlink(missing_ok=True)
        self.ledger.unlink(missing_ok=True)
        self.buffers.unlink(missing_ok=True)
        for cut in self.checkpoints.glob("*"):
            cut.unlink()
        self.page.unlink(missing_ok=True)
        shutil.rmtree(self.parent_model, ignore_errors=True)
        for end in ("", "-wal", "-shm"):
            self.record.with_name(self.record.name + end).unlink(missing_ok=True)
        with suppress(OSError):
            self.checkpoints.rmdir()
            self.path.rmdir()
        return True

    @property
    def holds_run(self) -> bool:
        """Whether any file of a run is there."""
        files = (self.config, self.metrics, self.ledger, self.summary, self.model, self.best)
        return any(file.exists() for file in files) or any(self.checkpoints.glob("*"))

    @property
    def begun(self) -> bool:
        """Whether a run got to its first checkpoint here, or left results; else `discard` loses nothing."""
        results = (self.summary, self.model, self.best)
        measured = self.metrics.exists() and self.metrics.stat().st_size > 0
        return bool(checkpoints(self.checkpoints)) or measured or any(file.exists() for file in results)

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
    def ledger(self) -> Path:
        """What the run's learners have spent of their privacy; absent in a run without dp.mode."""
        return self.path / "privacy.jsonl"

    @property
    def buffers(self) -> Path:
        """What filled the buffers of an asynchronous run, in its order; absent in others."""
        return self.path / "buffers.jsonl"

    @property
    def record(self) -> Path:
        """What there is to ask about the run later: an SQLite database."""
        return self.path / "metadata.sqlite"

    @property
    def tensorboard(self) -> Path:
        """Folder for TensorBoard; absent unless it was asked for."""
        return self.path / "tb"

    @property
    def summary(self) -> Path:
        """The run in one JSON object."""
        return self.path / "summary.json"

    @property
    def curves(self) -> Path:
        """The metrics as a picture."""
        return self.path / "curves.png"

    @property
    def page(self) -> Path:
        """Where the live page is, or was."""
        return self.path / "page"

    @property
    def checkpoints(self) -> Path:
        """Folder with what a restart needs."""
        return self.path / "checkpoints"

    @property
    def lineage(self) -> Path:
        """The cards of the run's models; absent where none is to be registered."""
        return self.path / "lineage.json"

    @property
    def parent_model(self) -> Path:
        """Folder with the registered model that the run started from; absent where there is none."""
        return self.path / "parent"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The best model so far by `evaluation.metric`; absent while nothing was evaluated."""
        return self.path / "best.safetensors"
