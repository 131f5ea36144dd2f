"""What learners are told about a run, and what is agreed on with each of the codecs that it asks for."""

from __future__ import annotations

from leader.config import RunConfig
from leader.global_model.initial import Origin
from leader.training.exchanges.pipelined import is_pipelined
from protos import leader_pb2
from utils.codecs import CUT, kind_of


def describe(config: RunConfig, origin: Origin, *, run_id: str, classes: int) -> leader_pb2.RunDescription:
    """What a learner must know of a run that begins from `origin`; `classes` are those of its data, 0 = it has none."""
    dp = config.dp
    promise = leader_pb2.DpPromise(mode=dp.mode, epsilon=dp.epsilon, delta=dp.delta) if dp.on else None
    return leader_pb2.RunDescription(
        dp=promise,
        run_id=run_id,
        model="" if origin.own else config.model.name,
        norm=config.model.norm,
        classes=classes,
        heartbeat_s=config.cohort.lease_s / 2,
        chunk_bytes=config.limits.chunk_bytes,
        local=sorted(origin.layout.local),
        holdout=config.evaluation.holdout,
        own_task=origin.own,
        codec_up=config.codec.up_spec,
        codec_down=config.codec.down_spec,
        piece_bytes=config.codec.piece_bytes,
        cut_tensors=config.codec.cut_tensors,
        zstd=config.codec.zstd,
        pipelined=is_pipelined(config),
    )


def agreed(description: leader_pb2.RunDescription, info: leader_pb2.LearnerInfo) -> leader_pb2.RunDescription:
    """`description` without what the learner can't read or write: it sends and gets float32 there."""
    mine = leader_pb2.RunDescription()
    mine.CopyFrom(description)
    known = set(info.codecs)
    cuts = CUT in known or not mine.cut_tensors
    if mine.codec_up and not (cuts and kind_of(mine.codec_up) in known):
        mine.codec_up = ""
    if mine.codec_down and not (cuts and kind_of(mine.codec_down) in known):
        mine.codec_down = ""
    mine.zstd = mine.zstd and "zstd" in known
    # New weights are encoded once for all who get them piece by piece.
    mine.pipelined = (
        mine.pipelined
        and cuts
        and info.control == leader_pb2.CONTROL_SESSION
        and (mine.codec_down, mine.zstd) == (description.codec_down, description.zstd)
    )
    return mine
