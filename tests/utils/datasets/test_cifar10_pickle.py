from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.datasets import cifar10_pickle
from utils.datasets.cifar10_pickle import read_pickled_batch
from utils.errors import DataError


def batch(count: int = 3, **changes: object) -> dict[Any, Any]:
    """What an official batch holds once it is unpickled as bytes."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, 3072), dtype=np.uint8)
    content = {
        "data": pixels,
        "labels": [i % 10 for i in range(count)],
        "batch_label": b"training batch 1 of 5",
        "filenames": [b"leptodactylus_pentadactylus_s_%06d.png" % i for i in range(count)],
    }
    return {key.encode(): value for key, value in (content | changes).items()}


def python2_batch(pixels: bytes, labels: list[int]) -> bytes:
    """A batch as Python 2 wrote the official files: byte strings, numpy.core, memo puts."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    shape = b"(K\x01" + b"J" + struct.pack("<i", len(labels)) + b"M\x00\x0c\x86"
    dtype = (
        b"cnumpy\ndtype\nq\x06"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xff"
    )
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85" + text(b"b") + b"\x87R"
    )
    array += shape + dtype + b"\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}q\x01(" + text(b"data") + array + text(b"labels") + b"r\x07\x00\x00\x00" + numbers + b"u."
    )


def write(path: Path, content: object) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))
    return path


def test_a_full_size_batch_is_read_bit_for_bit(tmp_path: Path) -> None:
    content = batch(10_000)
    pixels, labels = read_pickled_batch(write(tmp_path / "data_batch_1", content))
    assert np.array_equal(pixels, content[b"data"])
    assert labels.dtype == np.int64
    assert labels.tolist() == content[b"labels"]


def test_a_batch_in_fortran_order_is_read_the_same(tmp_path: Path) -> None:
    content = batch(7)
    content[b"data"] = np.asfortranarray(content[b"data"])
    pixels, _ = read_pickled_batch(write(tmp_path / "b", content))
    assert np.array_equal(pixels, content[b"data"])


def test_the_opcodes_of_python_2_are_understood(tmp_path: Path) -> None:
    content = python2_batch(bytes(range(256)) * 24, [9, 4])
    assert pickle.loads(content, encoding="bytes")[b"labels"] == [9, 4]
    pixels, labels = read_pickled_batch(write(tmp_path / "b", content))
    assert pixels.tobytes() == bytes(range(256)) * 24
    assert pixels.shape == (2, 3072)
    assert labels.tolist() == [9, 4]


class Malicious:
    """Pickles to a call of `write_text` on a path of the attacker's choice."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        return Path.write_text, (self.target, "owned")


def test_a_call_in_the_file_is_refused_and_not_made(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    path = write(tmp_path / "b", batch(filenames=[Malicious(target)]))
    with pytest.raises(DataError, match=r"b is no CIFAR-10 batch: it has a call of"):
        read_pickled_batch(path)
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.read_text() == "owned"  # so the file was dangerous


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (batch(labels=[1, 2]), "no list of 3 labels"),
        (batch(labels=[1, 2, 10]), "a label that is not in"),
        (batch(labels=[1, 2, -1]), "a label that is not in"),
        (batch(labels=[1, 2, True]), "a label that is not in"),
        (batch(labels=(1, 2, 3)), "no list of 3 labels"),
        (batch(data=b"x" * 3072), "no array named data"),
        (batch(data=np.zeros((3, 3072), np.int16)), "no uint8 array"),
        (batch(data=np.zeros((3, 1024), np.uint8)), r"data of shape \(3, 1024\)"),
        (batch(data=np.zeros(3072, np.uint8)), "no uint8 array"),
        ([batch()], "no dict"),
        ({"labels": [1]}, "no array named data"),
        (b"", "pickle exhausted"),
        (b"no pickle at all", "opcode"),
        (pickle.dumps(batch(), protocol=2)[:-500], "not enough data|expected|exhausted|remain"),
        (pickle.dumps(batch(), protocol=5), "opcode FRAME"),
        (b"\x80\x02R.", "empty stack"),
        (b"\x80\x02h\x07.", "7"),
        (b"\x80\x02e.", "pop from empty list"),
    ],
)
def test_anything_but_a_batch_is_refused_by_name(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"data_batch_3 is no CIFAR-10 batch: .*({message})"):
        read_pickled_batch(write(tmp_path / "data_batch_3", content))


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    with path.open("wb") as file:
        file.truncate(cifar10_pickle.MAX_FILE_BYTES + 1)
    with pytest.raises(DataError, match="has 67108865 bytes"):
        read_pickled_batch(path)


@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(pickle.dumps(batch(1), protocol=2))
    # The opcodes, without the pixels in their midst.
    places = st.one_of(st.integers(0, 350), st.integers(len(content) - 200, len(content) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(places)] = data.draw(st.integers(0, 255))
    path = write(tmp_path_factory.getbasetemp() / "damaged", bytes(content))
    try:
        pixels, labels = read_pickled_batch(path)
    except DataError:
        return
    assert pixels.shape == (len(labels), 3072)
