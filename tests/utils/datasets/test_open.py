from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.datasets import open_dataset, save_dataset
from utils.datasets.cifar10 import BINARY_FOLDER
from utils.errors import DataError


def write_cifar10(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        record = np.full(3073, number, np.uint8)
        (folder / f"{name}.bin").write_bytes(record.tobytes())


def test_cifar10_is_taken_from_the_cache(tmp_path: Path) -> None:
    write_cifar10(tmp_path / BINARY_FOLDER)
    split = open_dataset("cifar10", tmp_path, download=False)
    assert split.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert split.test is not None
    assert split.test.labels.tolist() == [5]


def test_every_source_is_cut_as_asked(tmp_path: Path) -> None:
    write_cifar10(tmp_path / BINARY_FOLDER)
    for number, path in enumerate(["train/a/0.png", "train/b/1.png", "test/a/2.png", "test/b/3.png"]):
        (tmp_path / "tree" / path).parent.mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(tmp_path / "tree" / path)
    sources = ["synthetic", "cifar10", str(tmp_path / BINARY_FOLDER), str(tmp_path / "tree")]
    for split in (open_dataset(source, tmp_path, cut=(1, 1)) for source in sources):
        assert split.test is not None
        assert (len(split.train), len(split.test)) == (1, 1)
    save_dataset(split.train, tmp_path / "one.safetensors")
    assert len(open_dataset(str(tmp_path / "one.safetensors"), tmp_path, cut=(1, 1)).train) == 1


def test_cifar10_that_is_nowhere_is_an_error_when_downloads_are_off(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no CIFAR-10 in .*--data DIR, or use --data synthetic"):
        open_dataset("cifar10", tmp_path, download=False)


@pytest.mark.parametrize("inner", ["", BINARY_FOLDER])
def test_a_folder_with_cifar10_is_opened_as_such(tmp_path: Path, inner: str) -> None:
    write_cifar10(tmp_path / "some" / BINARY_FOLDER)
    split = open_dataset(str(tmp_path / "some" / inner), tmp_path / "unused")
    assert split.train.name == "CIFAR-10"
    assert len(split.train) == 5


def test_another_folder_is_opened_as_an_image_tree_at_the_size_asked(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (50, 50)).save(tmp_path / name / "i.png")
    split = open_dataset(str(tmp_path), tmp_path, size=24)
    assert split.train.images.shape == (2, 3, 24, 24)
    assert split.train.classes == ("a", "b")


def test_synthetic_is_drawn(tmp_path: Path) -> None:
    split = open_dataset("synthetic", tmp_path)
    assert (split.train.name, len(split.train)) == ("synthetic shapes (drawn, not photos)", 20_000)


def test_a_source_that_is_nothing_says_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset 'cifar11': .* use cifar10, synthetic, a folder"):
        open_dataset("cifar11", tmp_path)
