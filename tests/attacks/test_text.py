"""Nothing from outside reaches a terminal, a log or a file raw: neither at the leader nor at a learner."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from leader.config import LogConfig
from leader.events import Event
from leader.reporting.log import open_display
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.clusters import IMAGES, SHARDS, TIMEOUT_S, play
from tests.integration.harness import CAN_FORK, cluster_in
from tests.nasty_strings import FORGED, NASTY, SURROGATES, harmful, unprintable
from tests.strangers import Stranger, at_work
from utils.console import printable
from utils.errors import WireError
from utils.wire import contract
from utils.wire.status import refuse

#: What rich itself writes on a terminal.
OF_RICH = re.compile(r"\x1b\[(\?25[lh]|1A|2K|[0-9;]*m)|\r")
#: Some strings in one text each: not a call for each of them.
BATCHES = ["".join(NASTY[at : at + 12]) for at in range(0, len(NASTY), 12)]
FORGING = f"\x1b[2J\u202e\x9b31m\n{FORGED}\rx"
#: So much is said here that a leader would let nobody speak any more.
PATIENT = {
    "limits.calls_per_s": 1e6,
    "limits.refusals_per_min": 1e7,
    "limits.registrations_per_min": 1e7,
    "log.level": "debug",
}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Shown:
    """What a leader shows on a terminal, as plain lines and as JSON, all at once."""

    def __init__(self, rounds: int) -> None:
        self.terminal, self.plain, self.json = Terminal(), io.StringIO(), io.StringIO()
        streams = {"rich": self.terminal, "plain": self.plain, "json": self.json}
        handlers: list[logging.Handler] = []
        self._displays = []
        for kind, stream in streams.items():
            config = LogConfig.model_validate({"format": kind, "level": "debug"})
            self._displays.append(open_display(config, rounds, stream))
            handlers += logging.getLogger().handlers
        logging.getLogger().handlers = handlers

    def on_event(self, event: Event) -> None:
        for display in self._displays:
            display.on_event(event)

    def check(self) -> None:
        """What is shown does no harm, and each line of the plain log is one message."""
        for display in self._displays:
            display.close()
        assert unprintable(OF_RICH.sub("", self.terminal.getvalue())) == []
        assert harmful(self.plain.getvalue()) == []
        assert all(re.match(r"\d\d:\d\d:\d\d |  ", line) for line in self.plain.getvalue().splitlines())
        for line in self.json.getvalue().splitlines():
            assert [found for text in texts_in(json.loads(line)) for found in harmful(text)] == []


def texts_in(value: Any) -> Iterator[str]:
    """Every text of what JSON holds."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for one in pair for text in texts_in(one))
    elif isinstance(value, list):
        yield from (text for one in value for text in texts_in(one))


def test_two_hundred_nasty_strings_are_harmless_once_printable() -> None:
    assert len(NASTY) >= 200
    assert sum(bool(harmful(text)) for text in NASTY) > 130
    assert [text for text in (*NASTY, *SURROGATES) if harmful(printable(text))] == []


@pytest.mark.usefixtures("root_logger")
def test_a_leader_shows_nothing_raw_that_learners_say() -> None:
    shown = Shown(1)
    told: list[str] = []

    async def scenario(cluster: Cluster) -> None:
        cluster.app.events.subscribe(shown.on_event)
        async with Stranger(cluster.address) as stranger:
            for text in BATCHES:
                told.extend(
                    [await refused_registration(stranger, field, text) for field in ("name", "device")]
                )
        for text in BATCHES:
            async with at_work(cluster.address, "") as stranger:
                stranger.say(progress=leader_pb2.Progress(work_id=text))
                stranger.say(failure=leader_pb2.Failure(work_id=text, message=text))
                stranger.say(goodbye=leader_pb2.Goodbye(reason=text))
                await stranger.ended()
        cluster.app.coordinator.stop("learner x failed: " + FORGING)
        await cluster.finished()
        for name in ("metrics.jsonl", "summary.json"):
            lines = (cluster.run_dir / name).read_text()
            assert harmful(lines) == [], name

    play(scenario, {**SHARDS, **PATIENT}, data=IMAGES)
    assert [text for text in told if harmful(text)] == []
    assert sum(map(bool, told)) > len(BATCHES)
    assert printable(FORGING) in shown.plain.getvalue()
    shown.check()


async def refused_registration(stranger: Stranger, field: str, text: str) -> str:
    """What the leader says of a registration with this text, "" if it takes it."""
    try:
        await stranger.register(**{field: text})
    except aio.AioRpcError as error:
        return str(error.details())
    return ""


@pytest.mark.skipif(not CAN_FORK, reason="what a process shows at its end is read")
def test_a_learner_ends_with_a_harmless_line_whatever_its_leader_refuses_with(tmp_path: Path) -> None:
    async def scenario(cluster: Any) -> str:
        server = aio.server()
        server.add_generic_rpc_handlers((contract.serve({contract.REGISTER: _deny}, _refuse),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            learner = cluster.learner(f"127.0.0.1:{port}")
            told: str = await asyncio.to_thread(learner.fail, 1)
            return told + str(learner.output)
        finally:
            await server.stop(None)

    with cluster_in(tmp_path) as cluster:
        output = asyncio.run(asyncio.wait_for(scenario(cluster), TIMEOUT_S))
    assert printable(FORGING) in output
    assert harmful(output) == []


async def _deny(request: object, context: contract.Context) -> None:
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"leader: {FORGING}")


async def _refuse(method: str, context: contract.Context, error: WireError) -> None:
    await refuse(context, error)
