"""A small model with parameters and buffers, and updates for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from model.layout import Entry, Layout
from utils.wire.payload import Payload, PayloadReader, encode_header

LAYOUT = Layout.of(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
PARAMETERS, TOTAL = LAYOUT.parameter_count, LAYOUT.total


def payload(vector: NDArray[np.float32], entries: tuple[Entry, ...] = LAYOUT.entries) -> Payload:
    """An update of these values, (TOTAL,), with its tensors in the order of `entries`."""
    reader = PayloadReader(max_bytes=10_000, header_bytes=10_000)
    reader.feed(encode_header((entry.name, "F32", entry.shape) for entry in entries))
    for entry in entries:
        reader.feed(vector[entry.start : entry.start + entry.size].tobytes())
    return reader.finish()
