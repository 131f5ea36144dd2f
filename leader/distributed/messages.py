"""Layouts, scales and revocations as messages, and back, checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

from leader.aggregation.exact_sum import Scale
from leader.trust.identities.revocations import MOST, Revocations
from model.layout import Entry, Layout
from protos import edge_pb2
from utils.errors import PayloadError
from utils.trust.names import is_name

UID_BYTES = 16
_MOST_TENSORS = 100_000
_MOST_VALUES = 1 << 40
_SERIAL_BYTES = 20  # RFC 5280


def layout_message(layout: Layout) -> edge_pb2.ModelLayout:
    """The layout for an edge."""
    return edge_pb2.ModelLayout(
        parameters=[edge_pb2.TensorEntry(name=e.name, shape=e.shape) for e in layout.parameters],
        buffers=[edge_pb2.TensorEntry(name=e.name, shape=e.shape) for e in layout.buffers],
        local=sorted(layout.local),
    )


def layout_of(message: edge_pb2.ModelLayout) -> Layout:
    """The layout in a message; raises PayloadError for one that can't be a model's."""
    if len(message.parameters) + len(message.buffers) > _MOST_TENSORS:
        raise PayloadError(f"a model of more than {_MOST_TENSORS} tensors")
    parameters = _entries(message.parameters, 0)
    buffers = _entries(message.buffers, sum(entry.size for entry in parameters))
    names = {entry.name for entry in parameters + buffers}
    if not parameters or len(names) < len(parameters + buffers) or not names.issuperset(message.local):
        raise PayloadError(
            "the layout of the model has no parameters, or names that are not one tensor's each"
        )
    return Layout(parameters, buffers, frozenset(message.local))


def _entries(messages: Iterable[edge_pb2.TensorEntry], start: int) -> tuple[Entry, ...]:
    entries = []
    for message in messages:
        size = math.prod(message.shape)
        if start + size > _MOST_VALUES:
            raise PayloadError(f"a model of more than {_MOST_VALUES} values")
        entries.append(Entry(message.name, tuple(message.shape), start, size))
        start += size
    return tuple(entries)


def scale_message(scale: Scale) -> edge_pb2.SumScale:
    """The scale of a sum for an edge."""
    return edge_pb2.SumScale(
        fraction_bits=scale.fraction_bits,
        max_abs=scale.max_abs,
        max_weight=scale.max_weight,
        heaviest=scale.heaviest,
    )


def scale_of(message: edge_pb2.SumScale) -> Scale:
    """The scale in a message; raises PayloadError for one under which nothing could be added."""
    scale = Scale(message.fraction_bits, message.max_abs, message.max_weight, message.heaviest)
    if not (
        0 < scale.fraction_bits <= 62 and 0 < scale.max_abs < math.inf and scale.max_weight and scale.heaviest
    ):
        raise PayloadError("a sum with a scale under which nothing could be added")
    return scale


def revoked_message(revocations: Revocations) -> edge_pb2.Revoked:
    """Who is admitted no more, for an edge."""
    serials = (serial.to_bytes(_SERIAL_BYTES) for serial in sorted(revocations.serials))
    return edge_pb2.Revoked(names=sorted(revocations.names), serials=serials)


def revocations_of(message: edge_pb2.Revoked) -> Revocations:
    """Who is admitted no more; raises PayloadError for what nobody can be named, and for too many."""
    sizes = {len(serial) for serial in message.serials}
    if (
        max(len(message.names), len(message.serials)) > MOST
        or not all(map(is_name, message.names))
        or not sizes <= {_SERIAL_BYTES}
    ):
        raise PayloadError(f"revocations that name no identities, or more than {MOST} of them")
    return Revocations(frozenset(message.names), frozenset(map(int.from_bytes, message.serials)))


def members_digest(uids: Iterable[bytes]) -> bytes:
    """SHA-256 over the sorted uids of the updates in a sum."""
    return hashlib.sha256(b"".join(sorted(uids))).digest()
