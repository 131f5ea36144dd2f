"""What `make demo` starts: a plain run on this machine, which leaves results and nothing of trust."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from scripts import demo
from tests.integration.harness import CAN_FORK, TIMEOUT_S
from tests.tools.forked import Forked, fork


@pytest.mark.skipif(not CAN_FORK, reason="programs are forked into a folder of their own")
def test_the_demonstration_makes_no_folder_of_trust_and_no_identity(tmp_path: Path) -> None:
    few = ("data.train_examples=64", "data.test_examples=32", "model.name=resnet9-w8")
    options = demo.parse(["--synthetic", "--rounds", "1", *(word for key in few for word in ("--set", key))])
    address, run_dir = f"127.0.0.1:{demo.free_port()}", Path("runs", "demo")
    programs = [
        demo.leader(options, address, "synthetic", run_dir),
        *(demo.learner(options, address, run_dir, number) for number in (1, 2)),
    ]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("FLOCKSTEP_")}
    environment |= {"HOME": str(tmp_path / "home"), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    started: list[Forked] = []
    try:
        with (tmp_path / "output").open("wb") as output:
            for program in programs:
                assert program.command[:2] == (sys.executable, "-m")
                started.append(fork(program.command[2:], tmp_path, environment, output.fileno()))
        codes = [process.wait(TIMEOUT_S) for process in started]
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
    said = (tmp_path / "output").read_text()
    assert codes == [0, 0, 0], said
    assert "secure" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["demo"]
