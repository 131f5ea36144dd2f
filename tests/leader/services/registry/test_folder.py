from __future__ import annotations

import errno
import multiprocessing
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from leader.config.reference import Reference
from leader.services.registry.base import CARD, MODEL, Card, pull, weights_sha256
from leader.services.registry.folder import FolderRegistry
from tests.registered import publish, weights
from utils.errors import ConfigError, DataError


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    return FolderRegistry(tmp_path / "registry")


def champion(registry: FolderRegistry) -> int:
    return registry.find(Reference.parse("models:/digits@champion")).number


def test_versions_are_numbered_and_the_champion_is_the_best(registry: FolderRegistry, tmp_path: Path) -> None:
    for score, best in ((0.5, 1), (0.4, 1), (0.7, 3), (0.7, 3), (None, 3), (float("nan"), 3)):
        publish(registry, tmp_path, score)
        assert champion(registry) == best
    assert [(v.number, v.card.score, v.aliases) for v in registry.versions()][:3] == [
        (1, 0.5, ()),
        (2, 0.4, ()),
        (3, 0.7, ("champion",)),
    ]


def test_of_a_loss_the_smaller_one_wins_and_other_metrics_do_not_compare(
    registry: FolderRegistry, tmp_path: Path
) -> None:
    publish(registry, tmp_path, None)  # nobody knows what it is worth, but there is no other
    assert champion(registry) == 1
    publish(registry, tmp_path, 2.0, metric="test_loss")
    publish(registry, tmp_path, 3.0, metric="test_loss")
    assert champion(registry) == 2
    publish(registry, tmp_path, 0.9)
    assert champion(registry) == 2
    publish(registry, tmp_path, 1.5, metric="test_loss")
    assert champion(registry) == 5
    publish(registry, tmp_path, 1.6, metric="test_loss", mode="max")
    assert champion(registry) == 6


def test_the_same_weights_of_the_same_run_are_one_version(registry: FolderRegistry, tmp_path: Path) -> None:
    assert publish(registry, tmp_path, 0.5, "a").number == 1
    assert publish(registry, tmp_path, 0.5, "b").number == 2
    again = publish(registry, tmp_path, 0.5, "a")
    assert (again.number, again.aliases) == (1, ("champion",))
    assert publish(registry, tmp_path, 0.6, "a").number == 3


def test_what_is_pulled_is_what_was_published(registry: FolderRegistry, tmp_path: Path) -> None:
    published = publish(registry, tmp_path, 0.5)
    version = registry.find(Reference.parse("models:/digits/1"))
    pull(registry, version, tmp_path / "out")
    assert version == published
    assert (tmp_path / "out" / MODEL).read_bytes() == (tmp_path / "w.safetensors").read_bytes()
    assert load_file(tmp_path / "out" / MODEL)["w"].tolist() == [0.5] * 4
    assert Card.model_validate_json((tmp_path / "out" / CARD).read_bytes()) == published.card
    assert weights_sha256(tmp_path / "out" / MODEL) == published.card.sha256


def test_weights_that_are_not_those_of_the_card_are_refused(registry: FolderRegistry, tmp_path: Path) -> None:
    publish(registry, tmp_path, 0.5)
    weights(tmp_path / "registry" / "digits" / "1" / MODEL, 0.25)
    with pytest.raises(DataError, match="changed or damaged"):
        pull(registry, registry.find(Reference.parse("models:/digits@champion")), tmp_path / "out")
    assert not (tmp_path / "out" / MODEL).exists()


def test_an_alias_can_be_moved_by_hand(registry: FolderRegistry, tmp_path: Path) -> None:
    publish(registry, tmp_path, 0.5)
    worse = publish(registry, tmp_path, 0.4)
    registry.promote(worse, "champion")
    registry.promote(worse, "deployed")
    assert champion(registry) == 2
    assert registry.versions("digits")[1].aliases == ("champion", "deployed")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models:/digits/7", "of digits it has champion, 1; see"),
        ("models:/digits@best", "of digits it has champion, 1; see"),
        ("models:/other/1", "it has no model other; see"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    text: str, told: str, registry: FolderRegistry, tmp_path: Path
) -> None:
    publish(registry, tmp_path, 0.5)
    with pytest.raises(ConfigError, match=f"^{text} is not in the registry {tmp_path}/registry: {told}"):
        registry.find(Reference.parse(text))


@pytest.mark.parametrize("name", ["../x", "a/b", ".lock", "", "x" * 65, "a\n", "-x"])
def test_a_name_is_no_path(name: str, registry: FolderRegistry, tmp_path: Path) -> None:
    path, _ = weights(tmp_path / "w", 1.0)
    with pytest.raises(ConfigError, match="is no name of a model"):
        registry.publish(name, path, Card(), "champion")
    version = publish(registry, tmp_path, 0.5)
    with pytest.raises(ConfigError, match="is no name of an alias"):
        registry.promote(version, name)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == ["registry"]


def test_what_a_killed_leader_left_is_no_version(registry: FolderRegistry, tmp_path: Path) -> None:
    (tmp_path / "registry" / "digits" / ".partial").mkdir(parents=True)
    (tmp_path / "registry" / "digits" / ".partial" / MODEL).write_bytes(b"half")
    assert registry.versions() == []
    assert publish(registry, tmp_path, 0.5).number == 1
    assert [v.number for v in registry.versions()] == [1]


class Full(FolderRegistry):
    """Has no room for an alias."""

    def _point(self, folder: Path, alias: str, number: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")


def test_a_model_whose_alias_could_not_be_moved_is_champion_when_it_is_published_again(
    registry: FolderRegistry, tmp_path: Path
) -> None:
    publish(registry, tmp_path, 0.5)
    with pytest.raises(OSError, match="no space left"):
        publish(Full(tmp_path / "registry"), tmp_path, 0.7)
    assert publish(registry, tmp_path, 0.7).number == champion(registry) == 2


def test_leaders_that_publish_at_once_lose_no_version_and_the_best_is_champion(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    leaders = [context.Process(target=_publish_five, args=(tmp_path, number)) for number in range(3)]
    for leader in leaders:
        leader.start()
    for leader in leaders:
        leader.join(60.0)
        assert leader.exitcode == 0
    versions = FolderRegistry(tmp_path / "registry").versions("digits")
    assert [version.number for version in versions] == list(range(1, 16))
    for version in versions:
        path = tmp_path / "registry" / "digits" / str(version.number) / MODEL
        assert weights_sha256(path) == version.card.sha256
    best = max(versions, key=lambda version: version.card.score or 0.0)
    assert best.aliases == ("champion",)


def _publish_five(tmp_path: Path, leader: int) -> None:
    mine = tmp_path / str(leader)
    mine.mkdir()
    for number in range(5):
        publish(FolderRegistry(tmp_path / "registry"), mine, (number * 7 + leader * 3) % 5 + leader / 10 + 1)
