"""The methods of EdgeService, which edges call at the leader or at an edge above them."""

from __future__ import annotations

from protos import edge_pb2, leader_pb2
from utils.wire.contract import Method, many, one
from utils.wire.rpc import MAX_MESSAGE_BYTES

SERVICE = "edge.EdgeService"
VERSION = 3  # of the contract between leader and edges
# What is said holds the layout of the model, or names all updates of a sum.
JOIN = Method(
    SERVICE, "Join", many(edge_pb2.EdgeUp, MAX_MESSAGE_BYTES), many(edge_pb2.EdgeDown, MAX_MESSAGE_BYTES)
)
PUT_SUM = Method(SERVICE, "PutSum", many(edge_pb2.SumChunk, MAX_MESSAGE_BYTES), one(leader_pb2.Ack))
