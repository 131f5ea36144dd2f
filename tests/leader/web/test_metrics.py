"""The metrics of a run: what each event makes of them, whatever its texts hold, and how they are written."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_format

from leader import events
from leader.web.metrics import Metrics
from tests.leader.reporting.scores import SPREAD
from tests.nasty_strings import NASTY

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"
STARTED = events.RunStarted("r1", Path("r"), "CIFAR-10", "resnet20", 9, "delta", 10, "h:1", 2, 2)


def told(*happened: events.Event, most_learners: int = 2) -> Metrics:
    metrics = Metrics(most_learners, lambda: [("mongodb", False, 7), ("mlflow", True, 0)])
    for event in happened:
        metrics.on_event(event, time.monotonic())
    return metrics


def samples(metrics: Metrics) -> dict[str, float]:
    """By name and labels, such as `name{label=value}`."""
    found = {}
    for family in text_format(metrics.write()[0].decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def test_edges_and_what_is_lost_with_them_are_counted() -> None:
    serving = [events.EdgeServes("a", ("h:1",), 1), events.EdgeServes("a", ("h:2",), 2)]
    values = of(*serving, events.UpdatesLost(("x", "y")), events.EdgeLeft("a", 1))
    assert (values["edges_connected"], values["updates_lost_total"]) == (1, 2)


def of(*happened: events.Event, most_learners: int = 2) -> dict[str, float]:
    """All of ours, the prefix left out."""
    ours = samples(told(*happened, most_learners=most_learners))
    return {k.removeprefix("flockstep_"): v for k, v in ours.items() if k.startswith("flockstep_")}


def joined(number: int, name: str | None = None) -> events.LearnerJoined:
    return events.LearnerJoined(number, f"l{number}" if name is None else name, "cpu", "session", None)


def updated(number: int, seconds: float) -> events.UpdateAccepted:
    return events.UpdateAccepted(
        learner_id=number,
        round=3,
        step=0,
        examples=64,
        loss=1.0,
        images_per_s=9.0,
        bytes=100,
        part="shard-00001",
        seconds=seconds,
    )


def committed(number: int, **more: float) -> events.RoundCommitted:
    return events.RoundCommitted(number, 1.25, 0.75, 3000, 400, 2, 128, 0.05, **more)


def test_rounds_are_counted_and_the_last_one_described() -> None:
    before = time.time()
    values = of(STARTED, committed(3), committed(4, epsilon=2.5), events.RoundAbandoned(5, "no quorum"))
    assert values["run_info{dataset=CIFAR-10,exchange=delta,model=resnet20,run_id=r1}"] == 1
    assert values["rounds_planned"] == 10
    assert values["round_committed"] == 4
    assert values["rounds_committed_total"] == 2  # rounds 1 and 2 were another process's
    assert values["rounds_abandoned_total"] == 1
    assert values["round_duration_seconds_sum"] == 1.5
    assert values["round_duration_seconds_bucket{le=0.5}"] == 0
    assert values["round_duration_seconds_bucket{le=1.0}"] == 2
    assert before - 1 <= values["last_commit_timestamp_seconds"] <= time.time()
    assert (values["training_loss"], values["learning_rate"]) == (1.25, 0.05)
    assert values["payload_bytes_total{direction=up}"] == 6000
    assert values["payload_bytes_total{direction=down}"] == 800
    assert values["examples_total"] == 256
    assert values["privacy_epsilon"] == 2.5


def test_a_commit_counts_from_when_it_was_and_not_from_when_it_is_told() -> None:
    metrics = Metrics(0)
    metrics.on_event(committed(1), time.monotonic() - 100)
    age = time.time() - samples(metrics)["flockstep_last_commit_timestamp_seconds"]
    assert age == pytest.approx(100, abs=5)


def test_what_is_not_known_yet_is_not_there() -> None:
    values = of(STARTED)
    assert values["round_committed"] == 2  # resumed after it
    assert values["rounds_committed_total"] == 0
    for name in ("training_loss", "learning_rate", "last_commit_timestamp_seconds", "privacy_epsilon"):
        assert name not in values
    assert "privacy_epsilon" not in of(STARTED, committed(3))


def test_a_loss_that_is_no_number_is_told_as_such() -> None:
    diverged = events.RoundCommitted(3, math.nan, 0.75, 1, 1, 2, 128, 0.05)
    assert math.isnan(of(diverged)["training_loss"])


def test_scores_have_the_names_that_the_config_knows_them_by() -> None:
    scored = events.FederatedEvaluated(3, {"accuracy": SPREAD})
    values = of(events.Evaluated(3, {"accuracy": 0.6, "loss": 1.1}, 2.0), scored)
    assert values["evaluation_score{metric=test_accuracy}"] == 0.6
    assert values["evaluation_score{metric=test_loss}"] == 1.1
    assert values["evaluation_score{metric=federated.accuracy}"] == SPREAD["mean"]


def test_learners_are_missing_until_a_round_starts() -> None:
    waiting = [joined(1), events.WaitingForLearners(1, 3)]
    assert of(*waiting)["learners_missing"] == 2
    assert of(*waiting)["learners_connected"] == 1
    assert of(*waiting, joined(2))["learners_missing"] == 1  # nobody is told again that some are missing
    assert of(*waiting, joined(2), events.LearnerLeft(1, "l1", "bye"))["learners_missing"] == 2
    assert of(*waiting, joined(2), joined(3), joined(4))["learners_missing"] == 0
    assert of(*waiting, events.RoundStarted(1, 1, 2))["learners_missing"] == 0


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("no sign of life for 20 s", "lost"),
        ("can't be dialled any more: refused", "unreachable"),
        ("failed: a bug", "failed"),
        ("revoked", "revoked"),
        ("stopped by SIGTERM", "goodbye"),
        ("x" * 3000, "goodbye"),
    ],
)
def test_learners_that_left_are_counted_by_cause(reason: str, cause: str) -> None:
    values = of(joined(1), joined(2), events.LearnerLeft(1, "l1", reason))
    assert values["learners_connected"] == 1
    causes = {name: value for name, value in values.items() if name.startswith("learners_left")}
    assert len(causes) == 5  # all are there from the beginning, so that the first is an increase
    assert [name for name, value in causes.items() if value] == [f"learners_left_total{{cause={cause}}}"]


def test_a_learner_that_comes_back_without_having_left_is_one() -> None:
    assert of(joined(1), joined(1))["learners_connected"] == 1


def test_each_learner_has_the_wait_for_its_last_update() -> None:
    values = of(joined(1), joined(2), updated(1, 0.2), updated(1, 0.4), updated(2, 7.0))
    assert values["learner_update_seconds{learner=l1}"] == 0.4
    assert values["learner_update_seconds{learner=l2}"] == 7
    assert values["updates_accepted_total"] == values["update_wait_seconds_count"] == 3
    assert values["update_wait_seconds_sum"] == pytest.approx(7.6)


def followed(values: Iterable[str]) -> list[str]:
    return [name for name in values if name.startswith("learner_update_seconds")]


def test_a_learner_that_left_has_no_series_and_its_place_is_anothers() -> None:
    here = [joined(n) for n in (1, 2, 3)] + [updated(n, n) for n in (1, 2, 3)]
    assert len(followed(of(*here))) == 2
    values = of(*here, events.LearnerLeft(1, "l1", "bye"), updated(3, 3.5))
    assert followed(values) == ["learner_update_seconds{learner=l2}", "learner_update_seconds{learner=l3}"]
    assert values["updates_accepted_total"] == 4


def test_no_learner_has_a_series_where_none_is_wanted() -> None:
    assert followed(of(joined(1), updated(1, 1.0), most_learners=0)) == []


def test_refused_calls_count_with_those_that_were_not_told() -> None:
    refused = events.CallRefused(None, "busy", "GetModel", "BusyError")
    more = events.CallRefused(1, "busy", "GetModel", "BusyError", suppressed=41)
    assert of(refused, more)["calls_refused_total{error=BusyError,method=GetModel}"] == 43


def test_texts_from_outside_give_no_more_than_a_hundred_series() -> None:
    calls = [events.CallRefused(None, "x", f"Method{number}", "PayloadError") for number in range(300)]
    scores = events.Evaluated(1, {f"s{number}": 1.0 for number in range(300)}, 1.0)
    values = of(*calls, scores)
    refused = [name for name in values if name.startswith("calls_refused")]
    assert len(refused) == 101
    assert values["calls_refused_total{error=other,method=other}"] == 200
    assert len([name for name in values if name.startswith("evaluation_score")]) == 101


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_whatever_a_text_holds_both_formats_are_read_back(text: str) -> None:
    metrics = told(
        events.RunStarted(text, Path("r"), text, text, 9, "delta", 10, "h:1", 2, 2),
        joined(1, text),
        updated(1, 1.0),
        events.CallRefused(None, text, text, text),
        events.Evaluated(1, {text: 1.0}, 1.0),
    )
    plain, _ = metrics.write()
    opened, _ = metrics.write("application/openmetrics-text; version=1.0.0")
    opened_families = open_metrics(opened.decode())  # type: ignore[no-untyped-call]
    for family in (*text_format(plain.decode()), *opened_families):
        for sample in family.samples:
            assert all(len(value) <= 64 and value.isprintable() for value in sample.labels.values())
    metrics.on_event(events.LearnerLeft(1, text, "bye"), time.monotonic())
    assert "learner_update_seconds{" not in metrics.write()[0].decode()


def test_services_are_asked_when_the_metrics_are() -> None:
    values = of()
    assert values["service_up{service=mongodb}"] == 0
    assert values["service_rows_waiting{service=mongodb}"] == 7
    assert values["service_up{service=mlflow}"] == 1


def test_the_format_is_the_one_that_is_asked_for() -> None:
    metrics = told(committed(1))
    assert metrics.write("text/html,*/*")[1].startswith("text/plain; version=0.0.4")
    body, kind = metrics.write("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")


def test_the_process_is_measured_too_and_times_of_creation_are_not() -> None:
    values = samples(told(joined(1), updated(1, 1.0)))
    assert values["process_resident_memory_bytes"] > 1e6
    assert not [name for name in values if name.endswith("_created")]


def test_the_documentation_has_every_metric_with_its_labels_and_no_other() -> None:
    table = re.findall(
        r"^\| `(flockstep_\w+)` \| (.*?) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
    documented = {name: set(re.findall(r"`(\w+)`", labels.partition(" (")[0])) for name, labels in table}
    metrics = told(
        STARTED,
        joined(1),
        updated(1, 1.0),
        committed(3, epsilon=1.0),
        events.Evaluated(3, {"loss": 1.0}, 1.0),
        events.CallRefused(None, "busy", "GetModel", "BusyError"),
    )
    ours = [f for f in text_format(metrics.write()[0].decode()) if f.name.startswith("flockstep_")]
    exported = {
        f.name + ("_total" if f.type == "counter" else ""): set(f.samples[0].labels) - {"le"} for f in ours
    }
    assert documented == exported
