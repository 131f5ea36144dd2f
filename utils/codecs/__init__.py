"""Codecs: how updates and models are made smaller on the wire."""

from __future__ import annotations

from utils.codecs.base import Codec, Moment
from utils.codecs.registry import KINDS, kind_of, make_codec

__all__ = ["KINDS", "Codec", "Moment", "kind_of", "make_codec"]
