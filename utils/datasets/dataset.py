"""A labelled set of images held as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError

#: Up to this many bytes of images a fingerprint covers all of them, above it an even sample.
FULL_HASH_BYTES = 1 << 30
SAMPLED_IMAGES = 4096


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels; images stay uint8 and may be memory-mapped.

    Groups say where each example is from (a clinic, a writer), where that is known.
    Raises DataError when shapes or dtypes are others than stated, or a label has no class, a group no name.
    """

    name: str  # as printed everywhere, such as "CIFAR-10"
    images: NDArray[np.uint8]  # (N, 3, H, W)
    labels: NDArray[np.int64]  # (N,), each in 0..len(classes)-1
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None = None  # (N,), each in 0..len(group_names)-1
    group_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3 or self.images.dtype != np.uint8:
            raise DataError(
                f"{self.name}: images are {self.images.dtype} {self.images.shape}; "
                "they must be uint8 (N, 3, H, W)"
            )
        self._check("labels", self.labels, "classes", self.classes)
        if self.groups is not None:
            self._check("groups", self.groups, "group_names", self.group_names)

    def _check(self, what: str, numbers: NDArray[np.int64], kinds: str, names: tuple[str, ...]) -> None:
        if numbers.shape != self.images.shape[:1] or numbers.dtype != np.int64:
            raise DataError(
                f"{self.name}: {what} are {numbers.dtype} {numbers.shape}; "
                f"they must be int64 ({len(self.images)},), one an image"
            )
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(names):
            raise DataError(
                f"{self.name}: {what} run from {numbers.min()} to {numbers.max()}; "
                f"its {len(names)} {kinds} are 0 to {len(names) - 1}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, n: int) -> Dataset:
        """The first `n` examples (all if there are fewer); 0 = all."""
        return self if n == 0 else self.select(slice(n))

    def select(self, which: slice | NDArray[np.int64]) -> Dataset:
        """The examples of a slice, or at these indices (n,)."""
        groups = None if self.groups is None else self.groups[which]
        return replace(self, images=self.images[which], labels=self.labels[which], groups=groups)

    def fingerprint(self) -> str:
        """Hex SHA-256 over shape, class names, labels and images; not over groups.

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
