"""Common mistakes end in one clear line and an exit code, never in a traceback."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.integration.harness import LINE, Cluster, Program, Settings
from tests.tools.ports import closed_address

WAITING: Settings = {"data.source": "none", "data.holder": "learner"}


def last_words(program: Program, code: int) -> str:
    """The one line, beside its log, of a program that ended with this exit code."""
    assert program.wait() == code, program.output
    assert "Traceback" not in program.output
    [message] = [str(entry["message"]) for entry in program.events(LINE)]
    return message


def test_a_learner_without_a_leader_names_the_address(cluster: Cluster) -> None:
    address = closed_address()
    said = last_words(cluster.learner(address, "--connect-timeout-s", "1"), code=5)
    assert said.startswith(f"error: leader {address} ")
    assert "Connection refused" in said
    assert said.endswith("check the address, and that the leader runs")


def test_a_leader_whose_port_is_taken_says_so_and_can_be_started_again(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        leader = cluster.leader(WAITING, listen=address)
        said = last_words(leader, code=2)
    assert said.startswith(f"error: can't listen on {address}: the port is taken")
    assert said.endswith("choose another with --listen HOST:PORT")
    assert not leader.run_dir.exists()


def test_a_learner_whose_own_address_is_taken_says_so(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = last_words(cluster.learner(closed_address(), "--network-addr", address), code=2)
    assert said.startswith(f"error: --network-addr: can't listen on {address}: the port is taken")


@pytest.mark.parametrize("program", ["leader", "learner"])
def test_a_data_folder_that_does_not_exist_is_named(cluster: Cluster, tmp_path: Path, program: str) -> None:
    folder = str(tmp_path / "fotos")
    started: Program
    if program == "leader":
        started = cluster.leader({"data.source": folder})
    else:
        started = cluster.learner(closed_address(), "--data", folder)
    said = last_words(started, code=3)
    assert folder in said
    assert "there is no such folder" in said


def test_a_misspelt_model_brings_the_right_name(cluster: Cluster) -> None:
    said = last_words(cluster.leader({**WAITING, "model.name": "resnet9w16"}), code=2)
    assert said.startswith("error: --set: model.name is 'resnet9w16'; did you mean resnet9-w16?")
