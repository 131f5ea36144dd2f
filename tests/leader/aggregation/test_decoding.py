from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from leader.aggregation.aggregate import check_update
from leader.aggregation.decoding import Decoder
from leader.config import CodecConfig
from learner.wire.encoding import Coding
from model.layout import Entry, Layout
from protos import leader_pb2
from utils.codecs.files import File
from utils.errors import PayloadError
from utils.vector import Vector
from utils.wire.payload import Payload, PayloadReader

LAYOUT = Layout((Entry("a", (40, 30), 0, 1200), Entry("b", (30,), 1200, 30)), (Entry("mean", (4,), 1230, 4),))
VALUES = np.random.Generator(np.random.PCG64(3)).standard_normal(LAYOUT.total).astype(np.float32)
ORDER = leader_pb2.WorkOrder(exchange="delta", local_steps=1, seed=5)
PIECE = 64 << 10


def coding(spec: str, layout: Layout = LAYOUT, *, zstd: bool = False) -> Coding:
    return Coding(leader_pb2.RunDescription(codec_up=spec, piece_bytes=PIECE, zstd=zstd), layout)


def decoder(codec: Mapping[str, object] | None = None, layout: Layout = LAYOUT) -> Decoder:
    return Decoder(CodecConfig.model_validate({"piece_bytes": PIECE, **(codec or {})}), layout)


def payload(file: File) -> Payload:
    reader = PayloadReader(max_bytes=1 << 20, header_bytes=1 << 16)
    reader.feed(file.header)
    reader.feed(file.body.data)
    return reader.finish()


def sent(spec: str, layout: Layout = LAYOUT, *, zstd: bool = False) -> Payload:
    return payload(coding(spec, layout, zstd=zstd).encode(ORDER, VALUES, {})[0])


CODECS: Mapping[str, tuple[str, dict[str, object], float]] = {
    "bf16": ("bf16", {"up": "bf16"}, 2.0**-8),
    "fp16": ("fp16", {"up": "fp16"}, 2.0**-11),
    "int8": ("int8", {"up": "int8"}, 0.04),
    "int4": ("int4", {"up": "int4"}, 0.7),
    "topk": ("topk:1", {"up": "topk", "fraction": 1.0}, 2.0**-3),
    "powersgd": ("powersgd:40", {"up": "powersgd", "rank": 40}, 0.02),
}


@pytest.mark.parametrize("zstd", [False, True])
@pytest.mark.parametrize("name", CODECS)
def test_an_encoded_update_is_read_as_a_plain_one(name: str, zstd: bool) -> None:
    spec, config, error = CODECS[name]
    update, reader = sent(spec, zstd=zstd), decoder(config)
    reader.check(update.manifest)
    read = reader.decode(update)
    check_update(LAYOUT, read.manifest)
    assert read.crc32 == update.crc32
    decoded = read.data.view(np.float32)
    np.testing.assert_allclose(decoded[:1230], VALUES[:1230], atol=error, rtol=error)
    assert decoded[1230:].tobytes() == VALUES[1230:].tobytes()


def test_what_stays_local_is_left_out_and_the_rest_keeps_its_names() -> None:
    layout = LAYOUT.keeping(["a"])
    update, reader = sent("fp16", layout), decoder({"up": "fp16"}, layout)
    reader.check(update.manifest)
    read = reader.decode(update)
    check_update(layout, read.manifest)
    np.testing.assert_allclose(read.arrays()["b"].view(np.float32), VALUES[1200:1230], rtol=2.0**-11)
    assert read.arrays()["mean"].tobytes() == VALUES[1230:].tobytes()


def test_a_learner_without_the_codec_sends_float32() -> None:
    update, reader = sent(""), decoder({"up": "int8"})
    reader.check(update.manifest)
    assert reader.decode(update) is update


@pytest.mark.parametrize(
    ("spec", "config", "ours"),
    [
        ("int8", {}, "none"),
        ("topk:0.5", {"up": "topk"}, "none or topk:0.01"),
        ("fp16", {"up": "int8"}, "int8"),
    ],
)
def test_another_codec_is_refused_by_name(spec: str, config: dict[str, object], ours: str) -> None:
    with pytest.raises(PayloadError, match=f"encoded with '{spec}'; this run takes .*{ours}"):
        decoder(config).check(sent(spec).manifest)


def test_an_update_that_another_piece_size_has_cut_is_refused() -> None:
    file, _ = Coding(leader_pb2.RunDescription(codec_up="int8", piece_bytes=64), LAYOUT).encode(
        ORDER, VALUES, {}
    )
    with pytest.raises(PayloadError):
        decoder({"up": "int8"}).check(payload(file).manifest)


def test_bytes_that_zstd_did_not_write_are_refused() -> None:
    small = payload(coding("fp16", zstd=True).encode(ORDER, np.zeros_like(VALUES), {})[0])
    reader = decoder({"up": "fp16"})
    assert [tensor.name for tensor in small.manifest.tensors] == ["zstd"]
    reader.check(small.manifest)
    with pytest.raises(PayloadError, match="not one zstd frame"):
        reader.decode(Payload(small.manifest, np.zeros_like(small.data), 0))


def test_scores_alone_send_nothing_that_was_held_back() -> None:
    these = coding("topk:0.01")
    _, remembered = these.encode(ORDER, VALUES, {})
    assert remembered
    asked = leader_pb2.WorkOrder(exchange="delta", local_steps=0, evaluate=True)
    file, after = these.encode(asked, np.zeros_like(VALUES), remembered)
    assert not after
    assert not decoder({"up": "topk"}).decode(payload(file)).data.any()


def test_what_was_held_back_comes_with_later_updates() -> None:
    these, reader = coding("topk:0.5"), decoder({"up": "topk", "fraction": 0.5})
    total = np.zeros(1230, np.float32)
    remembered: Mapping[str, Vector] = {}
    for turn in range(12):
        file, remembered = these.encode(ORDER, VALUES if turn == 0 else np.zeros_like(VALUES), remembered)
        total += reader.decode(payload(file)).data.view(np.float32)[:1230]
    np.testing.assert_allclose(total, VALUES[:1230], atol=1e-3)
