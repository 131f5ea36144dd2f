from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from utils.batches import (
    MEAN,
    STD,
    ShardSampler,
    batch_generator,
    crop_and_flip,
    held_out,
    holdout_split,
    normalise,
)
from utils.errors import ConfigError


def random_images(count: int, height: int = 32, width: int = 32) -> Tensor:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


def slow_crop_and_flip(images: Tensor, seed: int, batch: int) -> Tensor:
    """One image after the other, padding and all."""
    out = []
    for image, draw in zip(
        images.numpy(), batch_generator(seed, batch).bit_generator.random_raw(len(images)), strict=True
    ):
        down, right, mirror = int(draw) % 9, int(draw) // 9 % 9, int(draw) // 81 % 2
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)), mode="reflect")
        crop = padded[:, down : down + image.shape[1], right : right + image.shape[2]]
        out.append(crop[:, :, ::-1] if mirror else crop)
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (5, 9), (24, 16)])
def test_crop_and_flip_is_pad_crop_and_mirror_of_each_image(height: int, width: int) -> None:
    images = random_images(200, height, width)
    augmented = crop_and_flip(images, batch_generator(7, 3))
    assert augmented.dtype == torch.uint8
    assert torch.equal(augmented, slow_crop_and_flip(images, 7, 3))


def test_all_crops_and_both_directions_come_up_equally_often() -> None:
    place = torch.arange(32 * 32).view(32, 32)
    row, column = (place // 32).byte(), (place % 32).byte()
    images = torch.stack([row, column, torch.zeros_like(row)]).expand(16_200, 3, 32, 32)
    middle = crop_and_flip(images, batch_generator(0, 0))[:, :2, 16, 16].long()
    # Seen from an even width's pixel 16, a mirrored crop shows the column left of where the plain one shows it.
    counts = torch.bincount((middle[:, 0] - 12) * 10 + middle[:, 1] - 11, minlength=90).view(9, 10)
    assert counts[:, 1:9].min() > 130  # 200 expected: 16,200 / 81
    assert counts[:, 1:9].max() < 270
    assert counts[:, [0, 9]].min() > 60  # 100 expected: reached in one direction only
    assert counts[:, [0, 9]].max() < 140


def test_the_augmentation_of_a_batch_depends_on_seed_and_number_alone() -> None:
    images = random_images(64)
    first = crop_and_flip(images, batch_generator(1, 10))
    assert torch.equal(first, crop_and_flip(images, batch_generator(1, 10)))
    assert not torch.equal(first, crop_and_flip(images, batch_generator(1, 11)))
    assert not torch.equal(first, crop_and_flip(images, batch_generator(2, 10)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalise_gives_zero_mean_and_unit_deviation_of_cifar10(channels_last: bool) -> None:
    images = random_images(8)
    out = normalise(images, channels_last=channels_last)
    expected = (images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-6)
    assert out.dtype == torch.float32
    memory = torch.channels_last if channels_last else torch.contiguous_format
    assert out.is_contiguous(memory_format=memory)


@given(
    examples=st.integers(1, 300),
    batch_size=st.integers(1, 400),
    seed=st.integers(0, 2**62),
    epoch=st.integers(0, 9),
)
def test_an_epoch_holds_every_example_once_in_even_batches(
    examples: int, batch_size: int, seed: int, epoch: int
) -> None:
    sampler = ShardSampler(examples, batch_size, seed)
    count = sampler.batches_per_epoch
    batches = [sampler.indices(epoch * count + i) for i in range(count)]
    assert count == -(-examples // batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(examples))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_any_batch_can_be_asked_for_at_any_time() -> None:
    forward = ShardSampler(1_000, 64, seed=5)
    in_order = [forward.indices(batch).tolist() for batch in range(48)]
    backward = ShardSampler(1_000, 64, seed=5)
    assert [backward.indices(batch).tolist() for batch in reversed(range(48))] == in_order[::-1]


def test_epochs_and_seeds_have_different_orders() -> None:
    sampler = ShardSampler(100, 100, seed=5)
    orders = [sampler.indices(0), sampler.indices(1), ShardSampler(100, 100, seed=6).indices(0)]
    assert len({tuple(order.tolist()) for order in orders}) == 3


def test_the_order_is_the_same_on_every_machine() -> None:
    assert ShardSampler(10, 4, seed=0).indices(4).tolist() == [3, 1, 7]


@pytest.mark.parametrize(("examples", "batch_size"), [(0, 4), (4, 0)])
def test_an_empty_shard_or_batch_is_refused(examples: int, batch_size: int) -> None:
    with pytest.raises(
        ConfigError, match=f"a shard of {examples} examples can't give batches of {batch_size}"
    ):
        ShardSampler(examples, batch_size, seed=0)


@pytest.mark.parametrize(
    ("examples", "fraction", "kept"),
    [(50, 0.1, 5), (9, 0.1, 0), (10, 0.9, 9), (2, 0.9, 1), (1, 0.9, 0), (0, 0.5, 0), (1000, 0.0, 0)],
)
def test_the_share_held_out_is_rounded_down_and_leaves_one_to_train_on(
    examples: int, fraction: float, kept: int
) -> None:
    assert held_out(examples, fraction) == kept


@given(examples=st.integers(1, 3_000), fraction=st.floats(0, 0.9), seed=st.integers(0, 2**62))
def test_a_split_has_every_example_once_in_ascending_order(examples: int, fraction: float, seed: int) -> None:
    trained, held = holdout_split(examples, fraction, seed)
    assert len(held) == held_out(examples, fraction)
    assert sorted([*trained.tolist(), *held.tolist()]) == list(range(examples))
    assert trained.tolist() == sorted(trained.tolist())
    assert held.tolist() == sorted(held.tolist())


def test_the_split_is_the_same_on_every_machine_and_another_for_another_part() -> None:
    trained, held = holdout_split(10, 0.3, seed=0)
    assert (trained.tolist(), held.tolist()) == ([0, 3, 4, 5, 6, 8, 9], [1, 2, 7])
    assert holdout_split(1_000, 0.3, seed=1)[1].tolist() != holdout_split(1_000, 0.3, seed=2)[1].tolist()


def test_a_larger_share_holds_out_what_a_smaller_one_did_and_more() -> None:
    few, more = (set(holdout_split(100, fraction, seed=5)[1].tolist()) for fraction in (0.1, 0.4))
    assert few < more
