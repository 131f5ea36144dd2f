from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leader.config import CodecConfig, RunConfig
from leader.global_model.down_link import DownLink
from leader.state import RunState
from learner.wire.encoding import Coding
from model.layout import Entry, Layout
from model.piece_files import WHOLE
from protos import leader_pb2
from utils.wire.payload import Payload, PayloadReader

LAYOUT = Layout((Entry("a", (40, 30), 0, 1200), Entry("b", (30,), 1200, 30)), (Entry("mean", (4,), 1230, 4),))
RNG = np.random.Generator(np.random.PCG64(7))
START = RNG.standard_normal(LAYOUT.total).astype(np.float32)


def link(**codec: object) -> DownLink:
    return DownLink(RunConfig(codec=CodecConfig.model_validate(codec)), LAYOUT)


def state(vector: np.ndarray[tuple[int], np.dtype[np.float32]], number: int) -> RunState:
    return RunState("run", 0, number, number, vector, {})


def payload(parts: tuple[bytes, memoryview]) -> Payload:
    reader = PayloadReader(max_bytes=1 << 20, header_bytes=1 << 16)
    for part in parts:
        reader.feed(part)
    return reader.finish()


def test_without_a_codec_models_travel_whole() -> None:
    after, change = link().advance(state(START, 1), state(START + 1, 2))
    assert (after.public, change) == (None, None)
    assert after.served is after.vector


@pytest.mark.parametrize("zstd", [False, True])
@pytest.mark.parametrize("kind", ["bf16", "fp16", "int8", "int4", "topk"])
def test_a_learner_that_applies_every_change_has_what_the_leader_says_it_has(kind: str, zstd: bool) -> None:
    down = link(down=kind, zstd=zstd, fraction=0.1, piece_bytes=64 << 10)
    spec = "topk:0.1" if kind == "topk" else kind
    run = leader_pb2.RunDescription(codec_down=spec, piece_bytes=64 << 10, zstd=zstd)
    changes = Coding(run, LAYOUT).changes(leader_pb2.WorkOrder())
    assert changes is not None
    before, mine = state(START, 1), START
    for number in range(2, 12):
        step = 0.01 * RNG.standard_normal(LAYOUT.total).astype(np.float32)
        after, change = down.advance(before, state(before.vector + step, number))
        assert change is not None
        base, file = change
        assert base == number - 1
        sent = payload((file.header, file.body.data))
        changes.check(WHOLE, sent.manifest)
        mine = changes.apply(mine, sent)
        assert mine.tobytes() == after.served.tobytes()
        assert mine[1230:].tobytes() == after.vector[1230:].tobytes()  # buffers come as they are
        before = after


def test_what_a_codec_leaves_out_comes_with_a_later_change() -> None:
    down, before = link(down="topk", fraction=0.1), state(START, 1)
    target = START + 1
    for number in range(2, 22):
        before, _ = down.advance(before, state(target, number))
    # All moves are of one size, and a tenth comes each time: twice ten times is more than enough.
    np.testing.assert_allclose(before.served, target, atol=1e-2)


def test_the_same_run_gives_the_same_public_weights() -> None:
    first, second = (link(down="int8").advance(state(START, 1), state(START + 0.5, 2)) for _ in range(2))
    assert first[0].served.tobytes() == second[0].served.tobytes()
    assert first[1] is not None
    assert second[1] is not None
    assert first[1][1].crc32 == second[1][1].crc32


def test_weights_that_are_not_finite_come_whole() -> None:
    broken = START.copy()
    broken[3] = np.inf
    after, change = link(down="int8").advance(state(START, 1), state(broken, 2))
    assert change is None
    assert after.served.tobytes() == broken.tobytes()
    mended, change = link(down="int8").advance(after, replace(state(START, 3)))
    assert change is None
    assert mended.served.tobytes() == START.tobytes()
