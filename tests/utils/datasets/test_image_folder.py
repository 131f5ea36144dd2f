from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from utils.datasets import image_folder, load_image_folder
from utils.errors import DataError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def write_image(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write_class(folder: Path, colour: tuple[int, int, int], count: int) -> None:
    for i in range(count):
        write_image(folder / f"{i}.png", colour)


def test_class_folders_become_labels_in_alphabetical_order(tmp_path: Path) -> None:
    write_class(tmp_path / "flowers" / "tulip", RED, 3)
    write_class(tmp_path / "flowers" / "daisy", GREEN, 2)
    write_image(tmp_path / "flowers" / "rose" / "deeper" / "r.JPEG", BLUE)
    (tmp_path / "flowers" / "rose" / "notes.txt").write_text("no image")
    (tmp_path / "flowers" / ".cache").mkdir()
    split = load_image_folder(tmp_path / "flowers")
    assert split.test is None
    assert split.train.name == "image folder flowers/"
    assert split.train.classes == ("daisy", "rose", "tulip")
    assert split.train.images.shape == (6, 3, 32, 32)
    strongest = split.train.images.astype(int).sum(axis=(2, 3)).argmax(axis=1)
    assert split.train.labels.tolist() == [{0: 2, 1: 0, 2: 1}[channel] for channel in strongest]
    assert np.bincount(split.train.labels).tolist() == [2, 1, 3]


@pytest.mark.parametrize("kind", ["test", "val"])
def test_train_and_test_folders_become_the_two_splits(tmp_path: Path, kind: str) -> None:
    write_class(tmp_path / "train" / "a", RED, 3)
    write_class(tmp_path / "train" / "b", GREEN, 3)
    write_class(tmp_path / kind / "b", GREEN, 2)
    split = load_image_folder(tmp_path)
    assert len(split.train) == 6
    assert split.test is not None
    assert split.test.labels.tolist() == [1, 1]
    assert split.test.classes == ("a", "b")


def test_examples_are_shuffled_the_same_each_time(tmp_path: Path) -> None:
    write_class(tmp_path / "a", RED, 20)
    write_class(tmp_path / "b", GREEN, 20)
    first, second = load_image_folder(tmp_path).train, load_image_folder(tmp_path).train
    assert first.fingerprint() == second.fingerprint()
    assert 4 <= first.take(20).labels.sum() <= 16


def test_a_wide_image_is_scaled_and_cropped_at_its_centre(tmp_path: Path) -> None:
    write_class(tmp_path / "other", BLUE, 1)
    pixels = np.zeros((64, 192, 3), np.uint8)
    pixels[:, :64], pixels[:, 64:128], pixels[:, 128:] = RED, GREEN, RED
    (tmp_path / "wide").mkdir()
    Image.fromarray(pixels).save(tmp_path / "wide" / "w.png")
    data = load_image_folder(tmp_path, size=16).train
    image = data.images[data.labels == 1][0]
    assert image.shape == (3, 16, 16)
    assert (image[:, :, 1:-1].transpose(1, 2, 0) == GREEN).all()


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    write_class(tmp_path / "other", BLUE, 1)
    (tmp_path / "x").mkdir()
    Image.new("L", (8, 8), 77).save(tmp_path / "x" / "grey.png")
    Image.new("RGB", (8, 8), (77, 77, 77)).convert("P").save(tmp_path / "x" / "palette.png")
    Image.new("RGBA", (8, 8), (77, 77, 77, 9)).save(tmp_path / "x" / "transparent.png")
    data = load_image_folder(tmp_path, size=8).train
    assert np.abs(data.images[data.labels == 1].astype(int) - 77).max() <= 26  # the palette is coarse


def test_a_rotated_photo_is_put_upright(tmp_path: Path) -> None:
    write_class(tmp_path / "other", BLUE, 1)
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = RED
    (tmp_path / "x").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    Image.fromarray(pixels).save(tmp_path / "x" / "p.png", exif=exif)
    data = load_image_folder(tmp_path, size=16).train
    image = data.images[data.labels == 1][0]
    assert image[0, 12].tolist() == [255] * 16
    assert image[0, 3].tolist() == [0] * 16


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nbroken", b"<svg/>"])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    write_class(tmp_path / "a", RED, 2)
    write_class(tmp_path / "b", RED, 2)
    (tmp_path / "b" / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"can't read image .*bad\.png: .*; repair or remove it"):
        load_image_folder(tmp_path)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    write_class(tmp_path / "a", RED, 1)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "b").mkdir()
    Image.fromarray(noise).save(tmp_path / "b" / "cut.jpg")
    content = (tmp_path / "b" / "cut.jpg").read_bytes()
    (tmp_path / "b" / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"can't read image .*cut\.jpg"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize(
    ("owner", "limit", "pixels", "message"),
    [
        (image_folder, "MAX_PIXELS", 10_000, r"bomb\.png is 101 x 100, more than 10000 pixels"),
        (Image, "MAX_IMAGE_PIXELS", 2_000, r"can't read image .*bomb\.png"),  # Pillow's own check
    ],
)
def test_an_image_with_too_many_pixels_is_refused_undecoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: ModuleType, limit: str, pixels: int, message: str
) -> None:
    write_class(tmp_path / "a", RED, 1)
    write_image(tmp_path / "b" / "bomb.png", RED, (101, 100))
    monkeypatch.setattr(owner, limit, pixels)
    with pytest.raises(DataError, match=message):
        load_image_folder(tmp_path)


