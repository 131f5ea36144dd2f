"""What a round's events come to, and that it is bounded."""

from __future__ import annotations

from leader.events import UpdateAccepted
from leader.services.record.fold import Participation


def test_of_learners_that_come_and_go_without_end_a_bounded_number_has_rows() -> None:
    round_ = Participation()
    round_.add("a", UpdateAccepted(1, 1, 0, 10, 0.5, 2.0, 100, "own-a", 3.0))
    for number in range(10_100):
        round_.missing(f"eve-{number}", "left")
    round_.missing("eve-0", "refused")
    rows = list(round_.rows(1))
    assert len(rows) == 1 + 10_000
    assert rows[0] == (1, "a", 1, 10, 100, 3.0, 2.0, 0.5, "counted", None)
    assert rows[1] == (1, "eve-0", 0, 0, 0, 0.0, None, None, "left", None)
