from __future__ import annotations

import dataclasses
import io
import json
import logging
from pathlib import Path
from typing import Literal

import pytest

from leader import events
from leader.config import LogConfig
from leader.reporting.log import EventLog, open_display, show_invitation
from leader.reporting.messages import describe, size
from leader.reporting.terminal import TerminalDisplay
from leader.trust.admission import Invitation
from tests.leader.reporting.scores import SPREAD

pytestmark = pytest.mark.usefixtures("root_logger")

STARTED = events.RunStarted("r1", Path("runs/r1"), "CIFAR-10", "resnet20", 272474, "delta", 10, "h:1", 2, 2)
RUN: list[events.Event] = [
    STARTED,
    events.WaitingForLearners(1, 2),
    events.LearnerJoined(1, "alpha", "cpu (1 thread)", "session", 25000),
    events.RoundStarted(3, 1, 2),
    events.LearnerProgress(1, 3, 5, 50, 931.4),
    events.UpdateAccepted(1, 3, 0, 25000, 1.2345, 931.4, 3_200_000),
    events.CallRefused(None, "no such token"),
    events.StepApplied(3, 0, 1, 1.2345, 3_200_000, 3_200_000),
    events.LearnerOverdue(
        2, "eve", 60.0, 120.0, {"shard-00001": "alpha", "shard-00003": "eve", "own-eve": ""}
    ),
    events.RoundAbandoned(3, "1 of 2 updates at the deadline"),
    events.RoundCommitted(3, 1.2345, 12.34, 3_200_000, 480, 2, 50000, 0.1),
    events.Evaluated(3, {"accuracy": 0.612, "loss": 1.1}, 2.0),
    events.EvaluationSkipped(3),
    events.FederatedEvaluated(2, {"accuracy": SPREAD, "loss": SPREAD}),
    events.LearnerLeft(1, "alpha", "lease ran out"),
    events.LearnersCounted(412, 410, 5.2),
    events.EdgeServes("east", ("h:1", "h:2"), 1),
    events.UpdatesLost(("own-a", "own-b")),
    events.EdgeLeft("east", 0),
    events.RunFinished(10, 123.4),
]
INFO_LINES = [
    "run r1: resnet20 (272,474 parameters) on CIFAR-10, delta exchange, 10 rounds, resumed after round 2; "
    "listening on h:1, results in runs/r1",
    "waiting for learners: 1 of 2; on each run: python -m learner --leader h:1",
    "learner 1 alpha joined: cpu (1 thread), 25,000 examples of its own",
    "warning: refused a call of an unknown caller: no such token",
    "warning: learner 2 eve sent no update within 60 s: shard-00001 moves from eve to alpha, "
    "shard-00003 stays, nobody else is here, own-eve is left out; for 120 s others are given work first",
    "warning: round 3/10 abandoned, it is tried again: 1 of 2 updates at the deadline",
    "round 3/10 committed: loss 1.2345, 12.3 s, 2 learners, up 3.2 MB, down 480 B",
    "round 3/10 evaluated: test accuracy 61.20%, test loss 1.1000",
    "round 2/10 scored by learners: accuracy 50.00%, worst 10% 25.00%; loss 0.5000, worst 10% 0.2500",
    "learner 1 alpha left: lease ran out",
    "412 more learners joined and 410 left in 5 s",
    "edge east takes updates at h:1, h:2",
    "warning: 2 updates were lost with an edge, and are asked for again",
    "warning: edge east left",
    "run finished after round 10/10: 123.4 s",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def log_of(config: LogConfig, run: list[events.Event]) -> list[str]:
    stream = io.StringIO()
    display = open_display(config, 10, stream)
    for event in run:
        display.on_event(event)
    display.close()
    return stream.getvalue().splitlines()


def test_the_plain_log_has_one_line_for_each_event_worth_reading() -> None:
    lines = log_of(LogConfig(format="plain"), RUN)
    assert [line[9:] for line in lines] == INFO_LINES
    assert all(line[2] == line[5] == ":" and line[8] == " " for line in lines)


def test_debug_shows_every_event_and_warning_only_trouble() -> None:
    assert len(log_of(LogConfig(format="plain", level="debug"), RUN)) == len(RUN)
    assert len(log_of(LogConfig(format="plain", level="warning"), RUN)) == 5


def test_the_json_log_has_name_fields_and_time_of_each_event() -> None:
    lines = [json.loads(line) for line in log_of(LogConfig(format="json"), RUN)]
    assert len(lines) == len(INFO_LINES)
    commit = lines[6]
    assert abs(commit.pop("time") - lines[0]["time"]) < 60
    assert commit == {
        "level": "info",
        "event": "RoundCommitted",
        "round": 3,
        "loss": 1.2345,
        "seconds": 12.34,
        "bytes_up": 3_200_000,
        "bytes_down": 480,
        "learners": 2,
        "examples": 50000,
        "lr": 0.1,
    }
    assert lines[0]["run_dir"] == "runs/r1"


def test_no_event_has_a_field_that_the_json_log_uses_itself() -> None:
    kinds = [
        kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.Event)
    ]
    assert len(kinds) == len({type(event) for event in RUN}) + 1  # and Event itself: RUN has one of each
    fields = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert not fields & {"time", "level", "event", "exception"}


