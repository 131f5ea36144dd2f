"""What a run begins from: a folder and a state, new ones or those that an earlier process left."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace
from datetime import datetime
from functools import partial

from leader.config import RunConfig
from leader.config.yaml_file import dump_config
from leader.global_model.initial import Origin, model_title
from leader.optimizers.choose import make_optimizer
from leader.state import RunState
from leader.storage.checkpoint import load_newest
from leader.storage.run_folder import RunFolder, default_run_dir
from model.layout import Layout
from utils.errors import CheckpointError
from utils.files import write_atomically

_CHANGED = "was config.yaml of the run folder changed?"


def open_folder(config: RunConfig, *, resume: bool) -> tuple[RunConfig, RunFolder]:
    """The run's folder, and the config with its path; with `resume` it is there already.

    Raises ConfigError.
    """
    path = config.run_dir or default_run_dir(model_title(config), datetime.now())
    config = config.model_copy(update={"run_dir": path})
    if not resume:
        return config, RunFolder.create(path, dump_config(config))
    folder = RunFolder.reopen(path)
    # What was changed for this resume, such as more rounds, holds for the next one too.
    write_atomically(folder.config, [dump_config(config).encode()])
    return config, folder


def initial_state(config: RunConfig, origin: Origin) -> RunState:
    """Round 0 of a new run: seeded or given weights."""
    vector = origin.vector
    return RunState(
        run_id=f"{model_title(config)}-{secrets.token_hex(4)}",
        round=0,
        exchanges=0,
        version=int.from_bytes(hashlib.sha256(vector.tobytes()).digest()[:8]) >> 1,
        vector=vector,
        optimizer=make_optimizer(config).init(origin.layout.parameter_count),
        secret=_new_secret(),
        frozen=origin.layout.frozen,
    )


def resumed_state(config: RunConfig, folder: RunFolder, layout: Layout, examples: int) -> RunState:
    """The newest whole checkpoint; raises CheckpointError if there is none of this run.

    `examples` is the number of training examples that the leader holds.
    """
    state = load_newest(folder.checkpoints, partial(_check_fit, config, layout, examples))
    if state.frozen != layout.frozen:
        raise CheckpointError(
            "this run was trained beside other frozen parameters than the task's model has now; give it back the "
            "base that it had, or start a new run"
        )
    return state if state.secret else replace(state, secret=_new_secret())  # of a release that had none


def _check_fit(config: RunConfig, layout: Layout, examples: int, state: RunState) -> None:
    optimizer = dict.fromkeys(make_optimizer(config).init(0), layout.parameter_count)
    wanted = {"the model": layout.total, **optimizer}
    held = {"the model": state.vector.size, **{name: kept.size for name, kept in state.optimizer.items()}}
    if held != wanted:
        raise ValueError(f"it holds {held} values, the run has {wanted}; {_CHANGED}")
    last = max((shard.max(initial=-1) for shard in state.seats.shards), default=-1) if state.seats else -1
    if last >= examples:
        raise ValueError(f"it deals out example {last}, the data has {examples}; {_CHANGED}")


def _new_secret() -> str:
    return secrets.token_hex(32)
