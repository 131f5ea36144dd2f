"""Checkpoints: what a restart needs, in a safetensors file, written atomically and checked.

Temporary file, fsync, rename, fsync of the folder: after a crash at any point the newest whole
checkpoint is found. A SHA-256 over all that the file says, down to the tensors' names, tells a
damaged one. What a large run says of its many parts lies beside; see SideFiles.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from leader.state import RunState
from leader.storage.saved_state import arrays_of, fields_of, state_of
from leader.storage.side_files import SideFiles
from utils import faults
from utils.console import printable
from utils.errors import CheckpointError, FlockstepError
from utils.files import write_atomically
from utils.wire.payload import DTYPES, Payload, encode_header, read_payload

_log = logging.getLogger(__name__)
_FORMAT = "flockstep-checkpoint-2"
_FORMAT_BESIDE = "flockstep-checkpoint-3"  # of one with a side file, which earlier releases know nothing of
_NAME = re.compile(r"round-(\d{8})\.safetensors")
_REASON = 300  # characters that are told of what is wrong
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def save_checkpoint(
    folder: Path, state: RunState, *, keep: int, config: str, side_files: SideFiles | None = None
) -> Path:
    """Write `state` into `folder` and delete all but the newest `keep` checkpoints up to it.

    Those whose model open work starts from stay, and later ones: they are damaged, and the run will write them again.
    `config` is the run's whole configuration, so that the file says what it belongs to. `side_files` are those of
    the checkpoints before, if this process wrote any.
    """
    side_files = side_files or SideFiles(folder)
    beside = side_files.write(state)
    arrays, fields = arrays_of(state), fields_of(state, beside)
    tensors = [(name, _CODES[array.dtype], array.shape) for name, array in arrays.items()]
    digest = _digest(fields, config, tensors)
    body = [np.ascontiguousarray(array).data.cast("B") for array in arrays.values()]
    for part in body:
        digest.update(part)
    format_ = _FORMAT_BESIDE if beside else _FORMAT
    metadata = {"format": format_, "state": fields, "config": config, "sha256": digest.hexdigest()}
    path = folder / _name(state.round)
    at_fault_point = partial(faults.reach, "leader.checkpointing", state.round)
    # Whoever reads the run's secret can make tickets, and records of its log; the noise key, take noise away.
    write_atomically(path, [encode_header(tensors, metadata), *body], at_fault_point, 0o600)
    left = checkpoints(folder)
    bases = {_name(work.round - 1) for work in state.open_work.values()}
    for old in [other for other in left if other.name <= path.name][keep:]:
        if old.name not in bases:
            old.unlink()
            left.remove(old)
    side_files.keep(path, beside, left)
    return path


def _name(round_: int) -> str:
    return f"round-{round_:08d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, newest first."""
    return sorted((path for path in folder.glob("round-*") if _NAME.fullmatch(path.name)), reverse=True)


def load_newest(folder: Path, check: Callable[[RunState], None] = lambda state: None) -> RunState:
    """The newest checkpoint that is whole; raises CheckpointError if there is none.

    `check` raises ValueError for a state that is not of this run: it counts as damaged.
    """
    damaged = []
    for path in checkpoints(folder):
        try:
            return load_checkpoint(path, check)
        except CheckpointError as error:
            _log.warning("%s; trying the one before", error)
            damaged.append(path.name)
    found = f"only damaged ones: {', '.join(damaged)}" if damaged else "none"
    raise CheckpointError(f"no checkpoint to resume from in {folder} ({found}); start a new run")


def load_checkpoint(path: Path, check: Callable[[RunState], None] = lambda state: None) -> RunState:
    """The state in one file; raises CheckpointError if it is damaged, not a checkpoint or fails `check`."""
    try:
        payload = read_payload(path)
        if payload.manifest.metadata.get("format") not in (_FORMAT, _FORMAT_BESIDE):
            raise CheckpointError(f"{path.name} is not a checkpoint of this release ({_FORMAT_BESIDE})")
        state = _checked(payload, SideFiles(path.parent))
        if path.name != _name(state.round):
            raise ValueError(f"it is of round {state.round}")
        check(state)
    except CheckpointError:
        raise
    except (FlockstepError, OSError, ValueError) as error:
        reason = printable(str(error)[:_REASON])
        raise CheckpointError(f"checkpoint {path.name} is damaged: {reason}") from error
    return state


def _checked(payload: Payload, side_files: SideFiles) -> RunState:
    metadata = payload.manifest.metadata
    if missing := {"state", "config", "sha256"} - metadata.keys():
        raise ValueError(f"it lacks {min(missing)!r}")
    tensors = [(tensor.name, tensor.dtype, tensor.shape) for tensor in payload.manifest.tensors]
    digest = _digest(metadata["state"], metadata["config"], tensors)
    digest.update(payload.data.data)
    if digest.hexdigest() != metadata["sha256"]:
        raise ValueError("its SHA-256 differs")
    return state_of(metadata["state"], payload.arrays(), side_files.read)


def state_of_round(folder: Path, round_: int) -> RunState | None:
    """The state after this round, where its checkpoint is still there."""
    with suppress(CheckpointError):
        return load_checkpoint(folder / _name(round_))
    return None


def _digest(fields: str, config: str, tensors: list[tuple[str, str, tuple[int, ...]]]) -> hashlib._Hash:
    """The hash over a checkpoint's header, to be updated with the tensor bytes."""
    return hashlib.sha256(json.dumps([fields, config, tensors]).encode())
