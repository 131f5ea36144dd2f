from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from utils.datasets import Dataset, load_dataset, open_dataset, save_dataset
from utils.datasets.data_file import FORMAT
from utils.errors import DataError

METADATA = {"format": FORMAT, "name": "few", "classes": '["a", "b", "ä"]'}


def few() -> Dataset:
    images = np.arange(5 * 3 * 3 * 5, dtype=np.uint8).reshape(5, 3, 3, 5)  # labels start at an odd byte
    return Dataset("few", images, np.array([0, 2, 1, 1, 0], np.int64), ("a", "b", "ä"))


def test_a_saved_set_is_opened_as_it_was(tmp_path: Path) -> None:
    save_dataset(few(), tmp_path / "x.safetensors")
    split = open_dataset(str(tmp_path / "x.safetensors"), tmp_path / "unused")
    assert split.test is None
    assert (split.train.name, split.train.classes) == ("few", ("a", "b", "ä"))
    assert split.train.fingerprint() == few().fingerprint()


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    digest = save_dataset(few(), tmp_path / "x.safetensors")
    assert digest == hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    save_dataset(few(), tmp_path / "x.safetensors")
    with pytest.raises(FileExistsError):
        save_dataset(few(), tmp_path / "x.safetensors")


def test_the_safetensors_library_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    save_dataset(few(), tmp_path / "ours.safetensors")
    tensors = load_file(tmp_path / "ours.safetensors")
    assert tensors["labels"].tolist() == [0, 2, 1, 1, 0]
    save_file(tensors, tmp_path / "theirs.safetensors", METADATA)
    assert load_dataset(tmp_path / "theirs.safetensors").fingerprint() == few().fingerprint()


def test_images_can_be_changed_in_memory_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    digest = save_dataset(few(), path)
    torch.from_numpy(load_dataset(path).images).zero_()  # warns of an array that can't be written
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def write(path: Path, metadata: dict[str, str] | None = None, **tensors: Any) -> None:
    arrays: dict[str, Any] = {"images": few().images, "labels": few().labels} | tensors
    save_file({k: v for k, v in arrays.items() if v is not None}, path, METADATA | (metadata or {}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, r"must hold images and labels"),
        ({"more": np.zeros(1)}, r"must hold images and labels"),
        ({"images": np.zeros((5, 1, 2, 2), np.uint8)}, r"images are U8 \(5, 1, 2, 2\); they must be"),
        ({"images": np.zeros((5, 3, 2, 2), np.float32)}, r"images are F32"),
        ({"images": np.zeros((0, 3, 2, 2), np.uint8)}, r"images are U8 \(0, 3, 2, 2\)"),
        ({"labels": np.zeros(4, np.int64)}, r"labels are I64 \(4,\); they must be I64, one an image"),
        ({"labels": np.zeros(5, np.int32)}, r"labels are I32"),
        ({"labels": np.full(5, 3)}, r"labels run from 3 to 3; its 3 classes"),
        ({"metadata": {"format": "flockstep-data-2"}}, r"format 'flockstep-data-2', not 'flockstep-data-1'"),
        ({"metadata": {"classes": "a, b"}}, r"no JSON list of names"),
        ({"metadata": {"classes": "[1, 2, 3]"}}, r"no JSON list of names"),
        ({"metadata": {"classes": "[" * 50_000}}, r"no JSON list of names"),
        ({"metadata": {"classes": json.dumps(["x"] * 100_001)}}, r"100001 classes; at most 100000"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path / "x.safetensors", **changes)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"header of 0 bytes"),
        (b"\xff" * 8, r"header of 18446744073709551615 bytes; at most 16777216"),
        ((100).to_bytes(8, "little") + b"{", r"ends after 1 of 100 bytes of its header"),
        ((4).to_bytes(8, "little") + b"nope", r"not JSON"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "x.safetensors")


def test_a_cut_or_a_longer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_dataset(few(), path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"\0"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"has {len(content)} bytes, its header speaks of {len(whole)}"):
            load_dataset(path)


@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError):
        load_dataset(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't read data set .*none\.safetensors: No such file"):
        open_dataset(str(tmp_path / "none.safetensors"), tmp_path)
