from __future__ import annotations

import json
import random
import resource
from datetime import datetime
from pathlib import Path

import pytest

from leader.evaluation.federated import FederatedScores
from leader.events import Evaluated, EvaluationSkipped, FederatedEvaluated, RoundCommitted, Spread
from leader.storage.metrics_log import FEDERATED, TEST, MetricsLog, Record, read_records
from leader.storage.run_folder import RunFolder, default_run_dir
from protos import leader_pb2
from utils.errors import ConfigError
from utils.files import replace_file


def committed(number: int, loss: float = 1.5) -> RoundCommitted:
    return RoundCommitted(number, loss, 2.5, 100 * number, 200, 2, 640, 0.05)


def evaluated(number: int) -> Evaluated:
    return Evaluated(number, {"accuracy": number / 100, "loss": 2.0}, 0.1)


def open_log(
    path: Path, resumed_round: int = 0, every: int = 1, awaited: tuple[str, ...] = (TEST,)
) -> MetricsLog:
    folder = RunFolder(path)
    path.mkdir(exist_ok=True)
    return MetricsLog(
        folder,
        resumed_round,
        awaited=lambda number: awaited if number % every == 0 else (),
        clock=lambda: 1e9 + 0.5,
    )


def scores(value: float) -> dict[str, Spread]:
    collected = FederatedScores()
    collected.add("own-a", (leader_pb2.Metric(name="accuracy", value=value, examples=4),))
    return collected.spreads()


def rounds_on_disk(path: Path) -> list[int]:
    return [record["round"] for record in lines(path)]


def lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in RunFolder(path).metrics.read_text().splitlines()]


def test_default_folder_names_time_and_model_and_never_exists_yet(tmp_path: Path) -> None:
    now = datetime(2026, 11, 22, 15, 30, 0)
    first = default_run_dir("resnet9-w16", now, tmp_path)
    assert first == tmp_path / "20261122-153000-resnet9-w16"
    first.mkdir()
    second = default_run_dir("resnet9-w16", now, tmp_path)
    assert second.name == "20261122-153000-resnet9-w16-2"
    second.mkdir()
    assert default_run_dir("resnet9-w16", now, tmp_path).name == "20261122-153000-resnet9-w16-3"
    assert default_run_dir("../my task:Net", now, tmp_path).parent == tmp_path
    assert default_run_dir("m", now) == Path("runs/20261122-153000-m")


