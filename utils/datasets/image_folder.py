"""A tree of class folders with images in them, read into one array."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from utils.datasets.dataset import Dataset, Split
from utils.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"})
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
#: What Pillow raises for a file that it can't decode, or won't because of its size.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
MAX_PIXELS = 50_000_000  # in one image file, decoded
LAYOUT = (
    "expected FOLDER/CLASS/IMAGE.png (or .jpg, ...), "
    "or FOLDER/train/CLASS/IMAGE.png with FOLDER/test/ or FOLDER/val/ beside it"
)


def load_image_folder(folder: Path, size: int = 32) -> Split:
    """Images under `folder`, scaled and centre-cropped to (3, `size`, `size`).

    Layout: one folder a class, at the top or under `train/` and `test/` (or `val/`); without a test
    folder the split's test is None. Classes are in alphabetical order. The examples are in a fixed
    shuffled order, so that the first n of them are a fair sample.
    Raises DataError for another layout, and for an image that can't be read or has more than
    50 million pixels.
    """
    train_folder = folder / "train" if _folders(folder / "train") else folder
    classes = tuple(path.name for path in _folders(train_folder))
    if len(classes) < 2:
        raise DataError(f"{train_folder} has {len(classes)} class folders, at least 2 are needed; {LAYOUT}")
    name = f"image folder {folder.resolve().name}/"
    train = _read(name, train_folder, classes, size)
    if empty := [label for i, label in enumerate(classes) if i not in train.labels]:
        raise DataError(f"{train_folder / empty[0]} has no images; {LAYOUT}")
    test_folders = [folder / kind for kind in ("test", "val") if _folders(folder / kind)]
    if train_folder == folder or not test_folders:
        return Split(train, None)
    if extra := {path.name for path in _folders(test_folders[0])} - set(classes):
        raise DataError(f"{test_folders[0] / min(extra)} is no class of {train_folder}; {LAYOUT}")
    return Split(train, _read(name, test_folders[0], classes, size))


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _read(name: str, folder: Path, classes: Sequence[str], size: int) -> Dataset:
    found = [(path, label) for label, kind in enumerate(classes) for path in _images(folder / kind)]
    if not found:
        raise DataError(f"{folder} has no images in its class folders; {LAYOUT}")
    order = np.argsort(np.random.PCG64(len(found)).random_raw(len(found)), kind="stable")
    found = [found[i] for i in order]
    images = np.empty((len(found), 3, size, size), np.uint8)

    def read_into(row: int) -> None:
        images[row] = _read_image(found[row][0], size)

    # Pillow decodes outside the interpreter lock, so threads share the work.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(read_into, range(len(found))):
            pass
    return Dataset(name, images, np.array([label for _, label in found], np.int64), tuple(classes))


def _read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """One image as (3, size, size)."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path} is {image.width} x {image.height}, more than {MAX_PIXELS} pixels; shrink it"
                )
            if image.mode == "F" or image.mode.startswith("I"):
                raise DataError(
                    f"{path} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits"
                )
            upright = ImageOps.exif_transpose(image).convert("RGB")
            fitted = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    except UNREADABLE as error:
        raise DataError(f"can't read image {path}: {error}; repair or remove it") from error
    return np.asarray(fitted).transpose(2, 0, 1)
