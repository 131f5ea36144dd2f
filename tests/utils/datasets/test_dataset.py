from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from utils.datasets import Dataset
from utils.datasets import dataset as module
from utils.errors import DataError


def numbered(count: int, classes: tuple[str, ...] = ("a", "b")) -> Dataset:
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 3, 2, 2)
    return Dataset("numbered", images, np.arange(count, dtype=np.int64) % 2, classes)


def test_take_keeps_the_first_examples_and_zero_means_all() -> None:
    assert numbered(5).take(2).labels.tolist() == [0, 1]
    assert len(numbered(5).take(0)) == 5
    assert len(numbered(5).take(9)) == 5


def test_fingerprint_is_the_hash_of_shape_classes_labels_and_images() -> None:
    data = numbered(2)
    expected = hashlib.sha256(b"((2, 3, 2, 2), ('a', 'b'))")
    expected.update(bytes(8) + b"\x01" + bytes(7) + bytes(range(24)))
    assert data.fingerprint() == expected.hexdigest()


def test_fingerprint_differs_when_a_pixel_a_label_or_a_class_name_does() -> None:
    data = numbered(4)
    images, labels = data.images.copy(), data.labels.copy()
    images[3, 2, 1, 1] += 1
    labels[3] = 0
    others = [
        Dataset("n", images, data.labels, data.classes),
        Dataset("n", data.images, labels, data.classes),
        Dataset("n", data.images, data.labels, ("b", "a")),
        data.take(3),
    ]
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_fingerprint_of_a_large_set_covers_evenly_spaced_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FULL_HASH_BYTES", 50)
    monkeypatch.setattr(module, "SAMPLED_IMAGES", 3)
    data = numbered(6)
    in_sample, outside = data.images.copy(), data.images.copy()
    in_sample[4] += 1
    outside[5] += 1
    assert Dataset("n", outside, data.labels, data.classes).fingerprint() == data.fingerprint()
    assert Dataset("n", in_sample, data.labels, data.classes).fingerprint() != data.fingerprint()


IMAGES = np.zeros((2, 3, 4, 4), np.uint8)
LABELS = np.array([0, 1], np.int64)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0], LABELS, "they must be uint8"),
        (IMAGES[:, :1], LABELS, "they must be uint8"),
        (IMAGES.astype(np.float32), LABELS, "they must be uint8"),
        (IMAGES, LABELS[:1], "they must be int64"),
        (IMAGES, LABELS.astype(np.int32), "they must be int64"),
        (IMAGES, LABELS + 1, "labels run from 1 to 2"),
        (IMAGES, LABELS - 1, "labels run from -1 to 0"),
    ],
)
def test_wrong_arrays_are_refused(images: NDArray[np.uint8], labels: NDArray[np.int64], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset("wrong", images, labels, ("a", "b"))


def grouped() -> Dataset:
    data = numbered(4)
    groups = np.array([0, 1, 1, 0], np.int64)
    return Dataset("grouped", data.images, data.labels, data.classes, groups, ("x", "y"))


def test_select_and_take_keep_images_labels_and_groups_together() -> None:
    chosen = grouped().select(np.array([3, 1]))
    assert chosen.images[:, 0, 0, 0].tolist() == [36, 12]
    assert chosen.labels.tolist() == [1, 1]
    assert chosen.groups is not None
    assert chosen.groups.tolist() == [0, 1]
    taken = grouped().take(2)
    assert taken.groups is not None
    assert (taken.groups.tolist(), taken.group_names) == ([0, 1], ("x", "y"))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.zeros(3, np.int64), r"groups are int64 \(3,\); they must be int64 \(4,\)"),
        (np.array([0, 1, 2, 0]), r"groups run from 0 to 2; its 2 group_names are 0 to 1"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: NDArray[np.int64], message: str) -> None:
    data = numbered(4)
    with pytest.raises(DataError, match=message):
        Dataset("wrong", data.images, data.labels, data.classes, groups, ("x", "y"))
