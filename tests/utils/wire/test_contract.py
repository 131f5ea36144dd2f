from __future__ import annotations

import pytest
from google.protobuf.descriptor import MethodDescriptor

from protos import leader_pb2, learner_pb2
from utils.errors import LimitError, PayloadError
from utils.wire import contract
from utils.wire.contract import Method
from utils.wire.rpc import MAX_MESSAGE_BYTES

TABLE = {
    f"{method.service}.{method.name}": method
    for method in vars(contract).values()
    if isinstance(method, Method)
}
DESCRIBED: dict[str, MethodDescriptor] = {
    method.full_name: method
    for file in (leader_pb2, learner_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def test_the_table_has_every_method_of_the_proto_files() -> None:
    assert TABLE.keys() == DESCRIBED.keys()


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_method_streams_as_its_proto_file_says(name: str) -> None:
    streams = (DESCRIBED[name].client_streaming, DESCRIBED[name].server_streaming)
    assert (TABLE[name].asked.number == "stream", TABLE[name].told.number == "stream") == streams


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_method_reads_what_the_messages_of_its_proto_file_are_written_as(name: str) -> None:
    method, described = TABLE[name], DESCRIBED[name]
    for messages, kind in ((method.asked, described.input_type), (method.told, described.output_type)):
        message = getattr(learner_pb2 if kind.full_name.startswith("learner.") else leader_pb2, kind.name)()
        if "chunk" in kind.fields_by_name:
            message.chunk = b"abc"
        raw = message.SerializeToString()
        read = messages.read(raw)
        assert read == message or bytes(read) == b"abc"
        assert messages.write(raw if isinstance(read, memoryview) else read) == raw
        with pytest.raises(PayloadError, match="no message of this contract"):
            messages.read(b"\xff")


#: What may be larger than a few settings: what holds a model, or grows with the model or the learners.
BIG = {
    "leader.LeaderMessage",  # a roster of secure aggregation
    "leader.AckWithMetadata",
    "leader.WorkOrders",
    "leader.ModelChunk",
    "leader.DataChunk",
    "learner.ModelState",
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_message_is_bounded_before_objects_are_made_of_it(name: str) -> None:
    method, described = TABLE[name], DESCRIBED[name]
    for messages, kind in ((method.asked, described.input_type), (method.told, described.output_type)):
        unknown = b"\xf2\x07" + b"\x80\x80\x08" + bytes(1 << 17)  # a field of a later release
        if kind.full_name in BIG:
            messages.read(unknown)
            unknown = bytes(MAX_MESSAGE_BYTES + 1)
        with pytest.raises(LimitError, match="bytes in one message"):
            messages.read(unknown)
