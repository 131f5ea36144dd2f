from __future__ import annotations

import pytest
from google.protobuf.descriptor import MethodDescriptor

from protos import leader_pb2, learner_pb2
from utils.errors import PayloadError
from utils.wire import contract
from utils.wire.contract import Method

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
