"""A data set in one safetensors file, so that a part can be carried to the machine that trains on it.

Tensors `images` U8 (N, 3, H, W) and `labels` I64 (N,); metadata `format` = "flockstep-data-1", `name`,
and `classes`, a JSON list of names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.datasets.dataset import Dataset
from utils.errors import DataError, LimitError, PayloadError, WireError
from utils.wire.payload import Manifest, Tensor, encode_header, parse_header

SUFFIX = ".safetensors"
FORMAT = "flockstep-data-1"
MAX_HEADER_BYTES = 16 << 20
MAX_NAME = 256
MAX_CLASSES = 100_000


def save_dataset(data: Dataset, path: Path) -> str:
    """Write `data` to a new file at `path`, to disk; its hex SHA-256. Groups are left out.

    Raises OSError.
    """
    metadata = {"format": FORMAT, "name": data.name, "classes": json.dumps(data.classes)}
    header = encode_header(
        [("images", "U8", data.images.shape), ("labels", "I64", data.labels.shape)], metadata
    )
    images, labels = np.ascontiguousarray(data.images), np.ascontiguousarray(data.labels, dtype="<i8")
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for piece in (header, images.data, labels.data):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def load_dataset(path: Path) -> Dataset:
    """The data set in the file at `path`; images stay on disk until they are used.

    Raises DataError when there is no such file, or it is not as stated above to the last byte.
    """
    try:
        with path.open("rb") as file:
            manifest = parse_header(_header(file))
            if manifest.total_bytes != (size := os.fstat(file.fileno()).st_size):
                raise PayloadError(f"it has {size} bytes, its header speaks of {manifest.total_bytes}")
            name, classes = _names(manifest.metadata)
            images, labels = _tensors(manifest)
            # Copy on write: an array like any other, though the file can't be changed through it.
            pixels = np.memmap(file, np.uint8, "c", manifest.header_bytes + images.start, images.shape)
            file.seek(manifest.header_bytes + labels.start)
            numbers = np.fromfile(file, "<i8", labels.shape[0]).astype(np.int64, copy=False)
    except OSError as error:
        raise DataError(f"can't read data set {path}: {error.strerror or error}") from error
    except WireError as error:
        raise DataError(f"{path} is no data set file: {error}; write it anew") from error
    return Dataset(name, np.asarray(pixels), numbers, classes)


def _header(file: BinaryIO) -> bytes:
    size = file.read(8)
    length = int.from_bytes(size, "little")
    if len(size) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
        raise LimitError(f"safetensors header of {length} bytes; at most {MAX_HEADER_BYTES} are taken")
    text = file.read(length)
    if len(text) < length:
        raise PayloadError(f"it ends after {len(text)} of {length} bytes of its header")
    return size + text


def _names(metadata: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Name and classes of the data set."""
    if metadata.get("format") != FORMAT:
        raise PayloadError(f"its metadata has format {metadata.get('format', '')[:40]!r}, not {FORMAT!r}")
    try:
        classes = json.loads(metadata.get("classes", ""))
    except (ValueError, RecursionError):
        classes = None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise PayloadError("its classes are no JSON list of names")
    if len(classes) > MAX_CLASSES:
        raise LimitError(f"it has {len(classes)} classes; at most {MAX_CLASSES} are taken")
    return metadata.get("name", "")[:MAX_NAME], tuple(classes)


def _tensors(manifest: Manifest) -> tuple[Tensor, Tensor]:
    """Images and labels, of the right dtype and shape."""
    found = {tensor.name: tensor for tensor in manifest.tensors}
    if set(found) != {"images", "labels"}:
        raise PayloadError(
            f"it must hold images and labels, but holds {', '.join(sorted(found)) or 'nothing'}"
        )
    images, labels = found["images"], found["labels"]
    if images.dtype != "U8" or len(images.shape) != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise PayloadError(f"its images are {images.dtype} {images.shape}; they must be U8 (N, 3, H, W)")
    if labels.dtype != "I64" or labels.shape != images.shape[:1]:
        raise PayloadError(f"its labels are {labels.dtype} {labels.shape}; they must be I64, one an image")
    return images, labels