def test_every_kind_of_event_has_words() -> None:
    for event in RUN:
        assert describe(event, 10) != type(event).__name__


def test_a_stopped_run_gives_its_reason() -> None:
    assert (
        describe(events.RunFinished(4, 9.0, "interrupted"), 10) == "run stopped after round 4/10: interrupted"
    )


def test_a_run_that_trained_enough_says_why_it_is_done() -> None:
    finished = events.RunFinished(4, 9.0, stopped_early="test_loss 0.5 after round 4 reached the target 0.6")
    assert describe(finished, 10) == (
        "run finished after round 4/10: 9.0 s; test_loss 0.5 after round 4 reached the target 0.6"
    )


def test_scores_of_round_0_are_those_of_the_initial_weights() -> None:
    words = describe(events.FederatedEvaluated(0, {"accuracy": SPREAD}), 10)
    assert words == "initial weights scored by learners: accuracy 50.00%, worst 10% 25.00%"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("format_", ["plain", "auto", "json"])
def test_a_join_token_is_shown_on_a_terminal_alone_and_else_put_into_a_file(
    tmp_path: Path, format_: Literal["plain", "auto", "json"], terminal: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    config = LogConfig(format=format_)
    open_display(config, 10, stream)
    started = dataclasses.replace(STARTED, address="10.0.0.7:50051", proof="--join TOKEN")
    invitation = Invitation("3f9a1c22d0e47b18", tmp_path, True, "flk1_secret", 1795914720.0)
    show_invitation(config, stream, started, invitation)
    text, join = stream.getvalue(), tmp_path / "join"
    assert f"secure: CA 3f9a1c22d0e47b18 in {tmp_path}/ (made now); on each learner, once" in text
    assert "until Sun 29 Nov 01:12 UTC:" in text
    assert "from then on: python -m learner --leader 10.0.0.7:50051" in text
    if terminal and format_ != "json":
        assert "\n  python -m learner --leader 10.0.0.7:50051 --join flk1_secret\n" in text
        assert not join.exists()
    else:
        assert "flk1_" not in text
        assert f"  python -m learner --leader 10.0.0.7:50051 --join @{join}" in text
        assert join.read_text() == "flk1_secret"
        assert join.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (3_249_999, "3.2 MB"),
        (999_960, "1.0 MB"),
        (2.5e12, "2500.0 GB"),
    ],
)
def test_sizes_have_decimal_units(count: float, words: str) -> None:
    assert size(count) == words


def test_a_peer_cannot_forge_a_log_line() -> None:
    (line,) = log_of(
        LogConfig(format="plain"), [events.LearnerLeft(1, "a\n12:00:00 run finished\x1b[2J", "x")]
    )
    assert line[9:] == r"learner 1 a\n12:00:00 run finished\x1b[2J left: x"


def test_auto_is_a_live_display_on_a_terminal_and_plain_lines_elsewhere() -> None:
    assert isinstance(open_display(LogConfig(), 10, Terminal()), TerminalDisplay)
    assert isinstance(open_display(LogConfig(), 10, io.StringIO()), EventLog)
    assert isinstance(open_display(LogConfig(format="plain"), 10, Terminal()), EventLog)


def test_log_messages_and_the_live_display_share_a_terminal() -> None:
    stream = Terminal()
    display = open_display(LogConfig(), 10, stream)
    display.on_event(RUN[0])
    logging.getLogger("leader.checkpoint").warning("disk is nearly full")
    display.close()
    text = stream.getvalue()
    assert text.index("disk is nearly full") < text.index("Run ended after round 2")
