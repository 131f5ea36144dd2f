"""A tree of class folders with images in them, or of groups of such, read into one array."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
    "expected FOLDER/CLASS/IMAGE.png (or .jpg, ...), or FOLDER/GROUP/CLASS/IMAGE.png, "
    "or the same under FOLDER/train/ with FOLDER/test/ or FOLDER/val/ beside it"
)


@dataclass(frozen=True)
class _Tree:
    """Which folders of a tree are what."""

    folder: Path
    groups: tuple[str, ...]  # empty where the class folders are at the top
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    path: Path
    label: int
    group: int


def load_image_folder(folder: Path, size: int = 32) -> Split:
    """Images under `folder`, scaled and centre-cropped to (3, `size`, `size`).

    Layout: one folder a class, at the top or under `train/` and `test/` (or `val/`); without a test
    folder the split's test is None. Where no top folder has an image directly in it and the folders in
    them have two or more names, the top folders are natural groups and those names the classes; a group
    may lack some. Classes are in alphabetical order. The examples are in a fixed shuffled order, so that
    the first n of them are a fair sample.
    Raises DataError for another layout, and for an image that can't be read or has more than
    50 million pixels.
    """
    train_folder = folder / "train" if _folders(folder / "train") else folder
    tree = _tree(train_folder)
    if len(tree.classes) < 2:
        raise DataError(
            f"{train_folder} has {len(tree.classes)} class folders, at least 2 are needed; {LAYOUT}"
        )
    name = f"image folder {folder.resolve().name}/"
    train = _read(name, tree, tree.classes, size)
    if empty := [kind for i, kind in enumerate(tree.classes) if i not in train.labels]:
        raise DataError(f"{train_folder}: class {empty[0]} has no images; {LAYOUT}")
    if train.groups is not None and (gaps := set(range(len(tree.groups))) - set(train.groups.tolist())):
        raise DataError(f"{train_folder / tree.groups[min(gaps)]} has no images; {LAYOUT}")
    test_folders = [folder / kind for kind in ("test", "val") if _folders(folder / kind)]
    if train_folder == folder or not test_folders:
        return Split(train, None)
    test_tree = _test_tree(test_folders[0], tree)
    if extra := set(test_tree.classes) - set(tree.classes):
        raise DataError(f"{test_folders[0]}: {min(extra)} is no class of {train_folder}; {LAYOUT}")
    return Split(train, _read(name, test_tree, tree.classes, size))


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if _is_image(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _tree(folder: Path) -> _Tree:
    top = _folders(folder)
    grouped = _grouped(folder)
    if len(top) < 2 or len(grouped.classes) < 2 or any(map(_has_image, top)):
        return _flat(folder)
    return grouped


def _test_tree(folder: Path, train: _Tree) -> _Tree:
    """The test images may be grouped where those for training are; they need not."""
    flat = _flat(folder)
    return flat if not train.groups or set(flat.classes) <= set(train.classes) else _grouped(folder)


def _flat(folder: Path) -> _Tree:
    return _Tree(folder, (), tuple(path.name for path in _folders(folder)))


def _grouped(folder: Path) -> _Tree:
    top = _folders(folder)
    classes = {path.name for group in top for path in _folders(group)}
    return _Tree(folder, tuple(path.name for path in top), tuple(sorted(classes)))


def _has_image(folder: Path) -> bool:
    return any(map(_is_image, folder.iterdir()))


def _find(tree: _Tree, classes: Sequence[str]) -> list[_Found]:
    return [
        _Found(path, label, group)
        for group, name in enumerate(tree.groups or (".",))
        for label, kind in enumerate(classes)
        for path in _images(tree.folder / name / kind)
    ]


def _read(name: str, tree: _Tree, classes: tuple[str, ...], size: int) -> Dataset:
    found = _find(tree, classes)
    if not found:
        raise DataError(f"{tree.folder} has no images in its class folders; {LAYOUT}")
    order = np.argsort(np.random.PCG64(len(found)).random_raw(len(found)), kind="stable")
    found = [found[i] for i in order]
    images = np.empty((len(found), 3, size, size), np.uint8)

    def read_into(row: int) -> None:
        images[row] = _read_image(found[row].path, size)

    # Pillow decodes outside the interpreter lock, so threads share the work.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(read_into, range(len(found))):
            pass
    labels = np.array([image.label for image in found], np.int64)
    groups = np.array([image.group for image in found], np.int64) if tree.groups else None
    return Dataset(name, images, labels, classes, groups, tree.groups)


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
