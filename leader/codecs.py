"""The codecs that a run's config asks for, and what is agreed on with each learner."""

from __future__ import annotations

from leader.config import CodecConfig
from protos import leader_pb2
from utils.codecs import kind_of


def up_spec(config: CodecConfig) -> str:
    """Spec of the codec of updates, such as "topk:0.01"; empty for none."""
    if config.up == "topk":
        return f"topk:{config.fraction:g}" + (f":{config.warmup:g}" if config.warmup else "")
    if config.up == "powersgd":
        return f"powersgd:{config.rank}"
    return "" if config.up == "none" else config.up


def down_spec(config: CodecConfig) -> str:
    """Spec of the codec of changes of the model; empty for none."""
    if config.down == "topk":
        return f"topk:{config.fraction:g}"
    return "" if config.down == "none" else config.down


def agreed(description: leader_pb2.RunDescription, info: leader_pb2.LearnerInfo) -> leader_pb2.RunDescription:
    """`description` without what the learner can't read or write: it sends and gets float32 there."""
    mine = leader_pb2.RunDescription()
    mine.CopyFrom(description)
    known = set(info.codecs)
    if mine.codec_up and kind_of(mine.codec_up) not in known:
        mine.codec_up = ""
    if mine.codec_down and kind_of(mine.codec_down) not in known:
        mine.codec_down = ""
    mine.zstd = mine.zstd and "zstd" in known
    # New weights are encoded once for all who get them piece by piece.
    mine.pipelined = (
        mine.pipelined
        and info.control == leader_pb2.CONTROL_SESSION
        and (mine.codec_down, mine.zstd) == (description.codec_down, description.zstd)
    )
    return mine
