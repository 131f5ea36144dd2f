"""A learner that makes plain HTTP requests: as curl or a phone would, a connection for each."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
from google.protobuf.json_format import ParseDict

from learner.app import open_own, open_tools
from learner.memory import Memory
from learner.options import LearnerOptions
from learner.wire.transfer import unpack_model
from learner.wire.whole_update import HeldUpdate
from learner.work.workbench import Workbench
from protos import leader_pb2
from tests.clusters import NOISE, TIMEOUT_S
from utils.codecs.files import File
from utils.trust.names import EDGE_TLS_NAME, TLS_NAME
from utils.wire.payload import PayloadReader

JSON = {"content-type": "application/json", "accept": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def said(self) -> Any:
        """Its JSON."""
        return json.loads(self.body)

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and error."""
        return self.status, self.said["error"]


@dataclass
class Requests:
    """Where a leader or an edge is, and what all requests say to it."""

    url: str
    ca: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)
    tls_name: str = TLS_NAME

    def connect(self) -> HTTPConnection:
        """A connection, to a leader that proves to be the one of `ca`."""
        at = urlsplit(self.url)
        assert at.hostname is not None
        if at.scheme == "http":
            return HTTPConnection(at.hostname, at.port, timeout=TIMEOUT_S)
        trusted = ssl.create_default_context(cafile=self.ca)
        connection = HTTPSConnection(self.tls_name, at.port, timeout=TIMEOUT_S, context=trusted)
        connect = connection._create_connection  # type: ignore[attr-defined]
        connection._create_connection = lambda address, *rest: connect((at.hostname, at.port), *rest)  # type: ignore[attr-defined]
        return connection

    def _ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        connection = self.connect()
        try:
            connection.request(method, path, body, {**self.headers, **headers})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()})
        finally:
            connection.close()

    async def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}, **query: Any
    ) -> Answer:
        """The answer to one request."""
        if query:
            path += "?" + urlencode(query, quote_via=quote)
        return await asyncio.to_thread(self._ask, method, path, body, headers)

    async def get(self, path: str, **query: Any) -> Answer:
        return await self.ask("GET", path, **query)

    async def register(self, name: str = "", **said: Any) -> Answer:
        """Register; later requests say the token."""
        answer = await self.ask("POST", "/register", json.dumps({"name": name, **said}))
        if answer.status == 200:
            self.headers["flockstep-token"] = answer.said["token"]
        return answer

    async def order(self) -> dict[str, Any]:
        """The next order; {} when the run is over."""
        while not (work := (await self.get("/work", wait_s=30)).said)["orders"]:
            if work["over"]:
                return {}
        return dict(work["orders"][0])

    def at_edge(self, order: Mapping[str, Any]) -> Requests:
        """What an order's first edge is asked by: its ticket, and no word that is the leader's to know."""
        via = order["via"]
        return Requests(via["urls"][0], self.ca, {"flockstep-ticket": via["ticket"]}, EDGE_TLS_NAME)

    async def send(self, order: Mapping[str, Any], file: bytes, **query: Any) -> Answer:
        """Send an update as one file."""
        said = {"work_id": order["work_id"], "crc32": crc_of(file), "examples": 1, "loss": 0.5, **query}
        return await self.ask("POST", "/aggregate", file, **said)


def crc_of(file: bytes) -> int:
    import zlib

    return zlib.crc32(file)


def as_json(file: bytes) -> bytes:
    """A file of float32 tensors as the JSON of its values."""
    arrays = payload_of(file).arrays()
    return json.dumps(
        {name: {"shape": array.shape, "data": array.ravel().tolist()} for name, array in arrays.items()}
    ).encode()


def payload_of(file: bytes) -> Any:
    reader = PayloadReader(max_bytes=len(file), header_bytes=len(file))
    reader.feed(file)
    return reader.finish()


async def learn(requests: Requests, name: str, *, in_json: bool = False, at_edges: bool = False) -> int:
    """Train as a learner over gRPC does, until the run is over; returns how many updates counted."""
    options = LearnerOptions.model_validate(
        {"leader": "127.0.0.1:1", "device": "cpu", "task": NOISE, "data": f"noise-{name}"}
    )
    tools = open_tools(options)
    own = open_own(options, tools.task)
    assert own is not None
    said = {"examples": own.said.examples, "fingerprint": own.said.fingerprint}
    registered = await requests.register(name, own_data=said)
    assert registered.status == 200, registered.body
    run = ParseDict(registered.said["run"], leader_pb2.RunDescription())
    bench, counted = Workbench(run, tools, Memory()), 0
    while order := await requests.order():
        asked, there = {"version": order["version"]}, requests.at_edge(order) if at_edges else requests
        model = (await there.ask("GET", "/model", headers=JSON if in_json else {}, **asked)).body
        base = unpack_model(bench.layout, payload_of(file_of(model) if in_json else model))
        _, made = bench.make(ParseDict(order, leader_pb2.WorkOrder()), base, own.examples, "own")
        assert isinstance(made, HeldUpdate)
        told = {"work_id": made.said.work_id, "examples": made.said.examples, "loss": made.said.loss}
        file = made.file.header + made.file.body.tobytes()
        if in_json:
            answer = await there.ask("POST", "/aggregate", as_json(file), JSON, **told)
        else:
            answer = await there.send(order, file, **told)
        assert (answer.status, answer.said["message"]) == (200, "counted"), answer.body
        counted += 1
    return counted


def file_of(model: bytes) -> bytes:
    """The file of a model that came as JSON."""
    arrays = {
        name: np.array(t["data"], np.float32).reshape(t["shape"]) for name, t in json.loads(model).items()
    }
    file = File.of(arrays, {})
    return file.header + file.body.tobytes()