def test_a_new_run_folder_holds_its_config_and_is_refused_to_a_second_run(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a" / "b", "rounds: 3\n")
    assert folder.config.read_text() == "rounds: 3\n"
    assert folder.checkpoints.is_dir()
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume .*a/b"):
        RunFolder.create(folder.path, "rounds: 9\n")
    assert folder.config.read_text() == "rounds: 3\n"
    assert RunFolder.reopen(folder.path) == folder


def test_an_empty_folder_takes_a_new_run_but_not_a_resumed_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run there"):
        RunFolder.reopen(tmp_path)
    RunFolder.create(tmp_path, "")
    RunFolder.reopen(tmp_path)


def test_a_run_folder_that_cannot_be_made_is_an_error_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be written: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", "")


def test_a_failed_replacement_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    replace_file(path, b"old")
    (tmp_path / "summary.json.partial").mkdir()  # the temporary file can't be made
    with pytest.raises(OSError, match="Is a directory"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_line_holds_what_is_known_of_its_round(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.on_event(committed(1))
    log.on_event(evaluated(1))
    assert lines(tmp_path) == [
        {
            "round": 1,
            "loss": 1.5,
            "seconds": 2.5,
            "bytes_up": 100,
            "bytes_down": 200,
            "learners": 2,
            "examples": 640,
            "lr": 0.05,
            "time": 1e9 + 0.5,
            "test_accuracy": 0.01,
            "test_loss": 2.0,
        }
    ]


def test_lines_wait_for_their_evaluation_and_come_in_round_order(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.on_event(committed(1))
    log.on_event(committed(2))
    assert rounds_on_disk(tmp_path) == []
    log.on_event(evaluated(2))
    assert rounds_on_disk(tmp_path) == []
    log.on_event(evaluated(1))
    assert rounds_on_disk(tmp_path) == [1, 2]
    assert [record["test_accuracy"] for record in lines(tmp_path)] == [0.01, 0.02]


def test_a_round_without_evaluation_is_written_at_once_or_when_that_is_known(tmp_path: Path) -> None:
    log = open_log(tmp_path, every=2)
    log.on_event(committed(1))
    assert rounds_on_disk(tmp_path) == [1]
    log.on_event(committed(2))
    log.on_event(committed(3))
    assert rounds_on_disk(tmp_path) == [1]
    assert [record["round"] for record in log.records] == [1, 2, 3]
    log.on_event(EvaluationSkipped(2))
    assert rounds_on_disk(tmp_path) == [1, 2, 3]
    assert "test_accuracy" not in lines(tmp_path)[1]


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.on_event(committed(1))
    log.close()
    assert rounds_on_disk(tmp_path) == [1]
    assert not log.records[0].keys() & {"test_accuracy", "test_loss"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_an_evaluation_that_nobody_expected_still_reaches_its_line(tmp_path: Path) -> None:
    log = open_log(tmp_path, every=100)
    for number in (1, 2, 3):
        log.on_event(committed(number))
    log.on_event(evaluated(2))
    assert [record.get("test_accuracy") for record in lines(tmp_path)] == [None, 0.02, None]
    log.on_event(committed(4))
    assert rounds_on_disk(tmp_path) == [1, 2, 3, 4]


def test_every_order_of_evaluations_ends_in_the_same_file(tmp_path: Path) -> None:
    for seed in range(8):
        folder = tmp_path / str(seed)
        log = open_log(folder)
        events = [event for number in range(1, 7) for event in (committed(number), evaluated(number))]
        random.Random(seed).shuffle(events)
        commits = iter(range(1, 7))  # commits come in order, evaluations whenever
        for event in events:
            log.on_event(committed(next(commits)) if isinstance(event, RoundCommitted) else event)
        assert rounds_on_disk(folder) == [1, 2, 3, 4, 5, 6]
        assert [record["test_accuracy"] for record in lines(folder)] == [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]


def test_a_killed_leader_loses_no_committed_round(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.on_event(committed(1))
    log.on_event(evaluated(1))
    log.on_event(committed(2))
    log.on_event(committed(3))  # both wait for their evaluation when the leader is killed
    resumed = open_log(tmp_path, resumed_round=3)
    assert rounds_on_disk(tmp_path) == [1, 2, 3]
    resumed.on_event(evaluated(3))
    resumed.on_event(committed(3, loss=99.0))  # told again: counted once
    resumed.on_event(committed(4))
    resumed.close()
    assert rounds_on_disk(tmp_path) == [1, 2, 3, 4]
    assert [record.get("test_accuracy") for record in lines(tmp_path)] == [0.01, None, 0.03, None]
    assert lines(tmp_path)[2]["loss"] == 1.5


def test_lines_are_read_while_a_run_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path)
    log.on_event(committed(1))
    pending, read = RunFolder(tmp_path).pending_metrics, Path.read_text
    assert pending.exists()

    def late(path: Path, *given: str, **named: str) -> str:
        if path == pending:
            log.on_event(evaluated(1))  # in another thread: the line waits no more
        return read(path, *given, **named)

    monkeypatch.setattr(Path, "read_text", late)
    assert list(read_records(RunFolder(tmp_path))) == [1]
    assert not pending.exists()


def test_resuming_drops_later_rounds_and_a_torn_line(tmp_path: Path) -> None:
    log = open_log(tmp_path, every=100)
    for number in (1, 2, 3):
        log.on_event(committed(number))
    with RunFolder(tmp_path).metrics.open("a") as file:
        file.write('{"round": 4, "lo')
    resumed = open_log(tmp_path, resumed_round=2, every=100)
    assert rounds_on_disk(tmp_path) == [1, 2]
    resumed.on_event(committed(3, loss=0.5))
    assert [record["loss"] for record in lines(tmp_path)] == [1.5, 1.5, 0.5]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    log = open_log(tmp_path, every=100)
    for number in (1, 2, 3):
        log.on_event(committed(number))
    path = RunFolder(tmp_path).metrics
    first, _, last = path.read_text().splitlines()
    rubbish = (
        "rubbish",
        '{"round": 2}',
        "[" * 100_000,
        first.replace("2.5", "NaN"),
        first.replace("1.5", '"low"'),
    )
    for wrong in rubbish:
        path.write_text(f"{first}\n{wrong}\n{last}\n")
        with pytest.raises(
            ConfigError, match=r"metrics\.jsonl line 2 is not a record of a round .*; mend or"
        ):
            open_log(tmp_path, resumed_round=3)


def test_a_line_that_a_full_disk_cut_is_whole_once_there_is_room_again(tmp_path: Path) -> None:
    log = open_log(tmp_path, awaited=())
    log.on_event(committed(1))
    before, size = resource.getrlimit(resource.RLIMIT_FSIZE), (tmp_path / "metrics.jsonl").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))  # no file can grow beyond this
        with pytest.raises(OSError, match="File too large"):
            log.on_event(committed(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.on_event(committed(3))
    assert rounds_on_disk(tmp_path) == [1, 2, 3]
    assert [record["round"] for record in open_log(tmp_path, 3).records] == [1, 2, 3]


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    log = open_log(tmp_path, every=100)
    log.on_event(committed(1, loss=float("nan")))
    assert '"loss": null' in RunFolder(tmp_path).metrics.read_text()


def test_any_metric_of_a_task_is_kept_under_a_name_of_its_own(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.on_event(committed(1))
    log.on_event(Evaluated(1, {"mae": 3.5, "loss": float("inf")}, 0.1))
    [line] = lines(tmp_path)
    assert (line["test_mae"], line["test_loss"]) == (3.5, None)
    assert "test_accuracy" not in line


def test_a_line_waits_for_the_learners_scores_until_the_next_commit_at_most(tmp_path: Path) -> None:
    log = open_log(tmp_path, awaited=(TEST, FEDERATED))
    log.on_event(FederatedEvaluated(0, scores(0.1)))  # of the initial weights: no round's line
    log.on_event(committed(1))
    log.on_event(evaluated(1))
    assert rounds_on_disk(tmp_path) == []
    log.on_event(FederatedEvaluated(1, scores(0.25)))
    assert rounds_on_disk(tmp_path) == [1]
    assert lines(tmp_path)[0]["federated"] == scores(0.25)
    log.on_event(committed(2))
    log.on_event(evaluated(2))
    assert rounds_on_disk(tmp_path) == [1]
    log.on_event(committed(3))  # no learner scored round 2
    assert rounds_on_disk(tmp_path) == [1, 2]
    assert "federated" not in lines(tmp_path)[1]


def test_scores_told_again_after_a_crash_reach_their_line(tmp_path: Path) -> None:
    log = open_log(tmp_path, awaited=(FEDERATED,))
    log.on_event(committed(1))
    log.on_event(committed(2))  # killed before the scores of round 1 were told
    resumed = open_log(tmp_path, resumed_round=2, awaited=(FEDERATED,))
    resumed.on_event(FederatedEvaluated(1, scores(0.5)))
    assert [line.get("federated") for line in lines(tmp_path)] == [scores(0.5), None]
