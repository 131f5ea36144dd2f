"""Renewals: a fragment's tensors as they are, for a learner that has all the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.flat import Layout
from utils.codecs.files import File
from utils.errors import PayloadError
from utils.vector import Vector
from utils.wire.payload import Manifest, Payload, encode_header


@dataclass(frozen=True)
class Renewal:
    """Sends and takes what `layout` shares of a model; read as model.changes.Changes are, but nothing is lost."""

    layout: Layout

    def encode(self, target: Vector, metadata: Mapping[str, str]) -> File:
        """The shared tensors of `target`, (total,), as they are."""
        return plain_file(self.layout, target, metadata)

    def check(self, manifest: Manifest) -> None:
        """Raise PayloadError unless a payload with this manifest holds the shared tensors, in any order."""
        received = {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.tensors}
        expected = {entry.name: ("F32", entry.shape) for entry in self.layout.shared}
        for name in [*expected, *received]:
            if received.get(name) != expected.get(name):
                raise PayloadError(
                    f"the leader's fragment and the one that is awaited differ in {name!r}; install the same "
                    "release on both sides, and use the same task"
                )

    def apply(self, base: Vector, payload: Payload) -> Vector:
        """The model, (total,) in new memory, that a payload that `check` has passed makes of `base`."""
        vector = base.copy()
        entries = {entry.name: entry for entry in self.layout.shared}
        for tensor in payload.manifest.tensors:
            entry = entries[tensor.name]
            values = payload.data[tensor.start : tensor.stop].view(np.float32)
            vector[entry.start : entry.start + entry.size] = values
        return vector


def plain_file(layout: Layout, values: Vector, metadata: Mapping[str, str]) -> File:
    """The tensors that `layout` shares, of values (total,), in float32 by their names."""
    named = ((entry.name, "F32", entry.shape) for entry in layout.shared)
    shared = np.concatenate(layout.gathered(values)) if layout.local else values
    header = encode_header(named, {"codec": "none", **metadata})
    return File(header, np.ascontiguousarray(shared).view(np.uint8))
