"""What orders start from: examples and models, kept from one to the next and fetched where they are not here."""

from __future__ import annotations

import logging
from collections.abc import Callable

from learner.wire.connection import Connection, Endpoint
from learner.wire.edges import UNREADABLE, Edges
from learner.wire.transfer import Download, pull_model, pull_shard, read_model
from learner.work.workbench import Workbench
from model.image_classification import Shard
from model.task import Examples
from protos import leader_pb2
from utils.errors import LateUpdateError
from utils.vector import Vector

_log = logging.getLogger(__name__)


class Inputs:
    """Shards and the newest model of one run."""

    def __init__(
        self,
        network_addr: str,
        own: Examples | None,
        edges: Edges,
        connected: Callable[[], Connection],
        latest: Callable[[leader_pb2.WorkOrder], leader_pb2.WorkOrder],
    ) -> None:
        """`own` are a learner's own examples; `latest` is an order as it was given last.

        `connected` gives the connection of now, or raises UnreachableError.
        """
        self._network_addr, self._own, self._edges = network_addr, own, edges
        self._connected, self._latest = connected, latest
        self._shards: dict[int, Shard] = {}
        self._base: tuple[int, Download] | None = None  # version and what came for it
        self._inline: tuple[int, bytes] | None = None  # the same for an order that has not needed it yet

    def clear(self) -> None:
        """Another run has begun."""
        self._shards.clear()
        self._base = self._inline = None

    def has(self, version: int) -> bool:
        """Whether this version of the model is here."""
        return self._base is not None and self._base[0] == version

    def took(self, version: int, vector: Vector) -> None:
        """A version has come by itself."""
        self._base = (version, Download(vector))

    def came(self, version: int, model: bytes) -> None:
        """The file of a version has come with an order."""
        self._inline = (version, model)

    async def of(self, order: leader_pb2.WorkOrder, bench: Workbench) -> tuple[Examples, Download]:
        """Examples and model of an order; raises FlockstepError or a gRPC error if they can't be had."""
        examples = await self._examples(self._connected(), order)
        if self._base is None or self._base[0] != order.version:
            self._base = (order.version, await self._model(bench, order))
        return examples, self._base[1]

    async def _model(self, bench: Workbench, order: leader_pb2.WorkOrder) -> Download:
        """The order's model version, from where it can be had."""
        inline, self._inline = self._inline, None
        if inline is not None and inline[0] == order.version:
            return read_model(inline[1], order, bench.layout)
        base, changes = self._base, bench.changes(order)
        return await self._edges.ask(
            self._latest(order).via,
            self.leader,
            lambda at: pull_model(at, order, bench.layout, base, changes),
            UNREADABLE,
        )

    def leader(self) -> Endpoint:
        """Where everything can be had."""
        return self._connected().leader

    async def _examples(self, connection: Connection, order: leader_pb2.WorkOrder) -> Examples:
        if not order.HasField("shard"):
            if self._own is None:
                raise LateUpdateError("the order is for own data, but this learner has none")
            return self._own
        if order.shard not in self._shards:
            classes = connection.run.classes
            shard = await pull_shard(
                connection.stub, connection.token, order.shard, self._network_addr, classes
            )
            _log.info("received shard %d: %d examples", order.shard, len(shard))
            self._shards[order.shard] = shard
        return self._shards[order.shard]
