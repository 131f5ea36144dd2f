"""Kafka: updates of ResNet-18 into a log that goes by slice of the model, and into one that goes by update.

A broker, two aggregators and this process, which writes as an edge does and asks for the sum as the leader does, on one
machine. Two kinds in turns; the sums are compared with one ExactSum.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from grpc import aio

from benchmarks.result import Figure, Result, SkippedError, Target
from benchmarks.rounds.by_client import go_by_client
from benchmarks.spread import Spread
from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution, Elsewhere
from leader.aggregation.exact_sum import Scale
from leader.aggregation.weighting import ByExamples
from leader.config.yaml_file import SCHEMA
from leader.distributed.edge_below import Partial
from leader.distributed.hub import Hub
from leader.distributed.messages import layout_message, scale_message
from leader.distributed.service import edge_handler
from leader.edge.service import refuse_call
from leader.update_log.kafka import KafkaLog, settings_of
from leader.update_log.log_sums import LogSums
from leader.update_log.logged_updates import LoggedUpdates
from leader.update_log.run_log import RunLog, opened_plan
from model.fragments import Fragments
from model.layout import Entry, Layout
from protos import edge_pb2
from scripts.demo import free_port
from tests.tools.kafka import OWN_COMMANDS, tansu
from utils.errors import NotReadyError
from utils.wire.payload import Payload, encode_header, parse_header

_PARAMETERS = 11_173_962  # of ResNet-18
_PARTITIONS, _AGGREGATORS, _LEARNERS = 8, 2, 16
_KEY = b"k" * 32
_SCALE = Scale.of(1024.0, 10_000)


@dataclass(frozen=True)
class Round:
    """One sum of all updates."""

    seconds: float  # from the first upload to the mean
    closing_s: float  # from the end of the last upload to the mean
    aggregators_cpu_s: float


def measure(quick: bool) -> Result:
    """Rounds by slice and by client in turns, each with a broker of its own."""
    if not (OWN_COMMANDS / "calfkit-python").exists():
        raise SkippedError("no broker: .ci/services brings one")
    turns, rounds = (1, 1) if quick else (3, 3)
    found: dict[str, list[Round]] = {"by slice": [], "by client": []}
    for turn in range(turns):
        for kind in list(found)[:: -1 if turn % 2 else 1]:
            # In a process of its own, as what a kind is stands in a module.
            found[kind] += _apart(kind, rounds)
    return result(found)


def result(found: dict[str, list[Round]]) -> Result:
    """Figures of both kinds, and what is promised of them."""
    spreads = {
        (kind, name): Spread.of([getattr(one, name) for one in rounds])
        for kind, rounds in found.items()
        for name in ("seconds", "closing_s", "aggregators_cpu_s")
    }
    ratio = spreads["by client", "seconds"].median / spreads["by slice", "seconds"].median
    texts = {
        "seconds": "round",
        "closing_s": "last upload to the mean",
        "aggregators_cpu_s": "CPU of all aggregators a round",
    }
    return Result(
        entry="kafka",
        about=f"{_LEARNERS} updates of ResNet-18 through Tansu (not Apache Kafka), {_PARTITIONS} partitions, "
        f"{_AGGREGATORS} aggregators, all on one machine",
        target=Target("round by slice, to one by client", "", 1 / ratio, 1 / 1.3),
        further=(
            Target("last upload to the mean, by slice", "s", spreads["by slice", "closing_s"].median, 2.0),
        ),
        figures=tuple(
            Figure(f"{kind}: {texts[name]}", "s", spread) for (kind, name), spread in spreads.items()
        ),
        ratios={"by client to by slice": ratio},
    )


def _apart(kind: str, rounds: int) -> list[Round]:
    command = [sys.executable, "-m", "benchmarks.rounds.kafka_sums", kind, str(rounds)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Round(*map(float, line.split())) for line in told.splitlines()]


def main(kind: str, rounds: int) -> None:
    """Print the figures of each round, without a first one that warms up."""
    if kind == "by client":
        go_by_client()
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        folder, address = Path(scratch), f"127.0.0.1:{free_port()}"
        with tansu(address, folder):
            for one in asyncio.run(_Stage(address, kind, folder).play(rounds + 1))[1:]:
                print(one.seconds, one.closing_s, one.aggregators_cpu_s)


class _Stage:
    """The leader's and an edge's end of a log; aggregators join it as they would a leader."""

    def __init__(self, address: str, kind: str, folder: Path) -> None:
        settings = (("--set", "services.kafka.brokers", address), ("--set", "edges.listen", "127.0.0.1:0"))
        config = SCHEMA.build(SCHEMA.from_text(settings))
        self._layout = Layout((Entry("weight", (_PARAMETERS,), 0, _PARAMETERS),), (), frozenset())
        welcome = edge_pb2.Welcome(
            run_id="benchmark",
            key=_KEY,
            config=config.model_dump_json(by_alias=True),
            layout=layout_message(self._layout),
            heartbeat_s=10.0,
        )
        self._hub = Hub(
            lambda: edge_pb2.Welcome.FromString(welcome.SerializeToString()),
            _refuse_receipt,
            silent_s=600,
            sum_s=600,
        )
        self._kafka = KafkaLog(settings_of(address, None))
        self._log = RunLog(self._kafka, "model-updates", "benchmark", _KEY)
        self._sums = LogSums(self._log, Fragments(self._layout), _PARTITIONS, quiet_s=600)
        self._module = "leader.aggregator" if kind == "by slice" else "benchmarks.rounds.by_client"
        self._folder = folder

    async def play(self, rounds: int) -> list[Round]:
        """Sum all updates, again and again."""
        server = aio.server()
        server.add_generic_rpc_handlers((edge_handler(lambda: self._hub, refuse_call),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with _aggregators(self._module, port, self._folder) as crew:
            found = [await self._round(number, crew) for number in range(rounds)]
            self._hub.end("done")
            for process in crew:
                await asyncio.to_thread(process.wait, 60)
        await server.stop(1.0)
        self._kafka.close()
        return found

    async def _round(self, number: int, crew: list[psutil.Popen]) -> Round:
        updates = [self._update(number, learner) for learner in range(_LEARNERS)]
        opened = edge_pb2.Open(scale=scale_message(_SCALE))
        self._sums.open(opened)
        plan = opened_plan(opened, self._layout, _PARTITIONS)
        edge = LoggedUpdates(self._layout, _SCALE, ByExamples()).to(self._log, plan)
        before, start = _cpu_s(crew), time.perf_counter()
        for update in updates:
            await asyncio.to_thread(edge.add, update)
        uploaded = time.perf_counter()
        taken: list[Partial] = []

        async def take(partial: Partial) -> None:
            taken.append(partial)

        uids = [update.elsewhere.uid for update in updates if update.elsewhere]
        lost = await self._sums.collect(uids, take)
        assert not lost
        mean = Aggregate(self._layout, _SCALE, ByExamples())
        for update in updates:
            mean.count(update)
        mean.merge(mean.parts, taken[0].weights, taken[0].data)
        mean.finish()
        end = time.perf_counter()
        self._check(updates, taken[0])
        return Round(end - start, end - uploaded, _cpu_s(crew) - before)

    def _update(self, number: int, learner: int) -> Contribution:
        rng = np.random.default_rng([number, learner])
        values = rng.normal(size=_PARAMETERS).astype(np.float32)
        manifest = parse_header(encode_header([("weight", "F32", (_PARAMETERS,))]))
        uid = rng.bytes(16)
        told = Elsewhere(uid, 0.0, buffers=False)
        return Contribution(
            uid.hex(), 64, Payload(manifest, values.view(np.uint8), learner), 0.5, 1, elsewhere=told
        )

    def _check(self, updates: list[Contribution], partial: Partial) -> None:
        whole = Aggregate(self._layout, _SCALE, ByExamples())
        for update in updates:
            whole.add(update)
        weights, (words,) = whole.summed()
        assert (weights, partial.data.tobytes()) == (partial.weights, words.tobytes())


async def _refuse_receipt(receipt: edge_pb2.Receipt) -> None:
    raise NotReadyError("nobody sends receipts here")


@contextmanager
def _aggregators(module: str, port: int, folder: Path) -> Iterator[list[psutil.Popen]]:
    crew = []
    try:
        for number in range(_AGGREGATORS):
            with (folder / f"aggregator-{number}.log").open("wb") as log:
                command = [sys.executable, "-m", module, "--leader", f"127.0.0.1:{port}"]
                crew.append(psutil.Popen(command, stdout=log, stderr=log))
        yield crew
    finally:
        for process in crew:
            if process.poll() is None:
                process.kill()
                process.wait()


def _cpu_s(crew: list[psutil.Popen]) -> float:
    times = [process.cpu_times() for process in crew]
    return sum(time.user + time.system for time in times)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
