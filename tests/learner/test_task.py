from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learner.task import ImageClassification, Shard
from protos import leader_pb2
from utils.batches import normalise

CPU = torch.device("cpu")
EXAMPLES = 10


def shard() -> Shard:
    generator = np.random.Generator(np.random.PCG64(0))
    return Shard(generator.integers(0, 256, (EXAMPLES, 3, 8, 8), dtype=np.uint8), np.arange(EXAMPLES) % 3)


def task(augment: str = "none", seed: int = 7, smoothing: float = 0.0) -> ImageClassification:
    order = leader_pb2.WorkOrder(seed=seed, batch_size=4, augment=augment, label_smoothing=smoothing)
    return ImageClassification(shard(), order, CPU, channels_last=False)


class Watching(nn.Module):
    """Keeps the inputs that it was given; its logits are the mean of each colour."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.inputs.append(images)
        return images.mean((2, 3))


def inputs(these: ImageClassification, *batches: int) -> list[bytes]:
    module = Watching()
    for batch in batches:
        these.loss(module, batch)
    return [images.numpy().tobytes() for images in module.inputs]


def test_each_pass_shows_every_example_once() -> None:
    whole = normalise(torch.from_numpy(shard().images), channels_last=False)
    expected = sorted(image.numpy().tobytes() for image in whole)
    for first in (0, 3, 6):
        module = Watching()
        counts = [task().loss(module, first + i)[1] for i in range(3)]
        assert counts == [4, 3, 3]
        assert sorted(image.numpy().tobytes() for batch in module.inputs for image in batch) == expected


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_cross_entropy_of_images_and_their_own_labels(smoothing: float) -> None:
    logits = normalise(torch.from_numpy(shard().images), channels_last=False).mean((2, 3)).double()
    target = torch.eye(3, dtype=torch.float64)[torch.from_numpy(shard().labels)]
    target = (1 - smoothing) * target + smoothing / 3
    losses = -(target * logits.log_softmax(1)).sum(1)
    total = 0.0
    for batch in range(3):
        loss, count = task(smoothing=smoothing).loss(Watching(), batch)
        total += float(loss) * count
    assert total == pytest.approx(float(losses.sum()), rel=1e-5)


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_a_batch_is_the_same_whatever_was_asked_for_before(augment: str) -> None:
    in_order = inputs(task(augment), *range(6))
    assert inputs(task(augment), 5, 0, 3) == [in_order[5], in_order[0], in_order[3]]
    assert len(set(in_order)) == 6
    assert set(inputs(task(augment, seed=8), *range(6))).isdisjoint(in_order)


def test_augmentation_changes_the_images_and_not_which_they_are() -> None:
    plain, cropped = Watching(), Watching()
    assert task("none").loss(plain, 0)[1] == task("standard").loss(cropped, 0)[1]
    assert plain.inputs[0].shape == cropped.inputs[0].shape
    assert not torch.equal(plain.inputs[0], cropped.inputs[0])
    # Reflected pixels repeat values of the image, so each crop holds no value that its image lacks.
    for original, crop in zip(plain.inputs[0], cropped.inputs[0], strict=True):
        assert set(crop.ravel().tolist()) <= set(original.ravel().tolist())


def test_a_shard_is_as_long_as_its_labels() -> None:
    assert len(shard()) == EXAMPLES
