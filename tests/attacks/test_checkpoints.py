"""Checkpoints that say what no run has written are told as damaged, and the one before is used."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leader.cli import parse
from leader.data.dataset import open_data
from leader.global_model.initial import open_origin
from leader.initial_state import initial_state, open_folder
from leader.storage.checkpoint import checkpoints, load_checkpoint, load_newest, save_checkpoint
from tests.attacks.checkpoints import FORGERIES, forge, lacks, says
from tests.clusters import TINY
from tests.leader.storage.test_checkpoint import assert_same, save, state
from utils.errors import CheckpointError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", FORGERIES)
def test_what_no_run_has_written_is_damaged_and_the_one_before_is_used(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, newest = save(tmp_path, 4, 5)
    forge(newest, FORGERIES[kind])
    with caplog.at_level(logging.WARNING):
        assert_same(load_newest(tmp_path), state(4))
    [told] = caplog.messages
    assert told.startswith("checkpoint round-00000005.safetensors is damaged: ")
    assert told.endswith("; trying the one before")
    assert told.isprintable()
    assert len(told) < 450
    before.unlink()
    with pytest.raises(CheckpointError, match=r"only damaged ones: round-00000005\.safetensors\); start a"):
        load_newest(tmp_path)


def test_a_checkpoint_that_is_put_together_anew_is_sound(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 5)
    forge(path, says())
    assert_same(load_checkpoint(path), state(5))


def test_a_leader_that_finds_damaged_ones_alone_ends_in_words(tmp_path: Path) -> None:
    flags = [text for key, value in TINY.items() for text in ("--set", f"{key}={value}")]
    config, run = open_folder(parse(["--run-dir", str(tmp_path / "run"), *flags], {}).config, resume=False)
    begun = initial_state(config, open_origin(config, open_data(config).classes))
    save_checkpoint(run.checkpoints, begun, keep=1, config="")
    [path] = checkpoints(run.checkpoints)
    forge(path, lacks("exchanges"))
    ended = subprocess.run(
        [sys.executable, "-m", "leader", "--resume", str(run.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (ended.returncode, ended.stdout) == (4, ""), ended.stderr
    assert "Traceback" not in ended.stderr
    assert "checkpoint round-00000000.safetensors is damaged: exchanges: Field required" in ended.stderr
    assert "error: no checkpoint to resume from in" in ended.stderr
    assert "(only damaged ones: round-00000000.safetensors); start a new run\n" in ended.stderr
