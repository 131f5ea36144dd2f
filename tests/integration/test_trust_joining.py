"""Joining a secure run: by the line that the leader prints, once; whoever has no right to gets nowhere."""

from __future__ import annotations

import shlex

from tests.integration.harness import Cluster, Leader, Program, Settings, assert_same_bits


def printed(leader: Leader) -> list[list[str]]:
    """The commands for learners in a leader's log, first that with which they join."""
    said = [str(entry["message"]) for entry in leader.seen if entry["event"] == "log"]
    lines = [line[line.index("python -m learner") :] for line in said if "python -m learner" in line]
    return [shlex.split(line)[3:] for line in lines]


def succeed(*programs: Program) -> None:
    """Wait until all have ended as they should, without a traceback."""
    for program in programs:
        program.succeed()
        assert "Traceback" not in program.output


def test_learners_join_by_the_printed_line_and_are_known_from_then_on(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    leader = cluster.leader(tiny, secure=True)
    assert leader.started["secure"]
    joining, known = printed(leader)
    succeed(*[cluster.learner(leader, *joining, "--name", name) for name in "ab"], leader)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
    again = cluster.leader(tiny, listen=leader.address, secure=True)
    succeed(*[cluster.learner(again, *known, "--name", name) for name in "ab"], again)
    assert {event["name"] for event in again.events("LearnerJoined")} == {"a", "b"}
    assert_same_bits(again.run_dir, undisturbed.run_dir)
