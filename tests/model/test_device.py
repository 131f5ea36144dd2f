from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.device import Placement, choose_device, memory_bytes
from model.image_classification import ImageClassification, PlacedImages, Shard
from utils.batches import batch_generator
from utils.errors import ConfigError

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
MEMINFO = Path("/proc/meminfo")


def test_auto_is_a_device_that_this_machine_has() -> None:
    device = choose_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else device.type)
    assert torch.ones(2, device=device).sum().item() == 2


def test_a_device_is_taken_by_its_name() -> None:
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_there_is_an_error_of_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--device {name}: not usable on this machine") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("use auto or cpu")


@pytest.mark.skipif(not MEMINFO.exists(), reason="Linux tells its memory there")
def test_the_cpu_has_the_memory_of_the_machine() -> None:
    match = re.search(r"MemTotal:\s+(\d+) kB", MEMINFO.read_text())
    assert match is not None
    assert memory_bytes(torch.device("cpu")) == int(match[1]) * 1024


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_has_its_own_memory() -> None:
    assert memory_bytes(torch.device("cuda")) == torch.cuda.mem_get_info(0)[1]


def test_a_device_that_does_not_say_has_none() -> None:
    assert memory_bytes(torch.device("meta")) == 0


def shard(count: int = 12) -> Shard:
    draws = np.random.Generator(np.random.PCG64(0))
    return Shard(draws.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8), np.arange(count) % 3)


@dataclass(frozen=True)
class Counting(ImageClassification):
    """Keeps what it was asked to place."""

    asked: list[Any] = field(default_factory=list)

    def place(self, examples: Any, device: torch.device, most_bytes: int) -> PlacedImages | None:
        self.asked.append(examples)
        return super().place(examples, device, most_bytes)


def make(task: ImageClassification, examples: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return task.make_batch(examples, np.array([1, 4, 5, 11]), batch_generator(7, 3))


def check_same_batches(device: torch.device) -> None:
    task, here = ImageClassification(), shard()
    there = task.place(here, device, 1 << 20)
    assert there is not None
    images, labels = make(task, there)
    assert images.device.type == labels.device.type == device.type
    for made, expected in zip((images, labels), make(task, here), strict=True):
        assert torch.equal(made.cpu(), expected)


def test_batches_of_placed_images_are_those_of_the_same_images() -> None:
    check_same_batches(CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_made_on_cuda_are_those_made_here() -> None:
    check_same_batches(torch.device("cuda"))


def test_examples_that_come_again_are_placed_once() -> None:
    task, first, second = Counting(), shard(), shard(5)
    placement = Placement(ELSEWHERE, 1 << 20)
    placed = [placement.of(task, examples) for examples in (first, first, second, first)]
    assert [asked is first for asked in task.asked] == [True, False, True]
    assert placed[0] is placed[1]
    assert [len(each) for each in placed] == [12, 12, 5, 12]
    assert {each.images.device.type for each in placed} == {"meta"}


def test_what_is_too_large_for_the_device_stays_here() -> None:
    task, examples = Counting(), shard()
    size = 12 * (3 * 8 * 8 + 8)
    assert isinstance(Placement(ELSEWHERE, size).of(task, examples), PlacedImages)
    tight = Placement(ELSEWHERE, size - 1)
    assert tight.of(task, examples) is examples
    assert tight.of(task, examples) is examples
    assert len(task.asked) == 2  # it was not tried a second time


def test_a_task_that_inherits_place_and_makes_batches_of_its_own_keeps_its_examples() -> None:
    class Own(ImageClassification):
        def make_batch(self, examples: Any, indices: Any, rng: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.from_numpy(examples.images[indices]), torch.from_numpy(examples.labels[indices])

    examples = shard()
    assert Placement(ELSEWHERE, 1 << 20).of(Own(), examples) is examples


def test_on_a_cpu_nothing_is_moved() -> None:
    task, examples = Counting(), shard()
    assert Placement(CPU).of(task, examples) is examples
    assert task.asked == []


def test_a_task_that_can_not_place_keeps_its_examples() -> None:
    class Plain:
        """As a user's task is."""

    examples = shard()
    assert Placement(ELSEWHERE, 1 << 20).of(Plain(), examples) is examples  # type: ignore[arg-type]
