"""The example configs: every one is a run that can start, and says what its comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from leader.cli import parse
from leader.config import RunConfig

EXAMPLES = Path(__file__).parents[2] / "examples"


def config_of(name: str) -> RunConfig:
    return parse(["--config", str(EXAMPLES / name)], {}).config


def test_two_machines_listen_everywhere_and_the_leader_holds_the_data() -> None:
    config = config_of("two_machines.yaml")

    assert config.listen == "0.0.0.0:50051"
    assert (config.data.source, config.data.holder) == ("cifar10", "leader")
    assert (config.learners, config.model.name) == (2, "resnet18")


def test_federated_learners_keep_their_data_and_four_of_five_are_enough() -> None:
    config = config_of("federated.yaml")

    assert (config.data.source, config.data.holder) == ("none", "learner")
    assert (config.exchange, config.model.norm) == ("delta", "group")
    assert config.learners * config.cohort.quorum == pytest.approx(4)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_accepted_and_a_flag_still_wins(path: Path) -> None:
    config = parse(["--config", str(path), "--rounds", "3"], {}).config

    assert config == config_of(path.name).model_copy(update={"rounds": 3})
