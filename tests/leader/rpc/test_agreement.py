from __future__ import annotations

import pytest

from leader.rpc.agreement import agreed
from protos import leader_pb2

RUN = leader_pb2.RunDescription(codec_up="int8", codec_down="topk:0.01", cut_tensors=True, pipelined=True)


@pytest.mark.parametrize(("cut_tensors", "codecs"), [(True, ["cut"]), (False, [])])
def test_a_learner_that_can_work_with_the_pieces_of_the_run_gets_them(
    cut_tensors: bool, codecs: list[str]
) -> None:
    run = leader_pb2.RunDescription()
    run.CopyFrom(RUN)
    run.cut_tensors = cut_tensors
    info = leader_pb2.LearnerInfo(control=leader_pb2.CONTROL_SESSION, codecs=["int8", "topk", *codecs])
    assert agreed(run, info) == run


def test_a_learner_that_does_not_know_parts_of_tensors_sends_and_gets_whole_models_in_float32() -> None:
    info = leader_pb2.LearnerInfo(control=leader_pb2.CONTROL_SESSION, codecs=["int8", "topk"])
    mine = agreed(RUN, info)
    assert (mine.codec_up, mine.codec_down, mine.pipelined) == ("", "", False)
