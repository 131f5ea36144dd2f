from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from model.image_classification import ImageClassification, Shard
from utils.batches import ShardSampler, batch_generator, normalise
from utils.errors import DataError

EXAMPLES = 10


def shard() -> Shard:
    generator = np.random.Generator(np.random.PCG64(0))
    return Shard(generator.integers(0, 256, (EXAMPLES, 3, 8, 8), dtype=np.uint8), np.arange(EXAMPLES) % 3)


def task(*, augment: bool = False, smoothing: float = 0.0) -> ImageClassification:
    return ImageClassification(augment=augment, label_smoothing=smoothing, channels_last=False)


class Watching(nn.Module):
    """Keeps the inputs that it was given; its logits are the mean of each colour."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.inputs.append(images)
        return images.mean((2, 3))


def batch(number: int, *, augment: bool = False, seed: int = 7) -> tuple[Tensor, Tensor]:
    """Batch `number` of the shard in batches of 4."""
    indices = np.sort(ShardSampler(EXAMPLES, 4, seed).indices(number))
    return task(augment=augment).make_batch(shard(), indices, batch_generator(seed, number))


def bits(*numbers: int, augment: bool = False, seed: int = 7) -> list[bytes]:
    return [batch(number, augment=augment, seed=seed)[0].numpy().tobytes() for number in numbers]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_cross_entropy_of_images_and_their_own_labels(smoothing: float) -> None:
    logits = normalise(torch.from_numpy(shard().images), channels_last=False).mean((2, 3)).double()
    target = torch.eye(3, dtype=torch.float64)[torch.from_numpy(shard().labels)]
    target = (1 - smoothing) * target + smoothing / 3
    losses = -(target * logits.log_softmax(1)).sum(1)
    total = 0.0
    for number in range(3):
        images, labels = batch(number)
        total += float(task(smoothing=smoothing).loss(Watching(), (images, labels))) * len(labels)
    assert total == pytest.approx(float(losses.sum()), rel=1e-5)


def test_metrics_are_accuracy_and_the_loss_without_smoothing() -> None:
    chosen = task(smoothing=0.3).make_batch(shard(), np.arange(EXAMPLES), None)
    metrics = task(smoothing=0.3).metrics(Watching(), chosen)
    logits = normalise(torch.from_numpy(shard().images), channels_last=False).mean((2, 3))
    right = (logits.argmax(1).numpy() == shard().labels).sum()
    assert metrics["accuracy"] == right / EXAMPLES
    assert metrics["loss"] == pytest.approx(float(task().loss(Watching(), chosen)), rel=1e-6)


@pytest.mark.parametrize("augment", [False, True])
def test_a_batch_is_the_same_whatever_was_asked_for_before(augment: bool) -> None:
    in_order = bits(*range(6), augment=augment)
    assert bits(5, 0, 3, augment=augment) == [in_order[5], in_order[0], in_order[3]]
    assert len(set(in_order)) == 6
    assert set(bits(*range(6), augment=augment, seed=8)).isdisjoint(in_order)


def test_augmentation_changes_the_images_and_not_which_they_are() -> None:
    (plain, labels), (cropped, same) = batch(0), batch(0, augment=True)
    assert torch.equal(labels, same)
    assert plain.shape == cropped.shape
    assert not torch.equal(plain, cropped)
    # Reflected pixels repeat values of the image, so each crop holds no value that its image lacks.
    for original, crop in zip(plain, cropped, strict=True):
        assert set(crop.ravel().tolist()) <= set(original.ravel().tolist())


def test_without_random_numbers_nothing_is_augmented() -> None:
    images, labels = task(augment=True).make_batch(shard(), np.arange(EXAMPLES), None)
    assert torch.equal(images, torch.from_numpy(shard().images))
    assert torch.equal(labels, torch.from_numpy(shard().labels))


def test_the_model_is_that_of_the_registry_by_its_seed() -> None:
    wanted = ImageClassification(model="resnet20", norm="group", classes=7)
    one, same, other = (wanted.build_model(seed) for seed in (1, 1, 2))
    assert one(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    vectors = [nn.utils.parameters_to_vector(module.parameters()) for module in (one, same, other)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


def test_data_is_the_split_that_is_asked_for(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for number in range(count):
            path = tmp_path / split / f"class-{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(path)
    train, test = (task().open_data(tmp_path, train=train) for train in (True, False))
    assert train is not None
    assert test is not None
    assert (len(train), len(test)) == (4, 2)
    with pytest.raises(DataError, match="name it with --data DIR"):
        task().open_data(None, train=True)


def test_a_shard_is_as_long_as_its_labels() -> None:
    assert len(shard()) == EXAMPLES
