from __future__ import annotations

import dataclasses
import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from leader import events
from leader.reporting.terminal import TerminalDisplay
from tests.leader.reporting.scores import SPREAD
from utils.wire.rpc import own_host


def started(address: str = "10.0.0.7:50051", exchange: str = "gradient") -> events.RunStarted:
    return events.RunStarted(
        "20261122-153000-r", Path("runs/r"), "CIFAR-10", "resnet20", 272474, exchange, 10, address, 2
    )


def evaluated(number: int, accuracy: float) -> events.Evaluated:
    return events.Evaluated(number, {"accuracy": accuracy, "loss": 1.0}, 0.1)


MIDDLE: list[events.Event] = [
    events.LearnerJoined(1, "alpha", "cpu (1 thread)", "session", None),
    events.LearnerJoined(2, "beta", "cuda:0", "dialled", 500),
    events.RoundStarted(3, 4, 2),
    events.UpdateAccepted(1, 3, 1, 128, 0.7654, 1234.0, 1000),
    events.StepApplied(3, 1, 4, 0.8125, 10, 20),
]


def console(width: int, height: int = 40) -> Console:
    return Console(
        file=io.StringIO(), record=True, width=width, height=height, force_terminal=True, color_system=None
    )


def screen(run: list[events.Event], width: int = 100, height: int = 40) -> str:
    """What the display shows after `run`."""
    display = TerminalDisplay(10, console(width, height), clock=lambda: 0.0)
    for event in run:
        display.on_event(event)
    target = console(width, height)
    target.print(display.render())
    display.close()
    return target.export_text()


@pytest.mark.parametrize("width", [80, 100])
def test_a_running_round_shows_header_progress_and_learners(width: int) -> None:
    text = screen([started(), *MIDDLE], width)
    for words in (
        "20261122-153000-r",
        "resnet20, 272,474 parameters",
        "CIFAR-10",
        "gradient",
        "10.0.0.7:50051",
    ):
        assert words in text
    assert "round 3/10" in text
    assert "step 3/4" in text
    assert "loss 0.8125" in text
    (alpha,) = (line for line in text.splitlines() if " alpha " in line and "joined" not in line)
    assert alpha.split()[:9] == ["1", "alpha", "cpu", "(1", "thread)", "training", "1,234", "0.7654", "2/4"]
    (beta,) = (line for line in text.splitlines() if " beta " in line and "joined" not in line)
    assert beta.split()[:7] == ["2", "beta", "cuda:0", "ready", "-", "-", "-"]
    assert max(len(line) for line in text.splitlines()) <= width


def test_accuracy_shows_the_last_and_the_best() -> None:
    text = screen([started(), *MIDDLE, evaluated(1, 0.625), evaluated(2, 0.5)])
    assert "test accuracy 50.00% (best 62.50%)" in text


def test_what_the_learners_score_stands_beside_the_test_accuracy() -> None:
    run = [started(), *MIDDLE, evaluated(1, 0.625), events.FederatedEvaluated(2, {"accuracy": SPREAD})]
    lines = [line.strip() for line in screen(run, width=80).splitlines()]
    assert lines[lines.index("at the learners accuracy 50.00%, worst 10% 25.00%") - 1].startswith(
        "loss 0.8125   test accuracy 62.50%   up"
    )
    other = screen([started(), *MIDDLE, events.FederatedEvaluated(2, {"mae": SPREAD})])
    assert "at the learners mae 0.5000, worst 10% 0.2500" in other


def test_the_end_shows_the_learners_scores_of_each_round() -> None:
    target = console(100)
    display = TerminalDisplay(3, target)
    display.on_event(started())
    for number in (1, 2):
        display.on_event(events.FederatedEvaluated(number - 1, {"accuracy": SPREAD}))
        display.on_event(events.RoundCommitted(number, 1.0, 2.5, 3_200_000, 6_400_000, 2, 640, 0.1))
        display.on_event(evaluated(number, 0.5))
    display.on_event(events.RunFinished(2, 5.0, "", "test_accuracy 0.5 after round 2 reached the target 0.5"))
    display.close()
    end = target.export_text()
    assert "Run finished after round 2/3: 5.0 s; test_accuracy 0.5 after round 2 reached the target" in end
    assert "At the learners accuracy 50.00%, worst 10% 25.00%" in end
    table = end.split("At the learners")[1]
    rows = [line.split() for line in table.splitlines() if line.strip()[:1].isdigit()]
    assert [row[1:6] for row in rows] == [
        ["1.0000", "50.00%", "50.00%", "25.00%", "2.5"],
        ["1.0000", "50.00%", "-", "-", "2.5"],
    ]


def test_traffic_is_shown_a_second() -> None:
    text = screen(
        [
            started(),
            events.RoundStarted(1, 1, 2),
            events.RoundCommitted(1, 1.0, 2.0, 6_400_000, 250_000_000, 2, 1, 0.1),
        ]
    )
    assert "up 3.2 MB/s   down 125.0 MB/s" in text


