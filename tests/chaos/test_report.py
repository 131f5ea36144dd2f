"""The outcome of a chaos run: the rows of its table and what it says to machines."""

from __future__ import annotations

import json
from pathlib import Path

from tests.chaos.ledger import Injury
from tests.chaos.options import parse
from tests.chaos.plan import Fault, Kind
from tests.chaos.report import Outcome

KILLS = tuple(Fault(number, Kind.KILL, 1, "", 2 * number + 1, 0.5, 0.5) for number in range(3))
CUT = Fault(3, Kind.CUT, 2, "", 8, 0.5, 0.5)


def outcome(disturbed_sha256: str) -> Outcome:
    return Outcome(
        options=parse(["--seed", "5", "--rounds", "8", "--exchange", "gradient"]),
        plan=(*KILLS, CUT),
        injuries=(
            Injury(KILLS[0], 1, 1.0, begun_again=1, sent_again=2, recovered_s=3.0),
            Injury(KILLS[1], 3, 9.0, trained_again=1, refused=4, recovered_s=5.0),
        ),
        undisturbed_s=10.0,
        disturbed_s=20.0,
        leader_starts=1,
        sha256=("aa", disturbed_sha256),
        violation=None,
    )


def test_a_row_sums_up_the_faults_of_one_name() -> None:
    cuts, kills, everything = outcome("aa").rows

    assert (kills.name, kills.planned, kills.injected) == ("learner killed", 3, 2)
    assert (kills.begun_again, kills.sent_again, kills.trained_again, kills.refused) == (1, 2, 1, 4)
    assert kills.recovery_s == 4.0
    assert (cuts.name, cuts.planned, cuts.injected, cuts.recovery_s) == ("connection cut", 1, 0, None)
    assert (everything.name, everything.planned, everything.injected) == ("all", 4, 2)


def test_json_tells_bits_and_the_command_that_repeats_the_run() -> None:
    told = json.loads(outcome("aa").json())

    assert told["bits_identical"] is True
    assert told["faults_injected"] == 2
    assert told["injuries"][1]["fault"] == "learner killed"
    again = parse(told["command"].split()[3:])
    assert (again.seed, again.rounds, again.exchange) == (5, 8, "gradient")


def test_other_bits_and_no_bits_are_not_identical() -> None:
    assert not outcome("bb").identical
    assert not outcome("").identical


def test_minutes_decide_the_number_of_rounds_unless_it_is_given() -> None:
    assert parse(["--minutes", "10"]).rounds == 280
    assert parse(["--minutes", "10", "--rounds", "12"]).rounds == 12
    assert parse(["--dir", "there"]).folder == Path("there")
