"""The edge as a program of its own: small, without torch, and ended by signals and by the leader's stop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.leader.edge.parents import Learner, Parent, mean_of, play, stub_of

_MOST_BYTES = 150 << 20


def start(parent: Parent, log: Path) -> subprocess.Popen[bytes]:
    """`python -m leader.edge` in an interpreter of its own."""
    flags = ["--leader", parent.address, "--log-format", "json"]
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "leader.edge", *flags], stdout=out, stderr=subprocess.STDOUT
        )


@asynccontextmanager
async def program(parent: Parent, log: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The program, once it has joined."""
    process = start(parent, log)
    try:
        await parent.until(lambda: len(parent.hub.addresses) == 1)
        yield process
    finally:
        process.kill()
        process.wait()


def of_process(pid: int) -> tuple[int, str]:
    """Bytes that it has in memory, and the files that it has loaded."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), Path(f"/proc/{pid}/maps").read_text()


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, 60)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_is_small_and_has_no_torch(tmp_path: Path) -> None:
    async def story(parent: Parent) -> None:
        async with program(parent, tmp_path / "log") as process, stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            learner = Learner(1, parent)
            await learner.send(stub)
            assert await parent.gather() == frozenset()
            assert parent.sum.finish().mean.tobytes() == mean_of(parent, learner)
            resident, maps = of_process(process.pid)
            assert resident < _MOST_BYTES
            assert "numpy" in maps
            assert "torch" not in maps
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 128 + signal.SIGTERM

    play(story)


def test_the_leaders_stop_ends_it_well(tmp_path: Path) -> None:
    async def story(parent: Parent) -> None:
        async with program(parent, tmp_path / "log") as process:
            parent.hub.end("all rounds are done")
            assert await ended(process) == 0
            assert "all rounds are done" in (tmp_path / "log").read_text()

    play(story)


def test_who_starts_it_wrongly_hears_why() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "leader.edge", "--leader", "192.0.2.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 7
    assert ended.stderr.splitlines()[-1].startswith("error: 192.0.2.1:1 is another machine: ")
