"""The state that a run begins from: a new one, or that of its newest checkpoint."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from leader.config import RunConfig
from leader.global_model.initial import Origin, model_title
from leader.optimizers.base import ServerOptimizer
from leader.state import RunState
from leader.storage.checkpoint import checkpoints, load_checkpoint, load_newest
from leader.storage.run_folder import RunFolder
from model.flat import Layout
from utils.errors import CheckpointError


def initial_state(config: RunConfig, origin: Origin, optimizer: ServerOptimizer) -> RunState:
    """Round 0 of a new run: seeded or given weights."""
    vector = origin.vector
    return RunState(
        run_id=f"{model_title(config)}-{secrets.token_hex(4)}",
        round=0,
        exchanges=0,
        version=int.from_bytes(hashlib.sha256(vector.tobytes()).digest()[:8]) >> 1,
        vector=vector,
        optimizer=optimizer.init(origin.layout.parameter_count),
    )


def resumed_state(folder: RunFolder, layout: Layout) -> RunState:
    """The newest whole checkpoint; raises CheckpointError if there is none that fits the model."""
    state = load_newest(folder.checkpoints)
    if state.vector.size != layout.total:
        raise CheckpointError(
            f"checkpoint holds {state.vector.size} values, the model has {layout.total}; "
            "was config.yaml of the run folder changed?"
        )
    return state


def weights_before(folder: RunFolder, state: RunState) -> NDArray[np.float32] | None:
    """The weights (total,) of the round before `state`, where its checkpoint is still there."""
    for path in checkpoints(folder.checkpoints):
        with suppress(CheckpointError):
            before = load_checkpoint(path)
            if before.round == state.round - 1:
                return before.vector
    return None
