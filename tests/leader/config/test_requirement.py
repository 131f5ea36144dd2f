from __future__ import annotations

import pytest

from leader.config import CohortConfig
from leader.config.requirement import Requirement
from leader.config.yaml_file import SCHEMA
from utils.errors import ConfigError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Requirement()),
        ("  ", Requirement()),
        ("site-a", Requirement(frozenset({"site-a"}))),
        ("site-a,device=cuda,memory>=8", Requirement(frozenset({"site-a"}), "cuda", 8 * GIB)),
        (" b , a ,b", Requirement(frozenset({"a", "b"}))),
        ("memory>=0.5", Requirement(memory_bytes=GIB // 2)),
        ("memory>=2,memory>=4", Requirement(memory_bytes=4 * GIB)),
        ("device=cpu,device=cpu", Requirement(device="cpu")),
        ("x" * 32, Requirement(frozenset({"x" * 32}))),
    ],
)
def test_a_requirement_is_read_from_words(text: str, expected: Requirement) -> None:
    assert Requirement.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,,b", "'' is neither a tag"),
        ("a,", "'' is neither a tag"),
        ("site a", "'site a' is neither a tag"),
        ("x" * 33, "is neither a tag"),
        ("device=gpu", "'device=gpu' is neither a tag .* nor device=cpu, device=cuda, device=mps"),
        ("memory>8", "or memory>=GIB, such as memory>=8"),
        ("memory>=-1", "'memory>=-1' is neither"),
        ("memory>=8GB", "'memory>=8GB' is neither"),
        ("memory>=1e3", "'memory>=1e3' is neither"),
        ("memory>=٨", "is neither"),
        ("device=cpu,device=cuda", "a learner has one device, not cpu and cuda; ask for one"),
    ],
)
def test_words_that_mean_nothing_are_refused_and_the_config_names_their_key(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Requirement.parse(text)
    with pytest.raises(ConfigError, match=f"(?s)cohort.require.*{message}"):
        SCHEMA.build(SCHEMA.from_text([("--set", "cohort.require", text)]))


def test_every_condition_must_be_met() -> None:
    wanted = Requirement.parse("site-a,night,device=cuda,memory>=8")
    assert wanted.met_by(["night", "site-a", "more"], "cuda", 8 * GIB)
    assert not wanted.met_by(["site-a"], "cuda", 8 * GIB)
    assert not wanted.met_by(["site-a", "night"], "cpu", 8 * GIB)
    assert not wanted.met_by(["site-a", "night"], "", 8 * GIB)
    assert not wanted.met_by(["site-a", "night"], "cuda", 8 * GIB - 1)


def test_a_learner_that_says_nothing_meets_the_empty_requirement_alone() -> None:
    assert Requirement().met_by([], "", 0)
    for text in ("a", "device=cpu", "memory>=0.001"):
        assert not Requirement.parse(text).met_by([], "", 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"candidates": 8, "size": 4}, "cohort.candidates is for cohort.policy=power_of_choice"),
        (
            {"candidates": 4, "size": 4, "over_selection": 1.25, "policy": "power_of_choice"},
            "no fewer than the shards drawn",
        ),
    ],
)
def test_candidates_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CohortConfig.model_validate(values)
