"""Sieges: what is measured of a leader under attack, and what is told of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.attacks.registry import ATTACKS
from tests.attacks.report import figures, load, markdown, publish, store
from tests.attacks.siege import MIB, PLAIN, Attack, Borne, besiege
from tests.integration.harness import CAN_FORK

TESTS = Path(__file__).parents[1]
QUIET = Borne(0.01, 0.02, 0.03, 0.01, 0.1, 0.2, 20 * MIB, 10.0, 30, "bits", "")


def test_every_attack_has_a_name_of_its_own_and_a_test() -> None:
    names = [attack.name for attack in ATTACKS]
    assert sorted(set(names)) == sorted(names)
    assert [attack.test for attack in ATTACKS if not (TESTS / attack.test).is_file()] == []


#: Each of what was once seen to harm a leader.
SEEN = {
    *("zstd-bombs", "mute-uploads", "metrics", "broken-uploads", "trickled-uploads", "slow-uploads"),
    *("unread-downloads", "mute-calls", "silent-connections", "plain-registrations", "silent-learners"),
    *("idle-takers", "failures", "forged-work", "names", "addresses", "claims", "claims-in-gradient-runs"),
    *("instant-answers", "trickled-downloads", "passing", "rapid-resets", "chatter", "held-out-claims"),
    *("texts", "checkpoints", "dialled", "half-messages", "own-address", "costly-headers"),
}


def test_whatever_was_seen_to_harm_a_leader_is_among_the_attacks() -> None:
    assert SEEN - {attack.name for attack in ATTACKS} == set()


def test_what_a_leader_may_not_do_under_attack_is_told() -> None:
    assert QUIET.missed(QUIET) == []
    bad = Borne(0.51, 1.04, 1.31, 0.01, 0.1, math.inf, 257 * MIB, 10.0, 30, "other", "exit code 4")
    assert bad.missed(QUIET) == [
        "a unary call took 0.51 s",
        "a download took 1.04 s",
        "an upload took 1.31 s",
        "the leader grew by 257 MiB",
        "other bits",
        "exit code 4",
    ]
    assert replace(QUIET, sha256="").missed(QUIET) == ["the run did not end"]


def test_a_siege_is_remembered_and_put_into_the_page(tmp_path: Path) -> None:
    attack = Attack("waves", "waves, at once", "`limits.x`", "attacks/test_siege.py", attacker=_nothing)
    shown = Attack("names", "names", "identity", "attacks/test_names.py")
    slow = replace(QUIET, unary_s=math.inf, run_s=12.0)
    results = {"attacks": {"waves": {PLAIN: figures(QUIET, QUIET, 10), "secure": figures(slow, QUIET, 10)}}}
    store(tmp_path, results)
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- siege -->\nold\n<!-- /siege -->\nbelow\n")
    for _ in range(2):
        publish(markdown((attack, shown), load(tmp_path)["attacks"]), page)
    assert page.read_text().splitlines() == [
        "above",
        "<!-- siege -->",
        "",
        "| attack | bound | unary call | download | upload | leader | run | bits |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        "| nothing |  | 0.01 s / 0.01 s | 0.02 s / 0.02 s | 0.03 s / 0.03 s | +20 MiB / +20 MiB | x 1.00 / x 1.00 "
        "| same / same |",
        "| waves, at once | `limits.x` | 0.01 s / never | 0.02 s / 0.02 s | 0.03 s / 0.03 s | +20 MiB / +20 MiB "
        "| x 1.00 / x 1.20 | same / same |",
        "| names | identity | – | – | – | – | – | `tests/attacks/test_names.py` |",
        "",
        "<!-- /siege -->",
        "below",
    ]


async def _nothing(victim: object) -> None:
    """An attacker that gives up."""


@pytest.mark.skipif(not CAN_FORK, reason="the memory of a leader process is read in /proc")
def test_honest_learners_are_timed_while_a_leader_is_attacked(tmp_path: Path) -> None:
    [attack] = [attack for attack in ATTACKS if attack.name == "noise"]
    borne = besiege(attack, PLAIN, 2.0, tmp_path)
    assert borne.trouble == ""
    assert 0 < borne.unary_s < math.inf
    assert 0 < borne.usual_download_s <= borne.download_s < borne.run_s
    assert 0 < borne.usual_upload_s <= borne.upload_s < borne.run_s
    assert 0 < borne.newcomer_s < borne.run_s
    assert len(borne.sha256) == 64
