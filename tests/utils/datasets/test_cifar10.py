from __future__ import annotations

import functools
import hashlib
import io
import pickle
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from utils.datasets import download_cifar10, find_cifar10, load_cifar10
from utils.datasets.cifar10 import BINARY_FOLDER, PYTHON_FOLDER
from utils.errors import DataError

FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
PER_FILE = 4


def records() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (6, 4, 3072) and labels (6, 4): four images for each file."""
    generator = np.random.default_rng(3)
    return (
        generator.integers(0, 256, (6, PER_FILE, 3072), dtype=np.uint8),
        generator.integers(0, 10, (6, PER_FILE), dtype=np.uint8),
    )


def write_binary(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, pixels, labels in zip(FILES, *records(), strict=True):
        (folder / f"{name}.bin").write_bytes(np.column_stack([labels, pixels]).tobytes())
    return folder


def write_python(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, pixels, labels in zip(FILES, *records(), strict=True):
        batch = {b"batch_label": name.encode(), b"labels": labels.tolist(), b"data": pixels, b"filenames": []}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_both_versions_give_the_same_images_and_labels(
    tmp_path: Path, write: functools.partial[Path]
) -> None:
    split = load_cifar10(write(tmp_path / "c"))
    pixels, labels = records()
    assert np.array_equal(split.train.images, pixels[:5].reshape(20, 3, 32, 32))
    assert split.train.labels.tolist() == labels[:5].reshape(-1).tolist()
    assert split.test is not None
    assert np.array_equal(split.test.images, pixels[5].reshape(4, 3, 32, 32))
    assert split.test.labels.tolist() == labels[5].tolist()
    assert (split.train.name, split.train.classes[3], len(split.train.classes)) == ("CIFAR-10", "cat", 10)


@pytest.mark.parametrize("cut", [(1, 4), (4, 3), (6, 1), (99, 99)])
def test_the_first_images_are_copied_alone(tmp_path: Path, cut: tuple[int, int]) -> None:
    folder = write_binary(tmp_path / "c")
    whole, some = load_cifar10(folder), load_cifar10(folder, cut=cut)
    assert whole.test is not None
    assert some.test is not None
    assert (len(some.train), len(some.test)) == (min(cut[0], 20), min(cut[1], 4))
    assert some.train.fingerprint() == whole.train.take(cut[0]).fingerprint()
    assert some.test.fingerprint() == whole.test.take(cut[1]).fingerprint()


@pytest.mark.parametrize(("write", "name"), [(write_binary, BINARY_FOLDER), (write_python, PYTHON_FOLDER)])
def test_the_folder_is_found_by_itself_and_in_its_parent(
    tmp_path: Path, write: functools.partial[Path], name: str
) -> None:
    folder = write(tmp_path / name)
    assert find_cifar10(folder) == folder
    assert find_cifar10(tmp_path) == folder
    assert find_cifar10(tmp_path.parent) is None


def test_a_folder_without_cifar10_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no CIFAR-10 in"):
        load_cifar10(tmp_path)


def test_a_missing_batch_file_is_named(tmp_path: Path) -> None:
    (write_binary(tmp_path / "c") / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_4\.bin is missing"):
        load_cifar10(tmp_path / "c")


def test_a_truncated_binary_file_is_named(tmp_path: Path) -> None:
    path = write_binary(tmp_path / "c") / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"test_batch\.bin has 12291 bytes"):
        load_cifar10(tmp_path / "c")


def test_a_label_above_nine_is_refused(tmp_path: Path) -> None:
    path = write_binary(tmp_path / "c") / "data_batch_2.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(DataError, match=r"data_batch_2\.bin .* label 10"):
        load_cifar10(tmp_path / "c")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is not the place."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server on loopback that gives out `folder`; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def archive_of(folder: Path, path: Path) -> str:
    """A tar.gz of `folder` at `path`; its MD5."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_a_download_is_checked_unpacked_and_loadable(tmp_path: Path) -> None:
    source = write_python(tmp_path / "site" / PYTHON_FOLDER)
    md5 = archive_of(source, tmp_path / "site" / "cifar.tar.gz")
    with served(tmp_path / "site") as url:
        folder = download_cifar10(tmp_path / "new" / "data", url=f"{url}/cifar.tar.gz", md5=md5)
    assert folder == tmp_path / "new" / "data" / PYTHON_FOLDER
    assert load_cifar10(folder).train.fingerprint() == load_cifar10(source).train.fingerprint()
    assert [path.name for path in folder.parent.iterdir()] == [PYTHON_FOLDER]
    assert socket.getdefaulttimeout() is None


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_python(tmp_path / "site" / PYTHON_FOLDER)
    archive_of(source, tmp_path / "site" / "cifar.tar.gz")
    with served(tmp_path / "site") as url, pytest.raises(DataError, match="corrupted"):
        download_cifar10(tmp_path / "data", url=f"{url}/cifar.tar.gz", md5="0" * 32)
    assert list((tmp_path / "data").iterdir()) == []


def test_an_archive_that_reaches_outside_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    path = tmp_path / "site" / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../escaped"), io.BytesIO())
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    with served(tmp_path / "site") as url, pytest.raises(DataError, match="outside the destination"):
        download_cifar10(tmp_path / "data", url=f"{url}/cifar.tar.gz", md5=md5)
    assert not (tmp_path / "escaped").exists()


def test_without_network_the_error_says_what_to_do_next(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/cifar.tar.gz"
        with pytest.raises(DataError, match=r"--data DIR, or use --data synthetic"):
            download_cifar10(tmp_path / "data", url=url)


def test_the_real_cifar10_has_all_its_images_and_classes(real_cifar10: Path) -> None:
    split = load_cifar10(real_cifar10.parent)
    assert split.test is not None
    assert split.train.images.shape == (50_000, 3, 32, 32)
    assert np.bincount(split.train.labels).tolist() == [5_000] * 10
    assert np.bincount(split.test.labels).tolist() == [1_000] * 10
    mean = split.train.images.mean(axis=(0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)
