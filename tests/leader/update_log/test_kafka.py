"""The log in Kafka, with a real broker (Tansu), and what is said where there is none."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from leader.update_log.base import Entry
from leader.update_log.kafka import KafkaLog, settings_of
from leader.update_log.records import MOST_BYTES
from tests.tools.kafka import tansu
from tests.tools.needs import needs
from tests.tools.ports import closed_address
from utils.errors import ConfigError, NotReadyError

pytestmark = needs("confluent_kafka")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaLog]:
    address = closed_address()
    with tansu(address, tmp_path_factory.mktemp("broker")):
        log = KafkaLog(settings_of(address, None))
        log.make({"updates": 3})
        yield log
        log.close()


def entries(partition: int, *values: bytes) -> list[Entry]:
    return [Entry(partition, b"key", value) for value in values]


def test_what_is_written_is_read_by_its_offset_and_from_it_on(log: KafkaLog) -> None:
    assert log.put("updates", entries(0, b"a", b"b")) == [0, 1]
    assert log.put("updates", [*entries(0, b"c"), *entries(1, b"x"), *entries(0, b"d")]) == [2, 0, 3]
    assert [log.read("updates", 0, offset) for offset in (2, 0, 3, 1)] == [b"c", b"a", b"d", b"b"]
    scan = log.scan("updates", 0, 1)
    found: list[tuple[int, bytes]] = []
    while len(found) < 3:
        found += filter(None, [next(scan)])
    assert found == [(1, b"b"), (2, b"c"), (3, b"d")]
    assert next(scan) is None
    log.put("updates", entries(0, b"e"))
    assert next(one for one in scan if one) == (4, b"e")
    scan.close()  # type: ignore[attr-defined]


def test_topics_that_are_there_are_left_as_they_are(log: KafkaLog) -> None:
    log.put("updates", entries(2, b"kept"))
    log.make({"updates": 3, "more": 1})
    assert log.read("updates", 2, 0) == b"kept"
    assert log.put("more", entries(0, b"there")) == [0]


def test_records_of_the_largest_size_go_through_and_more_of_them_than_the_buffer_holds(log: KafkaLog) -> None:
    value = os.urandom(MOST_BYTES - 500)
    offsets = log.put("updates", (Entry(1, b"key", value) for _ in range(80)))
    assert offsets == list(range(offsets[0], offsets[0] + 80))
    assert log.read("updates", 1, offsets[-1]) == value


def test_a_broker_that_cant_delete_is_told_of(log: KafkaLog) -> None:
    log.put("updates", entries(2, b"a", b"b"))
    with pytest.raises(NotReadyError, match="Kafka does not delete records"):
        log.trim("updates", {2: 1})


def test_what_is_not_there_is_not_waited_for_forever(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leader.update_log.kafka._TIMEOUT_S", 0.3)
    with pytest.raises(NotReadyError, match="does not give record 100000 of updates, partition 0"):
        log.read("updates", 0, 100_000)


def test_without_a_broker_nothing_is_written_and_nobody_is_flooded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("leader.update_log.kafka._TIMEOUT_S", 0.3)
    monkeypatch.setitem(sys.modules["leader.update_log.kafka"]._PRODUCER, "delivery.timeout.ms", 300)
    alone = KafkaLog(settings_of(closed_address(), None))
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(NotReadyError, match=r"Kafka did not take 2 of 2 records: .*timed out"):
            alone.put("updates", entries(0, b"a", b"b"))
        with pytest.raises(NotReadyError, match="Kafka does not make the topic updates"):
            alone.make({"updates": 1})
        alone.close()
    assert caplog.messages == []


def test_a_client_that_is_late_with_its_answer_is_as_good_as_a_broker_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from confluent_kafka.admin import AdminClient

    def silent(admin: AdminClient, wanted: list[object], **more: object) -> dict[object, Future[None]]:
        return {"updates": Future()}

    monkeypatch.setattr("leader.update_log.kafka._TIMEOUT_S", 0.01)
    monkeypatch.setattr(AdminClient, "create_topics", silent)
    monkeypatch.setattr(AdminClient, "delete_records", silent)
    log = KafkaLog(settings_of(closed_address(), None))
    with pytest.raises(NotReadyError, match="Kafka does not make the topic updates: no answer"):
        log.make({"updates": 1})
    with pytest.raises(NotReadyError, match="Kafka does not delete records: no answer"):
        log.trim("updates", {0: 1})


def test_properties_are_taken_from_a_file_and_what_the_client_refuses_is_said(tmp_path: Path) -> None:
    path = tmp_path / "kafka.properties"
    path.write_text("# who we are\nsecurity.protocol = SSL\n\nssl.ca.location=/a=b\n")
    assert settings_of("b:9092", path) == {
        "bootstrap.servers": "b:9092",
        "security.protocol": "SSL",
        "ssl.ca.location": "/a=b",
    }
    path.write_text("no.such.thing=1\n")
    with pytest.raises(ConfigError, match=r"client refuses its settings: .*no\.such\.thing"):
        KafkaLog(settings_of("127.0.0.1:1", path))
    with pytest.raises(ConfigError, match="it leaves this machine unencrypted; set security"):
        settings_of("127.0.0.1:9092,kafka.corp:9092", path)
    with pytest.raises(ConfigError, match="properties can't be read"):
        settings_of("127.0.0.1:1", tmp_path / "missing")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ConfigError, match=r"pip install 'flockstep\[kafka\]'"):
        settings_of("127.0.0.1:1", None)
