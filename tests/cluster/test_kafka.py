"""Runs whose updates go through edges into Kafka (Tansu, noida-db): the bits of the run without it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from types import MappingProxyType

import pytest

from leader.aggregator.app import App as AggregatorApp
from leader.edge.options import JoinOptions
from leader.events import RoundCommitted, UpdateAccepted, UpdatesLost
from leader.update_log import kafka
from leader.update_log.base import Entry
from leader.update_log.kafka import KafkaLog, settings_of
from leader.update_log.log_sums import Gathering, LogSums
from leader.update_log.recall import Recall
from leader.update_log.run_log import RunLog
from learner.wire.connection import Endpoint
from learner.wire.whole_update import HeldUpdate
from learner.work.worker import Worker
from scripts.cluster import Cluster
from tests.cluster.test_edges import EDGED, FOUR, Slow, all_but_d, edged
from tests.clusters import TIMEOUT_S, Scenario, Settings, join, one_edge, play, train
from tests.tools.kafka import noida, tansu
from tests.tools.needs import needs
from tests.tools.ports import closed_address, free_port

pytestmark = needs("confluent_kafka")
_LAST = b"last"
Broker = Callable[[str, Path], AbstractContextManager[object]]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a leader makes sums itself after a second without, what stands in the log has longer to come."""
    recalled, summed = Recall.read, LogSums._sum

    def recall(self: Recall, log: RunLog, quiet_s: float) -> None:
        recalled(self, log, TIMEOUT_S)

    def sum_up(self: LogSums, gathering: Gathering, partition: int, close: int) -> None:
        self._quiet_s, told = TIMEOUT_S, self._quiet_s
        try:
            summed(self, gathering, partition, close)
        finally:
            self._quiet_s = told

    monkeypatch.setattr(Recall, "read", recall)
    monkeypatch.setattr(LogSums, "_sum", sum_up)


def aggregators(cluster: Cluster, *names: str) -> list[asyncio.Future[str]]:
    """Some of them, which follow the leader."""
    address = (cluster.run_dir / "edges").read_text()
    apps = [AggregatorApp(JoinOptions(leader=address, name=name)) for name in names]
    return [asyncio.ensure_future(app.follow()) for app in apps]


async def with_aggregators(cluster: Cluster) -> None:
    """Two aggregators, two edges and four learners."""
    following = aggregators(cluster, "one", "two")
    await edged(cluster)
    await asyncio.gather(*following)


def logged(
    address: str, settings: Settings, caplog: pytest.LogCaptureFixture, scenario: Scenario = with_aggregators
) -> Cluster:
    """A run whose sums aggregators make: it has the bits of the run without."""
    through = play(
        scenario, {**EDGED, **settings, "services.kafka.brokers": address, "edges.sum_timeout_s": 30}
    )
    plain = play(train, {**FOUR, **settings})
    assert not [one for one in caplog.messages if "no aggregator has summed" in one]
    assert through.model_sha256 == plain.model_sha256
    assert [e.loss for e in through.seen(RoundCommitted)] == [e.loss for e in plain.seen(RoundCommitted)]
    return through


def assert_each_counted_once(through: Cluster) -> None:
    """Each of the twelve updates counts once, and once more where the log did not have it whole when that was asked."""
    lost = [part for event in through.seen(UpdatesLost) for part in event.parts]
    assert len(through.seen(UpdateAccepted)) == 12 + len(lost)


def in_topic(address: str, topic: str, partitions: int) -> list[bytes]:
    """What stands in a topic: in each partition what was there before a last record, which is written now."""
    log = KafkaLog(settings_of(address, None))
    log.put(topic, [Entry(partition, b"", _LAST) for partition in range(partitions)])
    found: list[bytes] = []
    deadline = time.monotonic() + TIMEOUT_S
    for partition in range(partitions):
        for record in log.scan(topic, partition, 0):
            assert time.monotonic() < deadline, found
            if record is not None and record[1] == _LAST:
                break
            if record is not None:
                found.append(record[1])
    log.close()
    return found


