from __future__ import annotations

import numpy as np
import pytest

from leader.aggregation.decoding import Decoder
from leader.config import CodecConfig, RunConfig, StreamingConfig
from leader.global_model.down_link import DownLink
from leader.state import RunState
from learner.wire.encoding import Coding
from model.fragments import Fragments
from model.layout import Entry, Layout
from model.piece_files import WHOLE, PieceFiles
from protos import leader_pb2
from utils.codecs.files import File
from utils.errors import ConfigError, PayloadError
from utils.vector import Vector
from utils.wire.payload import Payload, PayloadReader

LAYOUT = Layout(
    (Entry("a", (40, 30), 0, 1200), Entry("b", (30,), 1200, 30), Entry("c", (700,), 1230, 700)),
    (Entry("mean", (4,), 1930, 4),),
)
RNG = np.random.Generator(np.random.PCG64(7))
START, TARGET = RNG.standard_normal((2, LAYOUT.total)).astype(np.float32)
RUN = leader_pb2.RunDescription(piece_bytes=64 << 10)


def payload(file: File) -> Payload:
    reader = PayloadReader(max_bytes=1 << 20, header_bytes=1 << 16)
    reader.feed(file.header)
    reader.feed(file.body.data)
    return reader.finish()


def plain_file(layout: Layout, values: Vector, metadata: dict[str, str]) -> File:
    return PieceFiles(layout, 64 << 10).plain(WHOLE, layout.gathered(values), metadata)


def names(layout: Layout) -> list[str]:
    return [entry.name for entry in layout.shared]


def test_fragments_take_turns_and_all_rounds_exchange_the_whole_without_them() -> None:
    streamed = Fragments(LAYOUT, 2)
    assert [names(streamed.of(round_)) for round_ in (1, 2, 3)] == [
        ["a", "mean"],
        ["b", "c", "mean"],
        ["a", "mean"],
    ]
    assert Fragments(LAYOUT).of(1) is Fragments(LAYOUT).of(2) is LAYOUT


def test_more_fragments_than_tensors_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"the model has 3 tensors to make them of; lower streaming\.fragments"
    ):
        Fragments(LAYOUT, 4)


@pytest.mark.parametrize("kind", ["none", "int8"])
def test_a_learner_that_takes_every_fragment_in_has_what_the_leader_serves(kind: str) -> None:
    config = RunConfig(
        streaming=StreamingConfig(fragments=2), codec=CodecConfig.model_validate({"down": kind})
    )
    down, run = DownLink(config, LAYOUT), leader_pb2.RunDescription(piece_bytes=config.codec.piece_bytes)
    run.codec_down = "" if kind == "none" else kind
    before, mine = RunState("run", 0, 0, 1, START, {}), START
    for round_ in range(1, 6):
        shared = Fragments(LAYOUT, 2).of(round_)
        vector = shared.merged(before.vector, shared.gathered(TARGET * round_))
        after, change = down.advance(before, RunState("run", round_ - 1, round_, round_ + 1, vector, {}))
        order = leader_pb2.WorkOrder(fragments=2, fragment=round_ % 2, fresh=(round_ - 1) % 2)
        reader = Coding(run, LAYOUT).changes(order)
        assert change is not None
        assert reader is not None
        base, file = change
        assert base == before.version
        sent = payload(file)
        reader.check(WHOLE, sent.manifest)
        mine = reader.apply(mine, sent)
        assert mine.tobytes() == after.served.tobytes()
        if kind == "none":
            assert sorted(tensor.name for tensor in sent.manifest.tensors) == names(shared)
            assert mine.tobytes() == vector.tobytes()
        before = RunState("run", round_, round_, round_ + 1, vector, {}, public=after.public)


def test_the_first_order_of_a_streamed_run_is_for_the_whole_model() -> None:
    assert Coding(RUN, LAYOUT).changes(leader_pb2.WorkOrder(fragments=2)) is None


def test_a_fragment_of_another_model_is_refused_before_it_is_taken_in() -> None:
    reader = Coding(RUN, LAYOUT).changes(leader_pb2.WorkOrder(fragments=2, fresh=0))
    assert reader is not None
    for number, wrong in ((1, LAYOUT.fragment(1, 2)), (0, LAYOUT)):
        with pytest.raises(PayloadError, match=r"the one that is awaited differ in '[abc]'"):
            reader.check(WHOLE, payload(plain_file(wrong, START, {"fragment": str(number)})).manifest)


def test_updates_are_read_as_of_the_fragment_that_they_name() -> None:
    decoder = Decoder(CodecConfig(), LAYOUT, 2)
    for number in range(2):
        sent = payload(plain_file(LAYOUT.fragment(number, 2), START, {"fragment": str(number)}))
        decoder.check(sent.manifest)
        assert decoder.decode(sent) is sent
        other = payload(plain_file(LAYOUT.fragment(number, 2), START, {"fragment": str(1 - number)}))
        with pytest.raises(PayloadError, match=r"not to be exchanged in this round \(streaming\.fragments\)"):
            decoder.check(other.manifest)


@pytest.mark.parametrize(("fragments", "named"), [(2, ""), (2, "2"), (0, "0")])
def test_an_update_of_no_fragment_that_there_is_is_refused(fragments: int, named: str) -> None:
    metadata = {"fragment": named} if named else {}
    sent = payload(plain_file(LAYOUT, START, metadata))
    with pytest.raises(PayloadError, match=f"update is of fragment '{named}'"):
        Decoder(CodecConfig(), LAYOUT, fragments).check(sent.manifest)


def test_what_a_codec_held_back_of_a_fragment_waits_for_its_next_turn() -> None:
    run = leader_pb2.RunDescription(piece_bytes=64 << 10, codec_up="topk:0.1")
    coding, decoder = Coding(run, LAYOUT), Decoder(CodecConfig(up="topk", fraction=0.1), LAYOUT, 2)
    memory: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
    total = np.zeros(LAYOUT.total, np.float32)
    values = START.copy()
    for turn in range(
        80
    ):  # in its first turn each fragment has all its change, and each value goes four times
        order = leader_pb2.WorkOrder(
            exchange="delta", fragments=2, fragment=turn % 2, local_steps=1, seed=3, first_batch=turn
        )
        file, after = coding.encode(order, values if turn < 2 else 0 * values, memory)
        memory = dict(after)
        sent = decoder.decode(payload(file))
        for tensor in sent.manifest.tensors:
            entry = next(entry for entry in LAYOUT.entries if entry.name == tensor.name)
            if entry in LAYOUT.parameters:
                values_sent = sent.data[tensor.start : tensor.stop].view(np.float32)
                total[entry.start : entry.start + entry.size] += values_sent
    np.testing.assert_allclose(total[:1930], START[:1930], rtol=2.0**-9, atol=1e-3)
