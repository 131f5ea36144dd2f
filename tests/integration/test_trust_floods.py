"""A secure leader under attack by strangers and by one of its own: honest learners go on to the bits of a quiet run."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from protos import trust_pb2
from tests.integration.audits import records
from tests.integration.harness import CAN_FORK, LINE, TIMEOUT_S, Cluster, Leader, Settings, assert_same_bits
from tests.leader.trust.fleet import Fleet, connect
from utils.errors import BusyError, LimitError, UnreachableError
from utils.trust import contract
from utils.trust.credentials import Credentials
from utils.wire.status import failures_told

SILENT = 500  # connections at once that say nothing
HANDSHAKES = 2000  # by whom the leader does not know, before the first round; they go on then
AT_ONCE = 8
ENDED = -1.0


class Attack:
    """All that comes at a leader until it is called off."""

    def __init__(self, address: str, stranger: Path) -> None:
        """`stranger` has key and certificate of another CA."""
        host, _, port = address.rpartition(":")
        self._at = (host, int(port))
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._tls.set_alpn_protocols(["h2"])
        self._tls.load_cert_chain(stranger)
        self._off = asyncio.Event()
        self._changed = asyncio.Condition()
        self.seen: Counter[str] = Counter()
        self._tasks = [asyncio.create_task(self._silent()) for _ in range(SILENT)]
        self._tasks += [asyncio.create_task(self._handshakes()) for _ in range(AT_ONCE)]

    async def _silent(self) -> None:
        """Connect, say nothing until that is ended, and again."""
        while not self._off.is_set():
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(*self._at)
                await self._count("silent")
                assert await reader.read() == b""
                writer.close()
                await self._count("closed")

    async def _handshakes(self) -> None:
        """Show a certificate that does not count, again and again."""
        while not self._off.is_set():
            with suppress(OSError):  # ssl.SSLError is one
                reader, writer = await asyncio.open_connection(*self._at, ssl=self._tls)
                try:
                    assert await reader.read() == b""
                finally:
                    writer.transport.abort()
            await self._count("handshakes")

    async def _count(self, what: str) -> None:
        async with self._changed:
            self.seen[what] += 1
            self._changed.notify_all()

    async def until(self, what: str, count: int) -> None:
        """Wait until that has happened so often."""
        async with asyncio.timeout(TIMEOUT_S), self._changed:
            await self._changed.wait_for(lambda: self.seen[what] >= count)

    async def call_off(self) -> None:
        """Begin nothing more; what is open stays until the leader ends it."""
        self._off.set()
        await asyncio.gather(*self._tasks)


async def flood(address: str, who: Credentials, refused: asyncio.Event, until: asyncio.Event) -> list[float]:
    """Ask without a pause; after how many seconds each call was told to come again.

    0 = it was answered, ENDED = its connection was ended, as that had too many; the channel makes another.
    """
    waits: list[float] = []
    async with connect(address, who) as channel:

        async def ask() -> float:
            try:
                with failures_told():
                    await contract.WHO_AM_I.ask(channel, trust_pb2.WhoAmIRequest(), TIMEOUT_S)
            except BusyError as error:
                refused.set()
                return error.retry_after_s
            except (LimitError, UnreachableError):
                return ENDED
            return 0.0

        while not until.is_set():
            waits += await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return waits


def open_files(leader: Leader) -> int:
    """How many descriptors the leader has open."""
    return len(list(Path(f"/proc/{leader.process.pid}/fd").iterdir()))


def wait_released(leader: Leader, most: int) -> None:
    """Wait until the leader has no more descriptors open than that."""
    deadline = time.monotonic() + TIMEOUT_S
    while (now := open_files(leader)) > most:
        assert time.monotonic() < deadline, f"{now} descriptors are open"
        time.sleep(0.05)


@pytest.mark.skipif(not CAN_FORK, reason="descriptors are counted in /proc")
def test_neither_strangers_nor_a_learner_that_floods_keep_others_from_training(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    # The lease is to outlast what is waited for while a learner is stopped.
    leader = cluster.leader({**tiny, "limits.handshake_s": 2, "cohort.lease_s": 120}, secure=True)
    other = Fleet(cluster.folder / "other").admit("ann")
    (cluster.folder / "stranger.pem").write_bytes(other.key + other.certificate)
    eve = Fleet(cluster.trust)

    async def scenario() -> list[float]:
        assert leader.address
        before = open_files(leader)
        refused, enough = asyncio.Event(), asyncio.Event()
        flooding = asyncio.create_task(flood(leader.address, eve.admit("eve"), refused, enough))
        await asyncio.wait_for(refused.wait(), TIMEOUT_S)
        attack = Attack(leader.address, cluster.folder / "stranger.pem")
        await attack.until("silent", SILENT)
        await attack.until("handshakes", HANDSHAKES)
        crew = [
            cluster.join(leader, "a", faults="stop@learner.training:6"),
            cluster.join(leader, "b"),
        ]
        await asyncio.to_thread(leader.event, "RoundCommitted", round=5)
        assert attack.seen["handshakes"] > HANDSHAKES
        assert attack.seen["silent"] > SILENT
        enough.set()
        waits = await flooding  # before the run can end
        await attack.call_off()
        assert attack.seen["silent"] == attack.seen["closed"]
        await asyncio.to_thread(crew[0].frozen)
        # Before, the record (metadata.sqlite, its log and that one's index) may not have been open yet.
        await asyncio.to_thread(wait_released, leader, before + 2 * len(crew) + 3)
        crew[0].signal(signal.SIGCONT)
        for program in (leader, *crew):
            await asyncio.to_thread(program.succeed)
            assert "Traceback" not in program.output
        return waits

    waits = asyncio.run(scenario())
    refusals = [wait for wait in waits if wait > 0]
    assert len(waits) > len(refusals) > 0
    assert max(refusals) <= 1
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
    assert not leader.events("LearnerLeft")
    refused = [line for line in records(cluster.trust) if line["what"] == "refused"]
    assert {(line["who"], line["method"]) for line in refused} == {("eve", "WhoAmI")}
    # Where the machine is quick eve's connection, too, comes to its bound.
    assert {"BusyError"} <= {line["kind"] for line in refused} <= {"BusyError", "LimitError"}
    assert sum(1 + line["suppressed"] for line in refused) <= len(refusals) + waits.count(ENDED)
    [last] = leader.events(LINE)
    assert last["message"] == f"results are in {leader.run_dir}"  # strangers leave no line
