"""What is agreed on with each learner of the codecs that a run asks for."""

from __future__ import annotations

from protos import leader_pb2
from utils.codecs import kind_of


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
