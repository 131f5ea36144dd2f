"""Checkpoints: what a restart needs, in one safetensors file, written atomically and checked.

Temporary file, fsync, rename, fsync of the folder: after a crash at any point the newest whole
checkpoint is found. A SHA-256 over all that the file says, down to the tensors' names, tells a
damaged one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, astuple
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leader.events import RoundCommitted
from leader.rounds.buffer import OpenWork
from leader.state import Claim, PartHistory, PrivacyState, RunState, Seats
from utils import faults
from utils.errors import CheckpointError, FlockstepError
from utils.files import write_atomically
from utils.vector import Vector
from utils.wire.payload import DTYPES, PayloadReader, encode_header

_log = logging.getLogger(__name__)
_FORMAT = "flockstep-checkpoint-2"
_NAME = re.compile(r"round-(\d{8})\.safetensors")
_READ_BYTES = 8 << 20
_CODES = {dtype: code for code, dtype in DTYPES.items()}
Arrays = Mapping[str, NDArray[np.generic]]


def save_checkpoint(folder: Path, state: RunState, *, keep: int, config: str) -> Path:
    """Write `state` into `folder` and delete all but the newest `keep` checkpoints up to it.

    Later ones stay: they are damaged, and the run will write them again.
    `config` is the run's whole configuration, so that the one file says what it belongs to.
    """
    arrays = _arrays(state)
    fields = json.dumps(_fields(state))
    tensors = [(name, _CODES[array.dtype], array.shape) for name, array in arrays.items()]
    digest = _digest(fields, config, tensors)
    body = [np.ascontiguousarray(array).data.cast("B") for array in arrays.values()]
    for part in body:
        digest.update(part)
    metadata = {"format": _FORMAT, "state": fields, "config": config, "sha256": digest.hexdigest()}
    path = folder / f"round-{state.round:08d}.safetensors"
    at_fault_point = partial(faults.reach, "leader.checkpointing", state.round)
    rights = 0o600 if state.privacy else 0o666  # whoever reads the key can take the next round's noise away
    write_atomically(path, [encode_header(tensors, metadata), *body], at_fault_point, rights)
    for old in [other for other in checkpoints(folder) if other.name <= path.name][keep:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, newest first."""
    return sorted((path for path in folder.glob("round-*") if _NAME.fullmatch(path.name)), reverse=True)


def load_newest(folder: Path) -> RunState:
    """The newest checkpoint that is whole; raises CheckpointError if there is none."""
    damaged = []
    for path in checkpoints(folder):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            _log.warning("%s; trying the one before", error)
            damaged.append(path.name)
    found = f"only damaged ones: {', '.join(damaged)}" if damaged else "none"
    raise CheckpointError(f"no checkpoint to resume from in {folder} ({found}); start a new run")


def load_checkpoint(path: Path) -> RunState:
    """The state in one file; raises CheckpointError if it is damaged or not a checkpoint."""
    size = path.stat().st_size
    reader = PayloadReader(max_bytes=size, header_bytes=size)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                reader.feed(chunk)
        payload = reader.finish()
    except (FlockstepError, OSError) as error:
        raise CheckpointError(f"checkpoint {path.name} is damaged: {error}") from error
    metadata = payload.manifest.metadata
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path.name} is not a checkpoint of this release ({_FORMAT})")
    tensors = [(tensor.name, tensor.dtype, tensor.shape) for tensor in payload.manifest.tensors]
    try:
        digest = _digest(metadata["state"], metadata["config"], tensors)
    except KeyError as error:
        raise CheckpointError(f"checkpoint {path.name} is damaged: it lacks {error}") from None
    digest.update(payload.data.data)
    if digest.hexdigest() != metadata.get("sha256"):
        raise CheckpointError(f"checkpoint {path.name} is damaged: its SHA-256 differs")
    return _state(json.loads(metadata["state"]), payload.arrays())


