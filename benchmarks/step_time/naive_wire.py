"""The wire of the naive design: everything pickled, in one unary message.

This is the only place in this repository that pickles, because this is what is measured. It never runs but in
the benchmark, between processes of its own.
"""

from __future__ import annotations

import pickle  # what is measured here; see above
from typing import Any

METHOD = "/naive.Leader/Exchange"  # GradientData with all gradients to ModelChunk with the whole state
OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


def dumps(arrays: Any) -> bytes:
    """A list or dict of arrays as bytes."""
    return pickle.dumps(arrays)


def loads(data: bytes) -> Any:
    """The list or dict of arrays again."""
    return pickle.loads(data)
