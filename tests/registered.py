"""Registered models whose weights are their score, for tests of registries."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from leader.services.registry.base import Card, Registry, Version


def weights(path: Path, value: float) -> tuple[Path, str]:
    """A file of four equal values, and the SHA-256 of these."""
    array = np.full(4, value, np.float32)
    save_file({"w": array}, path)
    return path, hashlib.sha256(array.tobytes()).hexdigest()


def publish(registry: Registry, folder: Path, score: float | None, run: str = "", **card: object) -> Version:
    """Register weights that are the score."""
    path, sha256 = weights(folder / "w.safetensors", score or 0.0)
    told = {"metric": "test_accuracy", **card, "run": run or f"run-{score}", "sha256": sha256, "score": score}
    return registry.publish("digits", path, Card.model_validate(told), "champion")