def weights_of(folder: Path, round_: int) -> Vector | None:
    """The weights (total,) of this round, where its checkpoint is still there."""
    for path in checkpoints(folder):
        with suppress(CheckpointError):
            state = load_checkpoint(path)
            if state.round == round_:
                return state.vector
    return None


def _digest(fields: str, config: str, tensors: list[tuple[str, str, tuple[int, ...]]]) -> hashlib._Hash:
    """The hash over a checkpoint's header, to be updated with the tensor bytes."""
    return hashlib.sha256(json.dumps([fields, config, tensors]).encode())


def _fields(state: RunState) -> dict[str, object]:
    claims = state.seats.claims if state.seats else {}
    names = ("run_id", "round", "exchanges", "version", "bytes_up", "bytes_down", "seconds", "federated")
    return {
        **{name: getattr(state, name) for name in (*names, "secret")},
        **({"audit_head": state.audit_head} if state.audit_head else {}),
        **({"privacy": _private_fields(state.privacy)} if state.privacy else {}),
        "holders": dict(state.seats.holders) if state.seats else {},
        "own": state.seats.own if state.seats else 0,
        "committed": asdict(state.committed) if state.committed else None,
        "shards": len(state.seats.shards) if state.seats else None,
        "history": {
            part: [past.times, past.last_round, past.loss, past.seconds]
            for part, past in sorted(state.history.items())
        },
        "open_work": {
            part: [work.round, work.turn, work.version] for part, work in sorted(state.open_work.items())
        },
        "turns": dict(sorted(state.turns.items())),
        "claims": {name: astuple(claim) for name, claim in sorted(claims.items())},
    }


def _private_fields(privacy: PrivacyState) -> dict[str, object]:
    return {**asdict(privacy), "noise_key": privacy.noise_key.hex()}


def _privacy(fields: Mapping[str, Any]) -> PrivacyState:
    return PrivacyState(**{**fields, "noise_key": bytes.fromhex(fields["noise_key"])})


def _arrays(state: RunState) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {"vector": state.vector}
    if state.public is not None:
        arrays["public"] = state.public
    arrays |= {f"optimizer.{name}": vector for name, vector in state.optimizer.items()}
    if state.seats and state.seats.shards:
        arrays["shards"] = np.concatenate(state.seats.shards).astype(np.int32)
        arrays["shard_sizes"] = np.array([len(shard) for shard in state.seats.shards], np.int32)
    return arrays


def _shards(arrays: Arrays) -> tuple[NDArray[np.int64], ...]:
    ends = np.cumsum(arrays["shard_sizes"].astype(np.int64))
    return tuple(np.split(arrays["shards"].astype(np.int64), ends[:-1]))


def _state(fields: dict[str, object], arrays: Arrays) -> RunState:
    own = int(str(fields.pop("own")))
    count, holders, committed = fields.pop("shards"), fields.pop("holders"), fields.pop("committed")
    history = fields.pop("history", {})  # checkpoints of earlier releases have none
    open_work = fields.pop("open_work", {})
    assert isinstance(history, dict)
    claims, privacy = fields.pop("claims", {}), fields.pop("privacy", None)
    assert isinstance(open_work, dict)
    assert isinstance(claims, dict)
    kept = {name: Claim(*values) for name, values in claims.items()}
    seats = Seats(_shards(arrays) if count else (), holders, own, kept)  # type: ignore[arg-type]
    prefix = "optimizer."
    return RunState(
        vector=arrays["vector"].astype(np.float32, copy=False),
        optimizer={
            name.removeprefix(prefix): array.astype(np.float32, copy=False)
            for name, array in arrays.items()
            if name.startswith(prefix)
        },
        public=arrays["public"].astype(np.float32, copy=False) if "public" in arrays else None,
        seats=None if count is None else seats,
        committed=RoundCommitted(**committed) if isinstance(committed, dict) else None,
        privacy=_privacy(privacy) if isinstance(privacy, dict) else None,
        history={part: PartHistory(*values) for part, values in history.items()},
        open_work={part: OpenWork(*values) for part, values in open_work.items()},
        **fields,  # type: ignore[arg-type]
    )
