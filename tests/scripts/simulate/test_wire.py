"""What the simulation counts as bytes on the wire is what the leader's service would send."""

from __future__ import annotations

import numpy as np
import pytest

from leader.data.shard_stream import stream_shard
from leader.global_model.versions import VersionStore
from learner.training.update import Update
from learner.wire.encoding import Coding
from learner.wire.whole_update import HeldUpdate
from model.layout import Entry, Layout
from protos import leader_pb2
from scripts.simulate.wire import Downloads, message_bytes, shard_bytes, upload
from utils.datasets import Dataset

LAYOUT = Layout((Entry("weight", (3, 5), 0, 15),), (Entry("mean", (4,), 15, 4),))


@pytest.mark.parametrize("examples", [1, 2, 70, 341])
@pytest.mark.parametrize("chunk_bytes", [1024, 1 << 16, 1 << 20])
def test_a_shard_counts_as_many_bytes_as_its_stream_has(examples: int, chunk_bytes: int) -> None:
    data = Dataset("noise", np.zeros((400, 3, 32, 32), np.uint8), np.zeros(400, np.int64), ("a",))
    sent = sum(map(len, stream_shard(data, np.arange(examples), chunk_bytes)))
    assert shard_bytes(examples, (3, 32, 32), chunk_bytes) == sent


def test_a_model_is_read_as_it_was_encoded_and_only_once() -> None:
    store, vector = VersionStore(LAYOUT, 1024), np.arange(19, dtype=np.float32)
    version, downloads = store.encode(7, vector, vector[:15] + 100), Downloads(LAYOUT)
    read = downloads.read(version)
    assert read.vector.tolist() == vector.tolist()
    assert read.control is not None
    assert read.control.tolist() == [100 + i for i in range(15)]
    assert downloads.read(version) is read
    assert message_bytes(version) == sum(len(message) for message in version.messages)


def test_an_update_reaches_the_leader_as_its_bytes_would() -> None:
    update = Update(np.arange(19, dtype=np.float32), 4, 8, 0.5, 1.0)
    order = leader_pb2.WorkOrder(work_id="w", round=1, exchange="delta", local_steps=1)
    file, _ = Coding(leader_pb2.RunDescription(), LAYOUT).encode(order, update.values, {})
    sent = upload(HeldUpdate.of(order, update, file))
    assert sent.bytes == sent.payload.manifest.total_bytes
    assert sent.header is not None
    assert sent.header.crc32 == sent.payload.crc32
    assert sent.payload.arrays()["mean"].tolist() == [15, 16, 17, 18]