@pytest.mark.parametrize(
    ("listen", "dial"),
    [
        ("10.0.0.7:50051", "10.0.0.7:50051"),
        ("0.0.0.0:50051", f"{own_host()}:50051"),
        ("[::]:7000", f"{own_host()}:7000"),
        ("[::1]:7000", "[::1]:7000"),
        ("trainer.local:7000", "trainer.local:7000"),
    ],
)
def test_while_waiting_the_exact_command_of_a_learner_is_shown(listen: str, dial: str) -> None:
    text = screen([started(listen), events.WaitingForLearners(1, 2)])
    assert "Waiting for learners: 1 of 2" in text
    assert f"python -m learner --leader {dial}" in text.split("\n   ")[1]
    assert "python -m learner" not in screen(
        [started(listen), events.WaitingForLearners(1, 2), events.RoundStarted(1, 1, 2)]
    )


def test_a_secure_run_is_joined_with_a_token_that_is_not_told_again() -> None:
    secure = dataclasses.replace(started("10.0.0.7:50051"), proof="--join TOKEN")
    text = screen([secure, events.WaitingForLearners(1, 2)])
    assert "python -m learner --leader 10.0.0.7:50051 --join TOKEN" in text


def test_recent_messages_are_shown_and_often_ones_are_not() -> None:
    text = screen(
        [
            started(),
            *MIDDLE,
            events.CallRefused(2, "NaN in fc.weight"),
            events.LearnerLeft(2, "beta", "lease ran out"),
        ]
    )
    assert "refused a call of learner 2: NaN in fc.weight" in text
    assert "learner 2 beta left: lease ran out" in text
    assert "accepted" not in text


def test_a_peer_cannot_write_markup_or_control_sequences_to_the_terminal() -> None:
    text = screen(
        [started(), events.LearnerJoined(1, "[red]x\x1b[2J\n", "[/bold]cpu", "session", None), *MIDDLE[2:]]
    )
    assert r"[red]x\x1b[2J\n" in text
    assert "[/bold]cpu" in text
    assert "\x1b[2J" not in text


def test_more_learners_than_lines_are_counted_instead() -> None:
    joined: list[events.Event] = [
        events.LearnerJoined(n, f"n{n}", "cpu", "session", None) for n in range(1, 1001)
    ]
    at_work: list[events.Event] = [events.LearnerProgress(n, 1, 1, 4, 10.0) for n in range(1, 301)]
    text = screen(
        [started(exchange="delta"), *joined, events.RoundStarted(1, 1, 1000), *at_work], width=80, height=24
    )
    assert len(text.splitlines()) <= 24
    assert " n3 " in text
    assert "and 997 more" in text
    assert "300 of all at work" in text


def test_the_end_leaves_a_table_of_the_last_rounds_and_the_log_above_it() -> None:
    target = console(80)
    display = TerminalDisplay(14, target)
    display.on_event(started())
    target.print("disk is nearly full")
    for number in range(1, 15):
        display.on_event(events.RoundStarted(number, 1, 2))
        display.on_event(events.RoundCommitted(number, 1 / number, 2.5, 3_200_000, 6_400_000, 2, 640, 0.1))
    display.on_event(evaluated(13, 0.75))
    display.on_event(evaluated(14, 0.7))
    display.on_event(events.RunFinished(14, 35.0))
    display.close()
    end = target.export_text().split("Run finished after round 14/14: 35.0 s")[1]
    rows = [line.split() for line in end.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(3, 15))
    assert rows[-2] == ["13", "0.0769", "75.00%", "2.5", "3.2", "MB", "6.4", "MB", "2"]
    assert "Test accuracy 70.00% (best 75.00% after round 13)" in end
    assert "Results in runs/r" in end


def test_a_display_that_never_started_closes_without_a_word() -> None:
    target = console(80)
    TerminalDisplay(14, target).close()
    assert target.export_text() == ""


def test_the_display_can_be_drawn_while_learners_come_and_go() -> None:
    display = TerminalDisplay(10, console(80))
    display.on_event(started())
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(lambda: [display.render() for _ in range(200)])
        number = 0
        while not drawing.done():
            number += 1
            display.on_event(events.LearnerJoined(number, "n", "cpu", "session", None))
            display.on_event(events.LearnerLeft(number, "n", "closed"))
    assert len(drawing.result()) == 200
    display.close()


def test_a_private_run_shows_what_it_has_spent_in_place_of_the_loss_that_it_does_not_tell() -> None:
    commit = events.RoundCommitted(
        3, math.nan, 2.5, 3_200_000, 6_400_000, 2, 640, 0.1, epsilon=3.21, budget=8.0
    )
    run = [started(), *MIDDLE, commit]
    shown = screen(run)
    assert " eps 3.2 of 8 " in shown
    assert "round 3/10 committed: eps 3.2 of 8, 2.5 s, 2 learners" in shown
    assert "nan" not in shown
    target = console(80)
    display = TerminalDisplay(10, target)
    for event in run:
        display.on_event(event)
    display.close()
    [row] = [line.split() for line in target.export_text().splitlines() if line.strip().startswith("3 ")]
    assert row[:2] == ["3", "3.2100"]
