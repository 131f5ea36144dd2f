from __future__ import annotations

import numpy as np
import pytest

from utils.datasets import synthetic_shapes
from utils.datasets.synthetic import CHUNK


def test_the_bits_are_the_same_on_every_machine() -> None:
    split = synthetic_shapes(train=600, test=100)
    assert split.test is not None
    assert split.train.fingerprint() == "6f6f542f1a958dab100750e578b9237955172ac6bb04cff23dea63ace9ba2726"
    assert split.test.fingerprint() == "bbd70611f550aa2424cda5207323c024f98c945e41dbf0db316206e59f77dd3a"


def test_seeds_and_splits_differ() -> None:
    first, second = synthetic_shapes(64, 64, seed=0), synthetic_shapes(64, 64, seed=1)
    assert first.test is not None
    prints = {first.train.fingerprint(), first.test.fingerprint(), second.train.fingerprint()}
    assert len(prints) == 3


@pytest.mark.parametrize("cut", [(1, CHUNK), (CHUNK + 1, 0), (600, 599), (1000, 1000)])
def test_the_first_images_of_many_are_drawn_alone(cut: tuple[int, int]) -> None:
    whole, some = synthetic_shapes(600, 600), synthetic_shapes(600, 600, cut=cut)
    for split, of, first in zip((some.train, some.test), (whole.train, whole.test), cut, strict=True):
        assert split is not None
        assert of is not None
        assert len(split) == min(first or 600, 600)
        assert split.fingerprint() == of.take(first).fingerprint()


def test_sizes_types_and_classes_are_as_asked() -> None:
    split = synthetic_shapes(train=2_000, test=0)
    assert split.train.images.shape == (2_000, 3, 32, 32)
    assert split.test is not None
    assert len(split.test) == 0
    assert len(split.train.classes) == 10
    counts = np.bincount(split.train.labels, minlength=10)
    assert counts.min() > 150
    assert counts.max() < 250


def test_pixels_do_not_give_the_class_away_without_looking_at_shape() -> None:
    split = synthetic_shapes(train=4_000, test=1_000)
    assert split.test is not None
    images = split.train.images.reshape(4_000, -1).astype(np.float32) / 255
    means = np.stack([images[split.train.labels == label].mean(axis=0) for label in range(10)])
    test = split.test.images.reshape(1_000, -1).astype(np.float32) / 255
    nearest = (test @ means.T - (means**2).sum(axis=1) / 2).argmax(axis=1)
    assert (nearest == split.test.labels).mean() < 0.3
