"""Chaos: a real broker (Tansu), aggregators that are killed and stopped, uploads that come twice or in half.

Every sum is compared with one ExactSum, integer by integer.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grpc import aio

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution, Elsewhere
from leader.aggregation.weighting import FedNova
from leader.config import RunConfig
from leader.config.yaml_file import SCHEMA
from leader.distributed.edge_below import Partial
from leader.distributed.hub import Hub
from leader.distributed.messages import layout_message, scale_message
from leader.distributed.service import edge_handler
from leader.edge.service import refuse_call
from leader.update_log.kafka import KafkaLog, settings_of
from leader.update_log.log_sums import LogSums
from leader.update_log.logged_updates import LoggedUpdates, kinds_of, records_of
from leader.update_log.run_log import RunLog, plan_of
from model.fragments import Fragments
from protos import edge_pb2
from tests.integration.harness import Cluster, Program, cluster_in
from tests.leader.update_log.test_log_sums import LARGE, SCALE, update
from tests.tools.kafka import tansu
from tests.tools.needs import needs
from tests.tools.ports import closed_address
from utils.errors import NotReadyError

pytestmark = [needs("confluent_kafka"), pytest.mark.timeout(300)]
KEY = b"k" * 32
WEIGHTING = FedNova(0.9)
PARTITIONS = 8
QUIET_S = 1.0  # of a group that needs as long to notice that one of it is gone: then the leader sums
UPLOADS = 5
#: What happens to processes in each round, before its sum is asked for (or "while": meanwhile).
FAULTS = ["", "kill", "while kill", "stop", "kill", "term", "while stop", "broker", "kill", ""]


class Stage:
    """The leader's and the edges' ends of a log, in this process; the aggregators join it as they would a leader."""

    def __init__(self, address: str, cluster: Cluster) -> None:
        settings = (("--set", "services.kafka.brokers", address), ("--set", "edges.listen", "127.0.0.1:0"))
        config: RunConfig = SCHEMA.build(SCHEMA.from_text(settings))
        welcome = edge_pb2.Welcome(
            run_id="r",
            key=KEY,
            config=config.model_dump_json(by_alias=True),
            layout=layout_message(LARGE),
            heartbeat_s=1.0,
        )
        self.hub = Hub(
            lambda: edge_pb2.Welcome.FromString(welcome.SerializeToString()),
            self._none,
            silent_s=60,
            sum_s=60,
        )
        self.kafka = KafkaLog(settings_of(address, None))
        self.log = RunLog(self.kafka, "model-updates", "r", KEY)
        self.sums = LogSums(self.log, Fragments(LARGE), PARTITIONS, QUIET_S)
        self.properties = cluster.folder / "kafka.properties"
        self.properties.write_text("session.timeout.ms=1000\nheartbeat.interval.ms=150\n")
        self.cluster = cluster
        self.crew: list[Program] = []
        self.done: Counter[str] = Counter()
        self.random = random.Random(7)

    async def _none(self, receipt: edge_pb2.Receipt) -> None:
        raise AssertionError("no edge is here")

    async def start(self) -> None:
        """Listen for aggregators, and start three."""
        self.server = aio.server()
        self.server.add_generic_rpc_handlers((edge_handler(lambda: self.hub, refuse_call),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        for _ in range(3):
            self.more()

    def more(self) -> None:
        """Another aggregator, whose group notices soon when one is gone."""
        command = ["leader.aggregator", "--leader", f"127.0.0.1:{self.port}", "--log-format", "json"]
        command += ["--kafka-properties", str(self.properties)]
        self.crew.append(self.cluster.program("aggregator", command))

    def hurt(self, fault: str) -> None:
        """One aggregator is killed, stopped for longer than its session, or asked to end; another one comes."""
        victim = self.crew.pop(self.random.randrange(len(self.crew)))
        self.done[fault] += 1
        match fault:
            case "kill":
                victim.kill()
            case "term":
                victim.signal(signal.SIGTERM)
            case "stop":
                victim.signal(signal.SIGSTOP)
                asyncio.get_running_loop().call_later(2.0, victim.signal, signal.SIGCONT)
        self.more()

    def edge(self, opened: edge_pb2.Open) -> LoggedUpdates:
        count = LARGE.total
        plan = plan_of(opened.log, opened.scale, LARGE.shared_parameter_count, count, PARTITIONS)
        return LoggedUpdates(LARGE, SCALE, WEIGHTING).to(self.log, plan)

    async def upload(self, edge: LoggedUpdates, one: Contribution) -> Contribution:
        """One upload that comes through in the end, perhaps twice or after a half one; as it is counted."""
        while True:
            uid = self.random.randbytes(16)
            fresh = replace(one, part=uid.hex(), elsewhere=Elsewhere(uid, 0.0, buffers=True))
            try:
                if self.random.random() < 0.3:
                    self.done["half upload"] += 1
                    plan = edge._log_plan
                    kinds = kinds_of(plan, edge.terms(one))
                    records = list(records_of(plan, self.random.randbytes(16), kinds))
                    await asyncio.to_thread(self.log.put, self.random.sample(records, 2))
                await asyncio.to_thread(edge.add, fresh)
                if self.random.random() < 0.4:
                    self.done["sent twice"] += 1
                    await asyncio.to_thread(edge.add, fresh)
            except NotReadyError:
                self.done["refused"] += 1
                await asyncio.sleep(0.2)
                continue
            if self.random.random() < 0.2:
                self.done["not counted"] += 1
                continue
            return fresh

    async def collect(self, members: Sequence[Contribution]) -> tuple[Partial | None, frozenset[bytes]]:
        taken: list[Partial] = []

        async def take(partial: Partial) -> None:
            taken.append(partial)

        uids = [one.elsewhere.uid for one in members if one.elsewhere]
        lost = await self.sums.collect(uids, take)
        return (taken[0] if taken else None), lost

    async def round(self, number: int, fault: str, broker: Broker) -> None:
        """One sum, with a fault of a process amid the uploads, or while the sum is asked for."""
        opened = edge_pb2.Open(scale=scale_message(SCALE))
        self.sums.open(opened)
        edge = self.edge(opened)
        members: list[Contribution] = []
        wanted = [update(100 * number + n, LARGE) for n in range(UPLOADS)]
        for at, one in enumerate(wanted):
            if at == UPLOADS // 2 and fault == "broker":
                self.done["broker"] += 1
                await asyncio.to_thread(broker.again)
                await asyncio.to_thread(self.log.make, PARTITIONS)  # it has forgotten everything
            elif at == UPLOADS // 2 and fault and not fault.startswith("while"):
                self.hurt(fault)
            members.append(await self.upload(edge, one))
        if fault.startswith("while"):
            asyncio.get_running_loop().call_later(0.02, self.hurt, fault.removeprefix("while "))
        partial, lost = await self.collect(members)
        while lost:
            self.done["lost"] += len(lost)
            again = [n for n, one in enumerate(members) if one.elsewhere and one.elsewhere.uid in lost]
            for n in again:
                members[n] = await self.upload(edge, wanted[n])
            partial, lost = await self.collect(members)
        assert partial is not None
        assert_exact(partial, members)

    async def end(self) -> None:
        """Tell the aggregators that the run is over; those that are awake leave with 0."""
        await asyncio.gather(*self.sums._chores)
        self.hub.end("done")
        for one in self.crew:
            await asyncio.to_thread(one.succeed)
        await self.server.stop(1.0)
        self.kafka.close()


class Broker:
    """Tansu at one address, which can be killed and started anew."""

    def __init__(self, address: str, folder: Path) -> None:
        self._place = address, folder
        self._stack = ExitStack()
        self._stack.enter_context(tansu(*self._place))

    def again(self) -> None:
        """Kill it, and start one that knows nothing."""
        self._stack.close()
        self._stack.enter_context(tansu(*self._place))

    def end(self) -> None:
        self._stack.close()


def assert_exact(partial: Partial, members: Sequence[Contribution]) -> None:
    whole = Aggregate(LARGE, SCALE, WEIGHTING)
    for one in members:
        whole.add(one)
    weights, arrays = whole.summed()
    assert partial.weights == weights
    assert partial.data.tobytes() == np.concatenate(arrays).tobytes()


def test_whatever_happens_to_processes_and_uploads_each_sum_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leader.update_log.run_log._AWAY_S", 0.1)

    async def play(cluster: Cluster, address: str, broker: Broker) -> Counter[str]:
        stage = Stage(address, cluster)
        await stage.start()
        for number, fault in enumerate(FAULTS):
            await stage.round(number, fault, broker)
        await stage.end()
        return stage.done

    address = closed_address()
    broker = Broker(address, tmp_path)
    try:
        with cluster_in(tmp_path) as cluster:
            done = asyncio.run(play(cluster, address, broker))
    finally:
        broker.end()
    processes = {name: done[name] for name in ("kill", "term", "stop", "broker")}
    assert processes == {"kill": 4, "term": 1, "stop": 2, "broker": 1}
    assert done["half upload"] + done["sent twice"] + done["not counted"] >= 20
