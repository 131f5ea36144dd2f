"""A leader that keeps all bytes it gets: a plain update gives a learner's picture back, a masked one gives nothing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leader.rpc.uploads import Uploads
from leader.training.exchanges import masked_group
from learner.secagg import sessions
from learner.secagg.member import Floors, MaskMember, Signing
from model.layout import Layout
from model.task import Indices
from protos import leader_pb2
from tests.clusters import TINY, Settings, join, play
from tests.integration.noise_task import Rows
from utils.secagg.ring import Ring
from utils.secagg.update import VALUES
from utils.wire.payload import PayloadReader

PIXELS, CLASSES = 3 * 32 * 32, 4
#: One picture a learner, one step of plain descent: no batch and no momentum lies between picture and update.
PICTURES: Settings = {
    **TINY,
    "model.task": "tests.cluster.test_leak:Picture",
    "learners": 3,
    "rounds": 1,
    "train.local_steps": 1,
    "train.batch_size": 1,
    "train.weight_decay": 0.0,
    "aggregate.weighting": "uniform",
}
MASKED: Settings = {**PICTURES, "secagg.mode": "masked"}
Image = NDArray[np.float64]  # (PIXELS,)


def picture(name: str) -> Image:
    """What the learner of this name has: dark and bright areas, between 0 and 1."""
    generator = np.random.default_rng(list(name.encode()))
    return np.asarray(np.kron(generator.random((3, 8, 8)), np.ones((4, 4))).ravel(), np.float64)


class Picture:
    """A linear layer on one picture; the path says whose."""

    def build_model(self, seed: int) -> nn.Module:
        """See Task."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Linear(PIXELS, CLASSES)

    def open_data(self, path: Path | None, *, train: bool) -> Rows:
        """See Task."""
        x = picture(str(path)[-1]).astype(np.float32)[None]
        return Rows(x, np.array([[ord(str(path)[-1]) % CLASSES]], np.float32))

    def make_batch(
        self, examples: Rows, indices: Indices, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """See Task."""
        return torch.from_numpy(examples.x[indices]), torch.from_numpy(examples.y[indices, 0]).long()

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """See Task."""
        return {"loss": float(self.loss(model, batch))}


def fix_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions and secrets are the same in each run, so that what is drawn can't have a bad day."""

    class Keyed(MaskMember):
        def __init__(
            self,
            name: str,
            session: bytes,
            order: leader_pb2.WorkOrder,
            floors: Floors,
            signing: Signing | None,
        ) -> None:
            numbers = count()

            def draw(size: int) -> bytes:
                return hashlib.shake_256(f"{name} {next(numbers)}".encode()).digest(size)

            super().__init__(name, session, order, floors, signing, draw=draw)

    monkeypatch.setattr(sessions, "MaskMember", Keyed)
    monkeypatch.setattr(masked_group, "os", SimpleNamespace(urandom=lambda size: bytes(range(size))))


def logged(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> tuple[list[bytes], NDArray[np.float32]]:
    """A run of learners a, b and c: the updates that reached the leader, as files, and the model that it came to."""
    kept: dict[int, tuple[PayloadReader, bytearray]] = {}
    feed = Uploads.feed

    async def keeping(self: Uploads, reader: PayloadReader, chunk: memoryview) -> None:
        kept.setdefault(id(reader), (reader, bytearray()))[1].extend(chunk)
        await feed(self, reader, chunk)

    monkeypatch.setattr(Uploads, "feed", keeping)

    async def scenario(cluster: Any) -> None:
        for name in "abc":
            join(cluster, name, task=PICTURES["model.task"], data=f"picture-{name}")
        await cluster.finished()

    run = play(scenario, settings)
    return [bytes(content) for _, content in kept.values()], run.vector


def tensors(file: bytes) -> Mapping[str, NDArray[Any]]:
    reader = PayloadReader(max_bytes=len(file), header_bytes=len(file))
    reader.feed(file)
    return reader.finish().arrays()


def attacked(weight: NDArray[Any], bias: NDArray[Any]) -> Image:
    """The input of a linear layer: each row of its gradient is the input times that of the row's bias."""
    row = np.abs(bias).argmax()
    return np.asarray(weight[row] / float(bias[row]), np.float64)


def psnr(image: Image, truth: Image) -> float:
    return -10 * math.log10(float(np.square(image - truth).mean()) + 1e-30)


def correlation(one: Image, other: Image) -> float:
    return abs(float(np.corrcoef(one, other)[0, 1]))


def test_from_plain_updates_the_leader_has_every_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = logged(monkeypatch, PICTURES)
    images = [attacked(tensors(file)["weight"], tensors(file)["bias"]) for file in files]
    best = {name: max(psnr(image, picture(name)) for image in images) for name in "abc"}
    assert len(images) == 3
    assert min(best.values()) > 90, best  # dB; above 40 nobody sees a difference


def test_from_masked_updates_it_has_none_though_their_sum_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    _, plain = logged(monkeypatch, PICTURES)
    fix_keys(monkeypatch)
    files, model = logged(monkeypatch, MASKED)
    assert np.abs(model - plain).max() < 1e-5
    assert len(files) == 3
    layout, bound = Layout.of(Picture().build_model(0)), 4.9 / math.sqrt(PIXELS)  # p = 1e-6
    read: list[Callable[[NDArray[np.int32]], NDArray[np.float64]]] = [
        lambda words: words / Ring(32, 3, 8.0).scale,  # as an update of its own
        lambda words: words.view(np.uint32).astype(np.float64),
        lambda words: (words & 0xFFFF).astype(np.float64),  # of what low bits might tell
    ]
    for file in files:
        words = tensors(file)[VALUES]
        for values in (reading(words) for reading in read):
            rows = _cut(layout, values)
            images = [attacked(rows["weight"], rows["bias"]), *rows["weight"]]
            for image, name in ((image, name) for image in images for name in "abc"):
                assert correlation(image, picture(name)) < bound


def _cut(layout: Layout, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {
        entry.name: values[entry.start : entry.start + entry.size].reshape(entry.shape)
        for entry in layout.parameters
    }
