"""The section of codecs: how updates and models are encoded on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leader.config.sections.base import MIB, Fraction, Section


class CodecConfig(Section):
    """How updates and models are encoded on the wire, for learners that can."""

    up: Literal["none", "bf16", "fp16", "int8", "int4", "topk", "powersgd"] = Field(
        "none", description="codec of updates"
    )
    down: Literal["none", "bf16", "fp16", "int8", "int4", "topk"] = Field(
        "none",
        description="codec of what learners get in place of the model: its change since the version they have",
    )
    fraction: float = Field(0.01, gt=0, le=1, description="share of the values that topk sends")
    warmup: Fraction = Field(
        0.0, description="fraction of the run in which topk's share of an update falls from 1/4 to `fraction`"
    )
    rank: int = Field(2, ge=1, le=256, description="rank of powersgd")
    zstd: bool = Field(
        False, description="compress encoded files further, without loss, where that makes them smaller"
    )
    piece_bytes: int = Field(
        4 * MIB,
        ge=64 << 10,
        le=1 << 30,
        description="float32 bytes of the parameters that are encoded, and in gradient runs exchanged, at once",
    )

    @property
    def cut_tensors(self) -> bool:
        """Whether tensors of more than `piece_bytes` lie in several pieces: powersgd takes each as one matrix."""
        return self.up != "powersgd"

    @property
    def up_spec(self) -> str:
        """Spec of the codec of updates, such as "topk:0.01"; empty for none."""
        if self.up == "topk":
            return f"topk:{self.fraction:g}" + (f":{self.warmup:g}" if self.warmup else "")
        if self.up == "powersgd":
            return f"powersgd:{self.rank}"
        return "" if self.up == "none" else self.up

    @property
    def down_spec(self) -> str:
        """Spec of the codec of changes of the model; empty for none."""
        if self.down == "topk":
            return f"topk:{self.fraction:g}"
        return "" if self.down == "none" else self.down
