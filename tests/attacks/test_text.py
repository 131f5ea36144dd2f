"""Nothing from outside reaches a terminal, a log or a file raw: neither at the leader nor at a learner."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, cast

import grpc
import pytest
from grpc import aio

from leader.config import LogConfig, RunConfig
from leader.events import Event
from leader.global_model.initial import open_origin
from leader.reporting.log import Display, open_display
from leader.trust import cli as trust_cli
from learner import options as learner_options
from learner.app import App as LearnerApp
from learner.app import open_tools
from protos import leader_pb2, learner_pb2, trust_pb2
from scripts.cluster import Cluster
from tests.attacks.texts import BATCHES, fields, messages, refusal, talk
from tests.clusters import IMAGES, NOISE, SHARDS, TIMEOUT_S, TINY, play
from tests.integration.harness import cluster_in
from tests.leader.trust.fleet import Fleet, connect
from tests.nasty_strings import FORGED, NASTY, SURROGATES, harmful, unprintable
from tests.strangers import Stranger, at_work, update_of
from tests.tools.grpc_server import started
from utils.console import Format, printable, setup_logging
from utils.datasets import save_dataset
from utils.errors import FlockstepError, WireError
from utils.trust import contract as trust_contract
from utils.wire import contract
from utils.wire.status import refuse

FILES = (leader_pb2, learner_pb2, trust_pb2)
#: What rich itself writes on a terminal.
OF_RICH = re.compile(r"\x1b\[(\?25[lh]|1A|2K|[0-9;]*m)|\r")
#: The same texts, more of them in each.
FEW = ["".join(BATCHES[at : at + 8]) for at in range(0, len(BATCHES), 8)]
#: So much is said in these tests that the guard would let nobody speak any more.
PATIENT = {
    "limits.calls_per_s": 1e6,
    "limits.refusals_per_min": 1e7,
    "limits.registrations_per_min": 1e7,
    "limits.enrolments_per_min": 1e7,
    "limits.max_learners": 2000,
    "limits.stall_s": 1.0,
    "log.level": "debug",
}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Shown:
    """What a program shows on a terminal, as plain lines and as JSON of both kinds, all at once."""

    def __init__(self, set_up: Callable[[str, io.StringIO], Any]) -> None:
        """`set_up` logs in a format to a stream."""
        self.terminal, self.plain = Terminal(), io.StringIO()
        self.json, self.ecs = io.StringIO(), io.StringIO()
        streams = {"rich": self.terminal, "plain": self.plain, "json": self.json, "ecs": self.ecs}
        handlers: list[logging.Handler] = []
        self._displays = []
        for kind, stream in streams.items():
            self._displays.append(set_up(kind, stream))
            handlers += logging.getLogger().handlers
        logging.getLogger().handlers = handlers

    @classmethod
    def of_leader(cls) -> Self:
        """As a leader of one round does."""

        def display(kind: str, stream: io.StringIO) -> Display:
            return open_display(LogConfig.model_validate({"format": kind, "level": "debug"}), 1, stream)

        return cls(display)

    def on_event(self, event: Event) -> None:
        for display in self._displays:
            display.on_event(event)

    def check(self) -> None:
        """What is shown does no harm, and each line of the plain log is one message."""
        for display in filter(None, self._displays):
            display.close()
        for stream in (self.terminal, self.plain, self.json, self.ecs):
            assert unprintable(OF_RICH.sub("", stream.getvalue())) == []
            assert len(stream.getvalue()) > 1000
        assert harmful(self.plain.getvalue()) == []
        assert all(re.match(r"\d\d:\d\d:\d\d |  ", line) for line in self.plain.getvalue().splitlines())
        entries = self.json.getvalue() + self.ecs.getvalue()
        lines = [json.loads(line) for line in entries.splitlines()]
        assert [bad for line in lines for text in texts_in(line) for bad in harmful(text)] == []


def texts_in(value: Any) -> Iterator[str]:
    """Every text of what JSON holds."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for one in pair for text in texts_in(one))
    elif isinstance(value, list):
        yield from (text for one in value for text in texts_in(one))


def check_files(folder: Path) -> None:
    """No file of text in a run's folder does harm, when it is shown or when its JSON is."""
    texts = [
        path
        for path in folder.rglob("*")
        if path.suffix in {".json", ".jsonl", ".yaml", ""} and path.is_file()
    ]
    assert {"metrics.jsonl", "summary.json", "config.yaml"} <= {path.name for path in texts}
    for path in texts:
        content = path.read_text()
        assert harmful(content) == [], path
        if path.suffix.startswith(".json"):
            lines = [content] if path.suffix == ".json" else content.splitlines()
            assert [
                bad for line in lines for text in texts_in(json.loads(line)) for bad in harmful(text)
            ] == []