@pytest.mark.parametrize("broker", [tansu, noida])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"codec.up": "int8", "aggregate.weighting": "fednova", "train.momentum": 0.9},
        {"server.optimizer": "fedadam"},
        {"streaming.fragments": 3, "streaming.overlap_steps": 1},
    ],
    ids=str,
)
def test_the_bits_are_those_of_the_run_without(
    broker: Broker, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = closed_address()
    with broker(address, tmp_path):
        through = logged(address, settings, caplog)
        assert len(in_topic(address, f"model-updates.{through.app.description.run_id}", 8)) >= 12 * 2 + 3
        assert len(in_topic(address, f"model-sums.{through.app.description.run_id}", 1)) >= 3 * 2 + 3
    assert_each_counted_once(through)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_masked_words_add_up_in_a_log_to_the_bits_of_the_run_without(
    bits: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = closed_address()
    with noida(address, tmp_path):  # which lets a group begin at once, Tansu after three seconds
        through = logged(address, {"secagg.mode": "masked", "secagg.bits": bits}, caplog)
        records = in_topic(address, f"model-updates.{through.app.description.run_id}", 8)
    assert len(records) >= 12 * 2 + 3
    assert_each_counted_once(through)


RULES: list[Settings] = [
    {"aggregate.rule": "median", "aggregate.byzantine": 1},
    {
        "aggregate.rule": "trimmed_mean",
        "aggregate.byzantine": 1,
        "aggregate.clip_norm": 0.05,
        "codec.up": "int8",
    },
]


@pytest.mark.parametrize("settings", RULES, ids=str)
def test_a_rule_that_slices_of_the_model_have_gives_the_bits_of_the_run_without(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = closed_address()
    with noida(address, tmp_path):
        logged(address, settings, caplog)


def test_a_median_survives_an_aggregator_and_takes_what_came_to_the_leader(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(cluster: Cluster) -> None:
        one, two = aggregators(cluster, "one", "two")
        edge = await all_but_d(cluster)
        Slow.may.set()
        await cluster.until(lambda: len(cluster.seen(UpdateAccepted)) == 4, "no round")
        Slow.may.clear()
        await cluster.until(lambda: len(cluster.seen(UpdateAccepted)) == 7, "no second round")
        one.cancel()
        await edge.kill()  # its updates stay, and d sends to the leader
        Slow.may.set()
        await cluster.finished()
        await asyncio.wait((one, two))

    address = closed_address()
    with tansu(address, tmp_path):
        through = logged(address, RULES[0], caplog, scenario)
        records = in_topic(address, f"model-updates.{through.app.description.run_id}", 1)
    assert len(records) >= 2 * (4 + 1)  # of all four, and where the rule was asked for
    assert through.seen(UpdatesLost) == []


@contextmanager
def aggregator_process(cluster: Cluster, folder: Path) -> Iterator[Popen[str]]:
    """An aggregator of its own, which can be killed; its group misses it soon."""
    address = (cluster.run_dir / "edges").read_text()
    soon = folder / "kafka.properties"
    soon.write_text("session.timeout.ms=6000\nheartbeat.interval.ms=500\n")
    command = [sys.executable, "-m", "leader.aggregator", "--leader", address, "--name", "own"]
    command += ["--kafka-properties", str(soon)]
    with Popen(command, stdout=PIPE, stderr=STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def sums_some(process: Popen[str]) -> bool:
    """Returns once the group has given it partitions."""
    assert process.stdout is not None
    return any(re.search(r"summing partitions \d", line) for line in process.stdout)


def test_a_median_survives_an_aggregator_that_is_killed_in_mid_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(cluster: Cluster) -> None:
        with aggregator_process(cluster, tmp_path) as own:
            (other,) = aggregators(cluster, "other")
            await all_but_d(cluster)
            assert await asyncio.to_thread(sums_some, own)
            Slow.may.set()
            await cluster.until(lambda: len(cluster.seen(UpdateAccepted)) == 4, "no round")
            Slow.may.clear()
            await cluster.until(lambda: len(cluster.seen(UpdateAccepted)) == 7, "no second round")
            own.kill()
            assert await asyncio.to_thread(own.wait) == -signal.SIGKILL
            Slow.may.set()
            await cluster.finished()
            await other

    address = closed_address()
    with tansu(address, tmp_path):
        through = logged(address, RULES[0], caplog, scenario)
    assert through.seen(UpdatesLost) == []


def hurry(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Wait so long for a broker, and once it is away not again."""
    monkeypatch.setattr("leader.update_log.kafka._TIMEOUT_S", seconds)
    monkeypatch.setitem(kafka._PRODUCER, "delivery.timeout.ms", int(1000 * seconds))
    monkeypatch.setattr("leader.update_log.run_log._AWAY_S", 600.0)


def test_a_broker_that_is_away_from_the_start_costs_a_line_and_no_bit(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, 0.5)
    through = play(edged, {**EDGED, "services.kafka.brokers": closed_address()})
    assert through.model_sha256 == play(train, FOUR).model_sha256
    (said,) = [one for one in caplog.messages if "the run goes on" in one]
    assert said.startswith("Kafka does not make the topic model-updates.")


def test_a_broker_that_loses_a_round_costs_its_updates_and_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, 6.0)
    address = closed_address()

    async def scenario(cluster: Cluster) -> None:
        await all_but_d(cluster)
        broker.close()
        monkeypatch.setattr("leader.update_log.kafka._TIMEOUT_S", 0.5)  # nothing comes any more
        Slow.may.set()
        await cluster.event(UpdatesLost)
        await cluster.finished()

    with ExitStack() as broker:
        broker.enter_context(tansu(address, tmp_path))
        through = play(scenario, {**EDGED, "services.kafka.brokers": address, "edges.sum_timeout_s": 1})
    assert through.model_sha256 == play(train, FOUR).model_sha256
    assert through.seen(UpdatesLost)[0].parts[:3] == ("own-a", "own-b", "own-c")
    assert [e.learners for e in through.seen(RoundCommitted)] == [4, 4, 4]


class Sender(Worker):
    """A learner whose updates are listed once they are sent; d's only when they may be."""

    sent: list[str]
    three: asyncio.Event
    may: asyncio.Event

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        if self._connected().name == "d":
            await self.may.wait()
        await super()._send(to, held, resume=resume)
        self.sent.append(f"{self._connected().name} {held.round}")
        if len(self.sent) == 3:
            self.three.set()


def resumed(
    address: str,
    meanwhile: Callable[[Cluster], None],
    more: Settings = MappingProxyType({}),
    partitions: int = 8,
) -> tuple[Cluster, Counter[str]]:
    """A run whose leader is killed once three of four updates count, and what its learners have sent."""
    Sender.sent, Sender.three, Sender.may = [], asyncio.Event(), asyncio.Event()

    async def scenario(cluster: Cluster) -> None:
        await one_edge(cluster)
        for name in "abcd":
            join(cluster, name, worker=Sender)
        async with asyncio.timeout(TIMEOUT_S):
            await Sender.three.wait()
        await cluster.leader.kill()
        meanwhile(cluster)
        await cluster.resume(services__kafka__partitions=partitions)
        await cluster.until(lambda: len(cluster.seen(UpdateAccepted)) == 6, "they do not count again")
        # An edge that misses the end looks for its leader for minutes.
        await cluster.until(lambda: len(cluster.app.edges) == 1, "the edge is not back")
        Sender.may.set()
        await cluster.finished()

    settings = {"edges.listen": f"127.0.0.1:{free_port()}", "edges.sum_timeout_s": 1, **more}
    through = play(scenario, {**EDGED, **settings, "services.kafka.brokers": address})
    assert through.model_sha256 == play(train, {**FOUR, **more}).model_sha256
    assert [e.learners for e in through.seen(RoundCommitted)] == [4, 4, 4]
    return through, Counter(Sender.sent)


def test_what_counted_before_the_leader_was_killed_counts_after_it_and_is_not_sent_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = closed_address()

    def forge(cluster: Cluster) -> None:
        log = KafkaLog(settings_of(address, None))
        log.put(f"update-receipts.{cluster.app.description.run_id}", [Entry(0, b"", b"f" * 200)])
        log.close()

    with tansu(address, tmp_path):
        _, sent = resumed(address, forge)
    assert {one: sent[one] for one in sent if one[0] != "d"} == {
        f"{who} {n}": 1 for who in "abc" for n in (1, 2, 3)
    }
    (said,) = [one for one in caplog.messages if "a record in receipts" in one]
    assert "nobody of this run has written there" in said


@pytest.mark.parametrize("broker", [tansu, noida])
def test_an_aggregator_goes_on_while_the_leader_is_away(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its group may still be beginning then, which takes Tansu three seconds."""
    Sender.sent, Sender.three, Sender.may = [], asyncio.Event(), asyncio.Event()

    async def scenario(cluster: Cluster) -> None:
        (one,) = aggregators(cluster, "one")
        await one_edge(cluster)
        for name in "abcd":
            join(cluster, name, worker=Sender)
        await asyncio.wait_for(Sender.three.wait(), TIMEOUT_S)
        await cluster.leader.kill()
        await cluster.resume()
        await cluster.until(lambda: len(cluster.app.edges) == 1, "the edge is not back")
        Sender.may.set()
        await cluster.finished()
        one.cancel()  # it may not be back yet, and would look for its leader
        await asyncio.wait((one,))

    address, settings = closed_address(), {"edges.listen": f"127.0.0.1:{free_port()}"}
    with broker(address, tmp_path):
        logged(address, settings, caplog, scenario)


def test_what_was_masked_for_the_leader_before_is_masked_and_sent_again(tmp_path: Path) -> None:
    address = closed_address()
    with tansu(address, tmp_path):
        _, sent = resumed(address, lambda cluster: None, {"secagg.mode": "masked"})
    assert [sent[f"{who} 1"] for who in "abc"] == [2, 2, 2]


def test_a_broker_that_is_away_when_the_leader_goes_on_costs_a_line_and_updates_that_are_sent_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, 1.0)
    address = closed_address()
    with ExitStack() as broker:
        broker.enter_context(tansu(address, tmp_path))
        _, sent = resumed(address, lambda cluster: broker.close())
    assert [sent[f"{who} 1"] for who in "abc"] == [2, 2, 2]
    assert len([one for one in caplog.messages if "the run goes on" in one]) == 1


@pytest.mark.parametrize(
    ("broker", "partitions", "told"),
    [
        (noida, 16, []),
        (tansu, 4, []),
        (tansu, 16, ["Kafka does not give the topic model-updates.RUN 16 partitions"]),
    ],
)
def test_a_run_that_is_resumed_with_other_partitions_has_them_or_says_that_it_has_not(
    broker: Broker, partitions: int, told: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = closed_address()
    with broker(address, tmp_path):
        through, sent = resumed(address, lambda cluster: None, partitions=partitions)
        run_id = through.app.description.run_id
        in_topic(address, f"model-updates.{run_id}", 8 if told else partitions)  # they are all there
    assert all(sent[f"{who} 1"] >= 2 for who in "abc")  # the sum of before had other places
    said = [one for one in caplog.messages if "the run goes on" in one and "does not delete" not in one]
    assert [one.replace(run_id, "RUN").partition(" (")[0] for one in said] == told
    assert "Unexpected" not in caplog.text


@pytest.mark.parametrize("broker", [tansu, noida])
def test_other_systems_get_each_row_of_the_record_as_an_event(broker: Broker, tmp_path: Path) -> None:
    address = closed_address()
    with broker(address, tmp_path):
        log = KafkaLog(settings_of(address, None))
        log.make({"runs": 4})
        log.close()
        through = play(train, {**FOUR, "services.kafka.brokers": address, "services.kafka.events": "runs"})
        events = [json.loads(one) for one in in_topic(address, "runs", 4)]
    run_id = through.app.description.run_id
    assert {one["run"] for one in events} == {run_id}
    rounds = {one["round"]: one for one in events if one["table"] == "rounds"}
    assert [rounds[n]["learners"] for n in (1, 2, 3)] == [4, 4, 4]
    assert [rounds[e.round]["loss"] for e in through.seen(RoundCommitted)] == [
        e.loss for e in through.seen(RoundCommitted)
    ]
    who = {(one["round"], one["learner"]) for one in events if one["table"] == "participation"}
    assert who == {(n, name) for n in (1, 2, 3) for name in "abcd"}
