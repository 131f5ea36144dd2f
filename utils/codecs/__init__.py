"""Codecs: how updates and models are made smaller on the wire."""

from __future__ import annotations

from utils.codecs.base import Codec, Moment
from utils.codecs.registry import CUT, KINDS, kind_of, make_codec

__all__ = ["CUT", "KINDS", "Codec", "Moment", "kind_of", "make_codec"]