# --- the contract --------------------------------------------------------------------------


def test_there_are_two_hundred_nasty_strings_and_most_do_harm_when_raw() -> None:
    assert len(NASTY) >= 200
    assert sum(bool(harmful(text)) for text in NASTY) > 130
    assert [text for text in (*NASTY, *SURROGATES) if harmful(printable(text))] == []


SAID_TO_LEADER = (
    leader_pb2.LearnerInfo,
    leader_pb2.LearnerDataRequest,
    leader_pb2.UploadRequest,
    leader_pb2.GradientData,
    leader_pb2.LearnerMessage,
)
SAID_TO_LEARNER = (
    leader_pb2.AckWithMetadata,
    leader_pb2.LeaderMessage,
    leader_pb2.WorkOrders,
    leader_pb2.Ack,
    leader_pb2.ModelChunk,
    learner_pb2.StopNotice,
    trust_pb2.Credential,
)
ANSWERED_TO_LEADER = (learner_pb2.Ack,)
SAID_TO_TRUST = (
    trust_pb2.EnrolRequest,
    trust_pb2.RenewRequest,
    trust_pb2.RevokeRequest,
    trust_pb2.ForgetRequest,
    trust_pb2.TokenRequest,
    trust_pb2.TokenId,
)
SAID_TO_OPERATOR = (trust_pb2.Identity, trust_pb2.Identities, trust_pb2.Token, trust_pb2.Tokens)


def test_every_string_of_the_contract_is_attacked_below() -> None:
    attacked = (*SAID_TO_LEADER, *SAID_TO_LEARNER, *ANSWERED_TO_LEADER, *SAID_TO_TRUST, *SAID_TO_OPERATOR)
    every = [kind for file in FILES for kind in file.DESCRIPTOR.message_types_by_name.values()]
    assert fields(*every) == fields(*(kind.DESCRIPTOR for kind in attacked))


# --- the leader ----------------------------------------------------------------------------


@pytest.mark.usefixtures("root_logger")
def test_a_leader_shows_nothing_raw_that_learners_say() -> None:
    shown = Shown.of_leader()
    told: list[str] = []

    async def scenario(cluster: Cluster) -> None:
        cluster.app.events.subscribe(shown.on_event)
        told.extend(await talk(cluster.address, {}))
        async with answering_learner() as address, Stranger(cluster.address) as stranger:
            await stranger.register("answers", control=leader_pb2.CONTROL_DIALLED, network_addr=address)
        cluster.app.coordinator.stop("learner x failed: " + "".join(NASTY[:90]))
        await cluster.finished()
        check_files(cluster.run_dir)

    play(scenario, {**SHARDS, **PATIENT}, data=IMAGES)
    assert [text for text in told if harmful(text)] == []
    assert len(told) > 500
    assert any(told)
    shown.check()


class _Answers:
    """A learner that can be dialled and says nasty things of it."""

    async def say(self, request: object, context: contract.Context) -> learner_pb2.Ack:
        (message, *_) = messages(learner_pb2.Ack(), ["".join(NASTY[:60])])
        return message

    async def refuse(self, request: object, context: contract.Context) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "".join(NASTY[60:120]))


@asynccontextmanager
async def answering_learner() -> AsyncIterator[str]:
    """Where a learner listens that says nasty things of what it is told."""
    answers = _Answers()
    calls: dict[contract.Method[Any, Any], contract.Call] = {
        contract.START_TRAINING: answers.say,
        contract.SYNC_MODEL_STATE: answers.refuse,
        contract.STOP_TRAINING: answers.say,
    }
    async with serving(calls) as address:
        yield address


@asynccontextmanager
async def serving(calls: Mapping[contract.Method[Any, Any], contract.Call]) -> AsyncIterator[str]:
    """A server of these methods, without encryption; gives its address."""
    server = aio.server()
    server.add_generic_rpc_handlers((contract.serve(calls, _refuse),))
    async with started(server) as address:
        yield address


async def _refuse(method: str, context: contract.Context, error: WireError) -> None:
    await refuse(context, error)


