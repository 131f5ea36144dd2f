"""An asynchronous simulation, cut off at any event and resumed, ends in the bits and the buffers of a whole one."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from leader.events import Event, RoundCommitted, StepApplied, UpdateAccepted
from scripts.simulate.simulation import Hooks, Options
from tests.scripts.simulate.test_simulation import config, digest, run

SPREAD = Options(speed_spread=1.5)
ROUNDS = 8
ASYNCHRONOUS: Mapping[str, Any] = {"buffer": {"size": 3}, "rounds": ROUNDS}


class Camera:
    """Copies the run's folder, as a killed process leaves it, at the `count`-th event of a kind in a round."""

    def __init__(self, folder: Path, kind: type[Event], round_: int, count: int = 1) -> None:
        self.shot = folder.with_name(f"{kind.__name__}-{round_}")
        self._folder, self._kind, self._round, self._left = folder, kind, round_, count

    def on_event(self, event: Event) -> None:
        if isinstance(event, self._kind) and getattr(event, "round", 0) == self._round:
            self._left -= 1
            if self._left == 0:
                shutil.copytree(self._folder, self.shot)


def cameras_in(folder: Path) -> list[Camera]:
    """One for each place in a round where a process may end."""
    return [
        Camera(folder, RoundCommitted, 5),
        Camera(folder, StepApplied, 6),
        Camera(folder, UpdateAccepted, 4, 2),
        Camera(folder, UpdateAccepted, 1),
    ]


def assert_resumed(whole: str, cameras: Iterable[Camera], buffers: bytes, **settings: Any) -> None:
    """Each picture is gone on with to the bits and the buffers of the whole run."""
    for camera in cameras:
        assert resumed(camera.shot, **settings) == whole
        assert (camera.shot / "buffers.jsonl").read_bytes() == buffers


def recorded(folder: Path, *cameras: Camera, **settings: Any) -> str:
    """The digest of a whole run, of which pictures are taken."""

    def heard(event: Event) -> None:
        for camera in cameras:
            camera.on_event(event)

    return digest(run(config(folder, **{**ASYNCHRONOUS, **settings}), SPREAD, Hooks(listener=heard)))


def resumed(folder: Path, **settings: Any) -> str:
    return digest(run(config(folder, **{**ASYNCHRONOUS, **settings}), SPREAD, resume=True))


@pytest.mark.parametrize("cohort", [{}, {"size": 4, "policy": "round_robin"}])
def test_it_ends_in_the_same_bits(tmp_path: Path, cohort: Mapping[str, Any]) -> None:
    folder = tmp_path / "whole"
    cameras = cameras_in(folder)
    whole = recorded(folder, *cameras, cohort=cohort)
    buffers = (folder / "buffers.jsonl").read_bytes()
    assert buffers.count(b'"counted"') == 3 * ROUNDS
    assert_resumed(whole, cameras, buffers, cohort=cohort)


def test_the_log_alone_gives_the_same_bits_and_without_it_they_are_others(tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    cameras = [Camera(folder, RoundCommitted, 3), Camera(folder, RoundCommitted, 4)]
    whole = recorded(folder, *cameras)
    with_log, without = (camera.shot for camera in cameras)
    for shot in (with_log, without):
        (shot / "timetable.json").unlink()
    (without / "buffers.jsonl").unlink()
    shutil.copy(folder / "buffers.jsonl", with_log)
    assert resumed(with_log) == whole
    assert resumed(without) != whole


@pytest.mark.parametrize("size", [3, 6])
def test_masked_groups_end_in_the_same_bits(tmp_path: Path, size: int) -> None:
    """Two groups are at work at any time; what of the open buffer is unmasked is in files of its own."""
    masked: Mapping[str, Any] = {"secagg": {"mode": "masked"}, "buffer": {"size": size, "group": 3}}
    folder = tmp_path / "whole"
    cameras = cameras_in(folder)
    whole = recorded(folder, *cameras, **masked)
    buffers = (folder / "buffers.jsonl").read_bytes()
    assert buffers.count(b'"counted"') == size * ROUNDS
    assert not list(folder.glob("pending-sum-*"))
    assert list(cameras[2].shot.glob("pending-sum-*"))
    assert_resumed(whole, cameras, buffers, **masked)
