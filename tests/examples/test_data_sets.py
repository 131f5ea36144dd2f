"""Data sets of Hugging Face and of torchvision are data of a task by the lines that docs/tasks.md gives."""

from __future__ import annotations

import gzip
import struct
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from leader.events import RoundCommitted
from scripts.cluster import Cluster
from tests.clusters import play
from tests.docs.blocks import ROOT, blocks_of
from tests.tools.needs import needs

SETTINGS: Mapping[str, object] = {
    "learners": 1,
    "rounds": 3,
    "exchange": "delta",
    "data.holder": "learner",
    "train.batch_size": 10,
    "train.local_steps": 20,
    "train.lr": 0.05,
    "train.dtype": "float32",
}
DARK_AND_BRIGHT = np.arange(40) % 2  # the classes


def methods(with_: str, **modules: Any) -> dict[str, Any]:
    """The methods in the block of docs/tasks.md that has these words."""
    [block] = [block for block in blocks_of(ROOT / "docs" / "tasks.md") if with_ in block.text]
    found: dict[str, Any] = dict(modules)
    exec(textwrap.dedent(block.text), found)
    return {name: found[name] for name in ("open_data", "make_batch")}


def score(task: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """The test accuracy after training in a cluster."""
    monkeypatch.setattr(f"{__name__}.Mine", task, raising=False)
    scores: dict[str, float] = {}

    async def scenario(cluster: Cluster) -> None:
        cluster.learner("a", task=f"{__name__}:Mine", data=data)
        await cluster.finished()
        assert len(cluster.seen(RoundCommitted)) == 3
        scores.update(cluster.metrics[-1])

    play(scenario, {**SETTINGS, "data.source": data, "model.task": f"{__name__}:Mine"})
    return scores["test_accuracy"]


class Linear:
    """What is left of a task where the data is given: a linear layer on `FEATURES` numbers."""

    FEATURES = 0

    def build_model(self, seed: int) -> nn.Module:
        """See Task."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(self.FEATURES, 2))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """See Task."""
        inputs, labels = batch.values() if isinstance(batch, dict) else batch
        return cross_entropy(model(inputs).float(), labels)

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, float]:
        """See Task."""
        inputs, labels = batch.values() if isinstance(batch, dict) else batch
        return {"accuracy": float((model(inputs).argmax(1) == labels).double().mean())}


@needs("datasets")
def test_a_folder_that_save_to_disk_wrote_is_data_of_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    random = np.random.default_rng(0)
    for split in ("train", "test"):
        points = random.normal(size=(40, 3)).astype(np.float32) + 3 * DARK_AND_BRIGHT[:, None]
        datasets.Dataset.from_dict({"points": points, "label": DARK_AND_BRIGHT}).save_to_disk(
            tmp_path / split
        )
    task = type("Rows", (Linear,), {"FEATURES": 3, **methods("load_from_disk", datasets=datasets)})
    assert score(task, tmp_path, monkeypatch) > 0.9


def test_a_data_set_of_torchvision_is_data_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision  # here, as it loads PyTorch's compiler, which takes longer than all other tests' imports
    from torchvision.datasets.utils import extract_archive

    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split in ("train", "t10k"):
        images = (
            random.integers(0, 100, (40, 28, 28), np.uint8)
            + 100 * DARK_AND_BRIGHT.astype(np.uint8)[:, None, None]
        )
        written = {"images-idx3": images, "labels-idx1": DARK_AND_BRIGHT.astype(np.uint8)}
        for kind, values in written.items():
            heading = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            archive = raw / f"{split}-{kind}-ubyte.gz"
            archive.write_bytes(gzip.compress(heading + values.tobytes()))
            extract_archive(str(archive), str(raw))
    task = type(
        "Digits", (Linear,), {"FEATURES": 784, **methods("MNIST", torchvision=torchvision, torch=torch)}
    )
    assert score(task, tmp_path, monkeypatch) > 0.9
