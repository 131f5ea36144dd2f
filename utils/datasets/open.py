"""Opens a dataset by the word or path that a user gives."""

from __future__ import annotations

from pathlib import Path

from utils.datasets.cifar10 import BINARY_FOLDER, PYTHON_FOLDER, download_cifar10, find_cifar10, load_cifar10
from utils.datasets.data_file import SUFFIX, load_dataset
from utils.datasets.dataset import Split
from utils.datasets.image_folder import load_image_folder
from utils.datasets.synthetic import synthetic_shapes
from utils.errors import DataError


def open_dataset(
    source: str, cache: Path, *, download: bool = True, size: int = 32, cut: tuple[int, int] = (0, 0)
) -> Split:
    """The dataset that `source` names.

    "cifar10": looked for in `cache`, else downloaded to it; "synthetic": drawn shapes; a path that
    ends in .safetensors is a data set file; anything else is a folder: CIFAR-10's (either version, or the
    folder around it) or an image tree, read at `size`. With `cut` no more than the first so many examples of
    the training and the test split, 0 = all: of shapes and CIFAR-10 no others are drawn or copied.
    Raises DataError saying what was looked for and what is allowed.
    """
    if source == "synthetic":
        return synthetic_shapes(cut=cut)
    if source == "cifar10":
        return load_cifar10(_cached_cifar10(cache, download=download), cut=cut)
    folder = Path(source).expanduser()
    if folder.suffix == SUFFIX and not folder.is_dir():
        return Split(load_dataset(folder).take(cut[0]), None)
    if not folder.is_dir():
        raise DataError(
            f"no dataset {source!r}: there is no such folder; "
            "use cifar10, synthetic, a folder with CIFAR-10 or one folder of images a class, "
            f"or a {SUFFIX} file of scripts.partition"
        )
    if find_cifar10(folder):
        return load_cifar10(folder, cut=cut)
    split = load_image_folder(folder, size)
    return Split(split.train.take(cut[0]), split.test.take(cut[1]) if split.test else None)


def _cached_cifar10(cache: Path, *, download: bool) -> Path:
    found = find_cifar10(cache)
    if found is None and not download:
        raise DataError(
            f"no CIFAR-10 in {cache}: looked for {PYTHON_FOLDER}/ and {BINARY_FOLDER}/; "
            "put one there, name a folder that has it with --data DIR, or use --data synthetic"
        )
    return found or download_cifar10(cache)
