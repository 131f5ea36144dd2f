"""Whole batches: which examples they hold, and their images as the tensors a model takes."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.errors import ConfigError
from utils.seeds import derive_seed

#: Per-channel mean and deviation of CIFAR-10's training images in units of 255; used for every
#: dataset, so that a model's input scale doesn't depend on which shard a learner happens to hold.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

# (3, 1, 1) float32; pixel * _SCALE - _SHIFT is the normalised pixel.
_SCALE = torch.tensor([1 / (255 * std) for std in STD]).view(3, 1, 1)
_SHIFT = torch.tensor([mean / std for mean, std in zip(MEAN, STD, strict=True)]).view(3, 1, 1)

PADDING = 4  # pixels that a crop may be off centre


def normalise(images: Tensor, *, channels_last: bool) -> Tensor:
    """(images / 255 - MEAN) / STD of uint8 (B, 3, H, W), same shape, on the same device."""
    memory = torch.channels_last if channels_last else torch.contiguous_format
    scale, shift = _SCALE.to(images.device), _SHIFT.to(images.device)
    return images.to(torch.float32, memory_format=memory).mul_(scale).sub_(shift)


def crop_and_flip(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Each image padded by 4 pixels of reflection, cropped back at a random place, mirrored half of the time.

    uint8 (B, 3, H, W) to the same; H and W above 4. One 64-bit draw an image, straight from the bit
    generator, so that the crops are the same with every NumPy version.
    """
    count, channels, height, width = images.shape
    choices = 2 * PADDING + 1
    draw = generator.bit_generator.random_raw(count)
    drawn = np.stack([draw % choices, draw // choices % choices, draw // choices**2 % 2]).astype(np.int64)
    # What was drawn travels to the images' device, not the places of all pixels, which are more bytes than the images.
    down, right, mirror = torch.from_numpy(drawn).to(images.device)
    rows, columns = _reflected(height, down), _reflected(width, right)
    columns = torch.where(mirror[:, None] == 1, columns.flip(1), columns)
    # Padding, crop and mirror are one gather: each output pixel knows which input pixel it is.
    source = (rows[:, :, None] * width + columns[:, None, :]).reshape(count, 1, -1)
    pixels = images.reshape(count, channels, -1)
    return pixels.gather(2, source.expand(-1, channels, -1)).view_as(images)


def _reflected(length: int, offset: Tensor) -> Tensor:
    """(B, length) source coordinates of a crop at `offset`, (B,), in an axis padded on both sides by reflection."""
    place = (torch.arange(length, device=offset.device) + offset[:, None] - PADDING).abs_()
    return torch.minimum(place, 2 * (length - 1) - place)


class ShardSampler:
    """Which examples of a shard make up batch number `batch`, counted over all passes.

    Each pass (epoch) is a fresh permutation that depends on seed and epoch alone, so any batch can be
    asked for at any time. It is split evenly, sizes differing by at most 1: no tiny last batch.

    >>> sampler = ShardSampler(examples=10, batch_size=4, seed=0)
    >>> sampler.batches_per_epoch, [len(sampler.indices(batch)) for batch in range(4)]
    (3, [4, 3, 3, 4])

    Raises ConfigError for an empty shard.
    """

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        if examples < 1 or batch_size < 1:
            raise ConfigError(
                f"a shard of {examples} examples can't give batches of {batch_size}; use 1 or more of both"
            )
        self.batches_per_epoch = -(-examples // batch_size)
        self._examples = examples
        self._seed = seed
        self._cached: tuple[int, NDArray[np.int64]] | None = None  # epoch and its order

    def indices(self, batch: int) -> NDArray[np.int64]:
        """Positions in the shard, (batch size,), of the examples in this batch; at most `batch_size`."""
        epoch, part = divmod(batch, self.batches_per_epoch)
        if self._cached is None or epoch != self._cached[0]:
            self._cached = (epoch, self._permutation(epoch))
        size, larger = divmod(self._examples, self.batches_per_epoch)
        start = part * size + min(part, larger)
        return self._cached[1][start : start + size + (part < larger)]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return _permutation(derive_seed(self._seed, "epoch", epoch), self._examples)


def held_out(examples: int, fraction: float) -> int:
    """How many of a part's examples are kept from training; at least one is always trained on.

    >>> held_out(50, 0.1), held_out(9, 0.1), held_out(1, 0.9)
    (5, 0, 0)
    """
    return max(0, min(examples - 1, math.floor(examples * fraction)))


def most_held_out(trained: int, fraction: float) -> int:
    """The most that `held_out` can be of a part of which so many examples are trained on.

    >>> most_held_out(45, 0.1), most_held_out(9, 0.1), most_held_out(1, 0.9)
    (5, 1, 9)
    """
    return math.floor(trained * fraction / (1 - fraction) + 1e-6)


def holdout_split(examples: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(trained, held out): ascending positions in a part; `seed` is the part's, so every round has the same ones."""
    trained = examples - held_out(examples, fraction)
    if trained == examples:
        return np.arange(examples), np.empty(0, np.int64)
    order = _permutation(derive_seed(seed, "holdout"), examples)
    return np.sort(order[:trained]), np.sort(order[trained:])


def _permutation(seed: int, count: int) -> NDArray[np.int64]:
    # NumPy keeps the raw draws of a bit generator the same for ever, but not Generator.permutation.
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def batch_generator(seed: int, batch: int) -> np.random.Generator:
    """The random numbers for augmenting batch number `batch`, whatever was drawn before."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, "batch", batch)))
