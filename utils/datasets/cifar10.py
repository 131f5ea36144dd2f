"""CIFAR-10 from its official folders, python or binary version, or from the net.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import socket
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.datasets.cifar10_pickle import PIXELS, read_pickled_batch
from utils.datasets.dataset import Dataset, Split
from utils.errors import DataError

NAME = "CIFAR-10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_FILES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_FILES = ("test_batch",)
PYTHON_FOLDER, BINARY_FOLDER = "cifar-10-batches-py", "cifar-10-batches-bin"

MAX_RECORDS = 10_000  # in one batch file
MAX_ARCHIVE_BYTES = 512 << 20  # unpacked; the official archive has 178 MiB
TIMEOUT_S = 30.0  # without a byte from the server

_Records = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels (n, 3072), labels (n,)


def find_cifar10(folder: Path) -> Path | None:
    """The CIFAR-10 folder at `folder` or directly inside it, of either version; None if there is none."""
    for candidate in (folder, folder / BINARY_FOLDER, folder / PYTHON_FOLDER):
        if any((candidate / (TRAIN_FILES[0] + suffix)).is_file() for suffix in (".bin", "")):
            return candidate
    return None


def load_cifar10(folder: Path, *, cut: tuple[int, int] = (0, 0)) -> Split:
    """CIFAR-10 from an official folder of either version, or from the folder around it.

    All images are copied once into one array a split (153 MB for training), so that a batch is one gather; with
    `cut` only the first so many of the training and the test split, 0 = all.
    Raises DataError when a file is missing or damaged.
    """
    found = find_cifar10(folder)
    if found is None:
        raise DataError(
            f"no CIFAR-10 in {folder}: expected {PYTHON_FOLDER}/ or {BINARY_FOLDER}/ with data_batch_1"
        )
    suffix = ".bin" if (found / f"{TRAIN_FILES[0]}.bin").is_file() else ""
    train = _read_all([found / (name + suffix) for name in TRAIN_FILES], cut[0])
    test = _read_all([found / (name + suffix) for name in TEST_FILES], cut[1])
    return Split(train, test)


def _read_all(paths: Sequence[Path], cut: int) -> Dataset:
    for path in paths:
        if not path.is_file():
            raise DataError(f"CIFAR-10 is incomplete: {path} is missing; unpack the archive again")
    batches = [_read_binary_batch(path) if path.suffix else read_pickled_batch(path) for path in paths]
    labels = np.concatenate([labels for _, labels in batches])[: cut or None]
    images, end = np.empty((len(labels), PIXELS), np.uint8), 0
    for pixels, _ in batches:
        start, end = end, end + len(pixels)
        images[start:end] = pixels[: max(0, len(images) - start)]
    return Dataset(NAME, images.reshape(-1, 3, 32, 32), labels, CLASSES)


def _read_binary_batch(path: Path) -> _Records:
    """Records of one label byte and 3072 pixel bytes, channel first; pixels stay on disk until copied."""
    records, rest = divmod(path.stat().st_size, 1 + PIXELS)
    if rest or not 1 <= records <= MAX_RECORDS:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes; "
            f"a CIFAR-10 batch has 1 to {MAX_RECORDS} records of {1 + PIXELS}; unpack the archive again"
        )
    raw = np.memmap(path, np.uint8, mode="r", shape=(records, 1 + PIXELS))
    labels = raw[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise DataError(f"{path} is no CIFAR-10 batch: it has label {labels.max()}, allowed are 0 to 9")
    return raw[:, 1:], labels


def download_cifar10(folder: Path, *, url: str | None = None, md5: str | None = None) -> Path:
    """Download and unpack the python version into `folder`, with a progress bar; the new folder's path.

    `url` and `md5` default to torchvision's, the official archive. The folder appears whole or not at all.
    Raises DataError when the archive can't be had or its MD5 is another.
    """
    # Imported here because it takes a second, and nothing but a download needs it.
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    url, md5 = url or CIFAR10.url, md5 or CIFAR10.tgz_md5
    target = folder / PYTHON_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=folder) as name, _socket_timeout(TIMEOUT_S):
            partial = Path(name)
            download_url(url, partial, "cifar10.tar.gz", md5)
            _unpack(partial / "cifar10.tar.gz", partial)
            # Another process may have been faster; its folder is as good.
            if find_cifar10(target) is None:
                (partial / PYTHON_FOLDER).rename(target)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        raise DataError(
            f"can't download CIFAR-10 from {url} to {folder}: {error}; "
            "name a folder that has it with --data DIR, or use --data synthetic"
        ) from error
    return target


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar.gz that may be at most MAX_ARCHIVE_BYTES big; nothing lands outside `folder`."""
    with tarfile.open(archive, "r:gz") as tar:
        total = 0
        for member in tar:
            total += member.size
            if total > MAX_ARCHIVE_BYTES:
                raise DataError(
                    f"{archive} unpacks to more than {MAX_ARCHIVE_BYTES} bytes; it is no CIFAR-10"
                )
            tar.extract(member, folder, filter="data")


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision's download waits for ever on a silent network unless the default timeout says otherwise."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
