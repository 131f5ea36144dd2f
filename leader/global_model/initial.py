"""Where the run's model comes from: the registry, a task of the user's own, or a file of weights alone."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from leader.config import RunConfig
from model.device import choose_device
from model.flat import FlatModel
from model.image_classification import ImageClassification
from model.layout import Entry, Layout
from model.task import Task, load_task
from utils.errors import ConfigError, FlockstepError
from utils.wire.payload import Manifest, Payload, read_payload


@dataclass(frozen=True)
class Origin:
    """The model at round 0, and what the leader knows about it."""

    layout: Layout
    vector: NDArray[np.float32]  # (total,): initial weights
    task: Task | None  # None where the leader knows names and shapes alone, and can't evaluate
    model: FlatModel | None  # None without a task
    own: bool  # whether learners must bring the task


def open_origin(config: RunConfig, classes: int, weights: Path | None = None) -> Origin:
    """The model that `config` names; `classes` is for those of the registry, `weights` where those that it names lie.

    Raises ConfigError for an unknown task or model, and for a file that doesn't fit it.
    """
    wanted = config.model
    patterns = [pattern.strip() for pattern in wanted.local.split(",") if pattern.strip()]
    weights = weights or wanted.weights
    payload = _read(weights) if weights else None
    if not wanted.task and not wanted.name:
        assert payload is not None  # refused when the config is read
        layout = _layout(payload.manifest).keeping(patterns)
        return Origin(layout, _vector(layout, payload), None, None, own=True)
    task: Task = (
        load_task(wanted.task, "model.task")
        if wanted.task
        else ImageClassification(model=wanted.name, norm=wanted.norm, classes=classes)
    )
    device = choose_device("auto")
    model = FlatModel(task.build_model(config.seed), device)
    model.layout = layout = model.layout.keeping(patterns)
    if payload and (base := _frozen(payload.manifest)) not in ("", layout.frozen):
        raise ConfigError(
            f"model.weights: {weights} was trained beside other frozen parameters (fingerprint {base[:12]}, the "
            f"task's have {layout.frozen[:12] or 'none'}); build the model on the same base"
        )
    vector = _vector(layout, payload) if payload else model.snapshot().cpu().numpy()
    return Origin(layout, vector, task, model, own=bool(wanted.task))


def model_title(config: RunConfig) -> str:
    """The model as people read it: in a run's name, on its plots."""
    return config.model.task.rpartition(":")[2] or config.model.name or "weights"


def _read(path: Path) -> Payload:
    try:
        return read_payload(path)
    except (FlockstepError, OSError) as error:
        raise ConfigError(f"model.weights: {path} can't be read as a safetensors file: {error}") from None


def _layout(manifest: Manifest) -> Layout:
    """Of a file's tensors, in its order; its metadata may name buffers (a JSON list under "buffers")."""
    buffers = _buffers(manifest)
    parameters: list[Entry] = []
    carried: list[Entry] = []
    for tensor in manifest.tensors:
        if tensor.dtype != "F32":
            raise ConfigError(
                f"model.weights: {tensor.name!r} is {tensor.dtype}; all tensors must be F32, "
                "as python -m scripts.weights writes them"
            )
        kind = carried if tensor.name in buffers else parameters
        kind.append(Entry(tensor.name, tensor.shape, 0, math.prod(tensor.shape)))
    if not parameters:
        raise ConfigError("model.weights: the file has no tensor that trains")
    starts = np.cumsum([0, *(entry.size for entry in [*parameters, *carried])])
    entries = [
        Entry(entry.name, entry.shape, int(start), entry.size)
        for entry, start in zip([*parameters, *carried], starts, strict=False)
    ]
    frozen = _frozen(manifest)
    return Layout(tuple(entries[: len(parameters)]), tuple(entries[len(parameters) :]), frozen=frozen)


def _frozen(manifest: Manifest) -> str:
    """The fingerprint of what is frozen beside a file's tensors, by its metadata; "" = nothing is."""
    text = manifest.metadata.get("frozen", "")
    if not re.fullmatch("([0-9a-f]{64})?", text):
        raise ConfigError(
            f"model.weights: metadata 'frozen' is {text[:80]!r}; it must be a SHA-256 in hex, as "
            "python -m scripts.weights writes it"
        )
    return text


def _buffers(manifest: Manifest) -> set[str]:
    text = manifest.metadata.get("buffers", "[]")
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"model.weights: metadata 'buffers' is {text[:80]!r}; it must be a JSON list of names"
        )
    unknown = set(names) - {tensor.name for tensor in manifest.tensors}
    if unknown:
        raise ConfigError(
            f"model.weights: metadata 'buffers' has {min(unknown)!r}, the file has it not at all"
        )
    return set(names)


def _vector(layout: Layout, payload: Payload) -> NDArray[np.float32]:
    """The file's values in the layout's order; raises ConfigError unless it has the layout's tensors."""
    tensors = {tensor.name: tensor for tensor in payload.manifest.tensors}
    for entry in layout.entries:
        tensor = tensors.pop(entry.name, None)
        if tensor is None or tensor.dtype != "F32" or tensor.shape != entry.shape:
            found = f"as {tensor.dtype}{list(tensor.shape)}" if tensor else "not at all"
            raise ConfigError(
                f"model.weights: the model has {entry.name!r} as F32{list(entry.shape)}, the file has it {found}"
            )
    if tensors:
        raise ConfigError(
            f"model.weights: the file has {next(iter(tensors))!r}, which is no parameter that trains and no float "
            "buffer of the model; leave it out"
        )
    places = {tensor.name: (tensor.start, tensor.stop) for tensor in payload.manifest.tensors}
    pieces = [payload.data[slice(*places[entry.name])].view(np.float32) for entry in layout.entries]
    vector = np.concatenate(pieces)
    if not np.isfinite(vector).all():
        raise ConfigError("model.weights: the file has values that are not finite")
    return vector


def weights_metadata(layout: Layout) -> dict[str, str]:
    """What a file of weights says beside its tensors, so that a leader without the task can use it."""
    told = {"frozen": layout.frozen} if layout.frozen else {}
    return {"format": "pt", "buffers": json.dumps([entry.name for entry in layout.buffers]), **told}


def tensors_of(model: FlatModel) -> dict[str, torch.Tensor]:
    """The model's tensors by name, for a safetensors file."""
    flat = model.snapshot().cpu()
    return {e.name: flat[e.start : e.start + e.size].reshape(e.shape).clone() for e in model.layout.entries}
