"""Codecs by their specs, such as "int8" or "topk:0.01:0.1"."""

from __future__ import annotations

from utils.codecs.base import Codec
from utils.errors import IncompatibleError

#: Kinds of codecs that this release can read and write.
KINDS = ("bf16", "fp16", "int8", "int4", "topk", "powersgd")


def make_codec(spec: str, *, momentum: float = 0.0) -> Codec:
    """The codec that `spec` says: a kind, and its settings after colons.

    `momentum` is for codecs that correct for it (topk, see there); others do without.
    Raises IncompatibleError for a spec that this release does not know.
    """
    raise IncompatibleError(f"codec {spec[:40]!r} is not known here; install the same release on both sides")