def test_a_failure_message_is_harmless_on_the_leaders_terminal_at_exit(tmp_path: Path) -> None:
    assert IMAGES.train is not None
    save_dataset(IMAGES.train, tmp_path / "images.safetensors")
    settings = {**SHARDS, "rounds": 9, "data.source": str(tmp_path / "images.safetensors")}
    layout = open_origin(RunConfig.model_validate(nested(settings)), 4).layout

    async def fail(address: str) -> None:
        async with at_work(address, "a") as one, at_work(address, "b") as other:
            for stranger in (one, other):  # which have done work that counted
                await stranger.send(update_of(layout, 0.0), (await stranger.work()).work_id)
            message = f"\x1b[2J\u202e\x9b31m\n{FORGED}\rx"
            for stranger in (one, other):
                failure = leader_pb2.Failure(work_id=(await stranger.work()).work_id, message=message)
                stranger.say(failure=failure)
                await stranger.ended()

    with cluster_in(tmp_path) as cluster:
        leader = cluster.leader(settings)
        asyncio.run(fail(leader.address))
        assert leader.wait() == 130
        lines = [str(entry["message"]) for entry in leader.events("line")]
        assert harmful(leader.output) == []
        assert lines[0] == rf"learner b failed: \x1b[2J\u202e\x9b31m\n{FORGED}\rx"
        assert lines[1].startswith("resume with: python -m leader --resume ")


def nested(settings: Mapping[str, object]) -> dict[str, Any]:
    """Config keys as the config's sections."""
    config: dict[str, Any] = {}
    for key, value in settings.items():
        section, dot, name = key.rpartition(".")
        (config.setdefault(section, {}) if dot else config)[name] = value
    return config


@pytest.mark.usefixtures("root_logger")
def test_the_trust_service_shows_nothing_raw_that_is_asked_of_it(tmp_path: Path) -> None:
    shown = Shown.of_leader()
    told: list[str] = []
    calls: dict[contract.Method[Any, Any], Any] = {
        trust_contract.ENROL: trust_pb2.EnrolRequest(csr=b"x"),
        trust_contract.RENEW: trust_pb2.RenewRequest(csr=b"x"),
        trust_contract.REVOKE: trust_pb2.RevokeRequest(name="somebody"),
        trust_contract.FORGET: trust_pb2.ForgetRequest(),
        trust_contract.MAKE_TOKEN: trust_pb2.TokenRequest(role="learner", hours=1.0),
        trust_contract.REVOKE_TOKEN: trust_pb2.TokenId(),
    }

    async def scenario(cluster: Cluster) -> None:
        cluster.app.events.subscribe(shown.on_event)
        fleet = Fleet(tmp_path / "trust")
        async with connect(cluster.address, fleet.admit("root", "admin")) as channel:
            for method, request in calls.items():
                asked = [method.ask(channel, message, TIMEOUT_S) for message in messages(request)]
                told.extend([await refusal(call) for call in asked])
        async with connect(cluster.address, fleet.admit("ann")) as channel:
            infos = messages(leader_pb2.LearnerInfo(control=leader_pb2.CONTROL_SESSION))
            told.extend([await refusal(contract.REGISTER.ask(channel, info, TIMEOUT_S)) for info in infos])
        cluster.app.coordinator.stop("enough")
        await cluster.finished()

    play(scenario, {**TINY, **PATIENT, "trust.mode": "on", "trust.dir": tmp_path / "trust"})
    assert [text for text in told if harmful(text)] == []
    assert any(told)
    shown.check()
    for name in ("audit.jsonl", "state.json"):
        assert harmful((tmp_path / "trust" / name).read_text()) == [], name


# --- a learner -----------------------------------------------------------------------------


class EvilLeader:
    """A leader that takes whoever comes, and answers with the messages it was given."""

    def __init__(self) -> None:
        self.taken = leader_pb2.AckWithMetadata(success=True, token=b"t", learner_id=1, name="x")
        self.taken.run.own_task = True
        self.taken.run.heartbeat_s, self.taken.run.chunk_bytes = 60.0, 1 << 20
        self.told: list[leader_pb2.LeaderMessage] = []
        self.details = ""

    def calls(self) -> Mapping[contract.Method[Any, Any], contract.Call]:
        return {
            contract.REGISTER: self._register,
            contract.SESSION: self._session,
            contract.GET_WORK: self._get_work,
            contract.GET_MODEL: self._refuse,
            contract.GET_DATA: self._refuse,
            contract.ACCUMULATE: self._refuse,
            contract.EXCHANGE: self._refuse,
            contract.GET_UPLOAD: self._refuse,
        }

    async def _register(self, request: object, context: contract.Context) -> leader_pb2.AckWithMetadata:
        if self.details and not self.told:
            await self._refuse(request, context)
        return self.taken

    async def _session(self, requests: Any, context: contract.Context) -> None:
        await anext(requests)
        for message in (*self.told, leader_pb2.LeaderMessage(stop=leader_pb2.Stop(reason="that is all"))):
            await context.write(message)

    async def _get_work(self, request: object, context: contract.Context) -> leader_pb2.WorkOrders:
        return leader_pb2.WorkOrders(orders=[message.work for message in self.told])

    async def _refuse(self, request: object, context: contract.Context) -> None:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"leader: {self.details}")


