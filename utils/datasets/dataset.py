"""A labelled set of images held as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError

#: Up to this many bytes of images a fingerprint covers all of them, above it an even sample.
FULL_HASH_BYTES = 1 << 30
SAMPLED_IMAGES = 4096


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels; images stay uint8 and may be memory-mapped.

    Raises DataError when shapes or dtypes are others than stated, or a label has no class.
    """

    name: str  # as printed everywhere, such as "CIFAR-10"
    images: NDArray[np.uint8]  # (N, 3, H, W)
    labels: NDArray[np.int64]  # (N,), each in 0..len(classes)-1
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3 or self.images.dtype != np.uint8:
            raise DataError(
                f"{self.name}: images are {self.images.dtype} {self.images.shape}; "
                "they must be uint8 (N, 3, H, W)"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise DataError(
                f"{self.name}: labels are {self.labels.dtype} {self.labels.shape}; "
                f"they must be int64 ({len(self.images)},), one an image"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"{self.name}: labels run from {self.labels.min()} to {self.labels.max()}; "
                f"its {len(self.classes)} classes are 0 to {len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, n: int) -> Dataset:
        """The first `n` examples (all if there are fewer); 0 = all."""
        if n == 0:
            return self
        return Dataset(self.name, self.images[:n], self.labels[:n], self.classes)

    def fingerprint(self) -> str:
        """Hex SHA-256 over shape, class names, labels and images.

        Of more than 1 GiB of images, 4096 evenly spaced ones stand for all.
        """
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        images = self.images
        if images.nbytes > FULL_HASH_BYTES:
            count = min(SAMPLED_IMAGES, len(images))
            images = images[np.arange(count) * len(images) // count]
        digest.update(np.ascontiguousarray(images).data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """A dataset's training and test examples; `test` is None if it comes without."""

    train: Dataset
    test: Dataset | None