def test_sixteen_bit_images_are_refused_instead_of_clipped(tmp_path: Path) -> None:
    write_class(tmp_path / "a", RED, 1)
    (tmp_path / "b").mkdir()
    Image.fromarray(np.full((8, 8), 30_000, np.uint16)).save(tmp_path / "b" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits a channel"):
        load_image_folder(tmp_path)


def test_other_layouts_are_refused_with_the_expected_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 0 class folders.*expected FOLDER/CLASS/IMAGE"):
        load_image_folder(tmp_path)
    write_class(tmp_path / "a", RED, 1)
    with pytest.raises(DataError, match=r"has 1 class folders.*expected FOLDER/CLASS/IMAGE"):
        load_image_folder(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="b has no images; expected FOLDER/CLASS/IMAGE"):
        load_image_folder(tmp_path)


def test_a_test_class_unknown_in_training_is_refused(tmp_path: Path) -> None:
    write_class(tmp_path / "train" / "a", RED, 1)
    write_class(tmp_path / "train" / "b", RED, 1)
    write_class(tmp_path / "test" / "c", RED, 1)
    with pytest.raises(DataError, match=r"c is no class of"):
        load_image_folder(tmp_path)


def write_groups(folder: Path) -> None:
    write_class(folder / "north" / "cat", RED, 3)
    write_class(folder / "north" / "dog", GREEN, 2)
    write_class(folder / "south" / "ant", BLUE, 4)
    write_class(folder / "south" / "dog" / "deeper", GREEN, 1)


def test_folders_of_class_folders_are_groups_that_share_the_classes(tmp_path: Path) -> None:
    write_groups(tmp_path)
    data = load_image_folder(tmp_path).train
    assert data.classes == ("ant", "cat", "dog")
    assert data.group_names == ("north", "south")
    assert data.groups is not None
    pairs = sorted(zip(data.groups.tolist(), data.labels.tolist(), strict=True))
    assert pairs == [(0, 1)] * 3 + [(0, 2)] * 2 + [(1, 0)] * 4 + [(1, 2)]
    strongest = data.images.astype(int).sum(axis=(2, 3)).argmax(axis=1)
    assert data.labels.tolist() == [{0: 1, 1: 2, 2: 0}[channel] for channel in strongest]


@pytest.mark.parametrize("grouped", [False, True])
def test_test_images_of_grouped_training_may_be_grouped_or_not(tmp_path: Path, grouped: bool) -> None:
    write_groups(tmp_path / "train")
    write_class(tmp_path / "test" / ("east" if grouped else "") / "dog", GREEN, 2)
    test = load_image_folder(tmp_path).test
    assert test is not None
    assert (test.classes, test.labels.tolist()) == (("ant", "cat", "dog"), [2, 2])
    assert test.group_names == (("east",) if grouped else ())


def test_a_class_whose_images_lie_deeper_is_no_group(tmp_path: Path) -> None:
    for kind in ("a", "b"):  # as in Tiny ImageNet
        write_class(tmp_path / kind / "images", RED, 1)
    data = load_image_folder(tmp_path).train
    assert (data.classes, data.groups) == (("a", "b"), None)


def test_a_group_without_images_is_refused(tmp_path: Path) -> None:
    write_groups(tmp_path)
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match=r"notes has no images; expected .*GROUP/CLASS"):
        load_image_folder(tmp_path)


def test_a_class_without_images_in_any_group_is_refused(tmp_path: Path) -> None:
    write_groups(tmp_path)
    (tmp_path / "south" / "eel").mkdir()
    with pytest.raises(DataError, match=r"class eel has no images; expected"):
        load_image_folder(tmp_path)