async def outcome(address: str) -> str:
    """What a learner of this leader ends with."""
    flags = [
        "--leader",
        address,
        "--device",
        "cpu",
        "--task",
        NOISE,
        "--connect-timeout-s",
        "0.01",
        "--reconnect-timeout-s",
        "0.01",
    ]
    options = learner_options.parse(flags, {})
    try:
        await LearnerApp(options, open_tools(options), None).run()
    except Exception as error:  # as `program` does
        return str(error) if isinstance(error, FlockstepError) else printable(str(error))
    return ""


@pytest.mark.usefixtures("root_logger")
def test_a_learner_shows_nothing_raw_that_a_leader_says() -> None:
    def log(kind: str, stream: io.StringIO) -> None:
        setup_logging(cast(Format, kind), "debug", stream)

    shown = Shown(log)
    ends: list[str] = []

    async def scenario() -> None:
        evil = EvilLeader()
        async with serving(evil.calls()) as address:
            for taken in messages(evil.taken, FEW):
                evil.taken = taken
                ends.append(await outcome(address))
            evil.taken = EvilLeader().taken
            for told in messages(leader_pb2.LeaderMessage(), FEW):
                evil.told = [told]
                ends.append(await outcome(address))
            for evil.details in FEW:
                for evil.told in ([], [leader_pb2.LeaderMessage(work=leader_pb2.WorkOrder(work_id="1"))]):
                    ends.append(await outcome(address))
            evil.told = []
            for evil.taken in messages(leader_pb2.AckWithMetadata(), FEW):
                ends.append(await outcome(address))

    asyncio.run(scenario())
    assert [text for text in ends if harmful(text)] == []
    assert sum(map(bool, ends)) > len(FEW)
    assert "that is all" in shown.plain.getvalue()
    shown.check()


def test_a_learner_ends_with_a_harmless_line(tmp_path: Path) -> None:
    async def refusing(cluster: Any) -> str:
        evil = EvilLeader()
        evil.details = f"no\x1b[2J\u202e\n{FORGED}"
        async with serving(evil.calls()) as address:
            learner = cluster.learner(address)
            await asyncio.to_thread(learner.fail, 1)
            return str(learner.output)

    with cluster_in(tmp_path) as cluster:
        output = asyncio.run(refusing(cluster))
    assert rf"no\x1b[2J\u202e\n{FORGED}" in output
    assert harmful(output) == []


# --- an operator ---------------------------------------------------------------------------


def test_the_command_line_of_trust_shows_nothing_raw_that_a_leader_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, config = Fleet(tmp_path / "trust"), RunConfig.model_validate({"limits": {"calls_per_s": 1e6}})
    admin = fleet.admit("root", "admin")
    files = zip(("key.pem", "cert.pem", "ca.pem"), (admin.key, admin.certificate, admin.roots), strict=True)
    trust_cli.write_secrets(tmp_path / "me", dict(files))
    identities = [*messages(trust_pb2.Identity()), trust_pb2.Identity(name="honest")]
    tokens = [*messages(trust_pb2.Token(until=1 << 40)), trust_pb2.Token(text="honest")]
    given = iter([*identities, *tokens])

    async def answer(request: object, context: contract.Context) -> Any:
        return next(given)

    async def list_identities(request: object, context: contract.Context) -> trust_pb2.Identities:
        return trust_pb2.Identities(identities=identities)

    async def list_tokens(request: object, context: contract.Context) -> trust_pb2.Tokens:
        return trust_pb2.Tokens(tokens=tokens)

    async def deny(request: object, context: contract.Context) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "leader: " + "".join(NASTY[:100]))

    calls: dict[contract.Method[Any, Any], contract.Call] = {
        trust_contract.LIST_IDENTITIES: list_identities,
        trust_contract.LIST_TOKENS: list_tokens,
        trust_contract.REVOKE: answer,
        trust_contract.MAKE_TOKEN: answer,
        trust_contract.FORGET: deny,
    }

    async def scenario() -> None:
        async with fleet.serving(calls, fleet.guard(config), config) as address:
            there = ["--leader", address, "--identity", str(tmp_path / "me")]
            words = [["list"], *([["revoke", "x"]] * 30), *([["token"]] * 30), ["forget", "x"]]
            for word in words:
                await asyncio.to_thread(trust_cli.main, [*word, *there])

    asyncio.run(scenario())
    told = capsys.readouterr()
    assert harmful(told.out) == []
    assert harmful(told.err) == []
    assert "honest" in told.out
    assert "error: " in told.err
