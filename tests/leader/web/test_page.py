"""The page's answers: JSON without NaN, server-sent events in order, and not too many viewers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from leader import events
from leader.web.page import Page
from leader.web.run_view import RunView
from leader.web.server import web_server
from tests.leader.web.runs import committed, joined, started


@pytest.fixture
def stream() -> events.EventStream:
    return events.EventStream()


@pytest.fixture
def client(tmp_path: Path, stream: events.EventStream) -> Iterator[httpx.Client]:
    """Asks the page of a run that has just begun."""
    views = lambda: [Page([RunView(10)])]  # noqa: E731
    with web_server("127.0.0.1:0", tmp_path / "page", stream, views) as url:
        stream.publish(started())
        with httpx.Client(base_url=url, timeout=60.0) as client:
            yield client


def told(lines: Iterator[str]) -> tuple[str, Any]:
    """The next server-sent event: its name and its data."""
    name = next(line for line in lines if line.startswith("event: ")).removeprefix("event: ")
    return name, json.loads(next(lines).removeprefix("data: "))["runs"][0]


def test_a_viewer_is_told_all_at_first_and_then_what_changes(
    client: httpx.Client, stream: events.EventStream
) -> None:
    for event in committed(1):
        stream.publish(event)
    with client.stream("GET", "/api/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        name, run = told(lines)
        assert name == "whole"
        while not run["points"]:  # it was asked before the first look at what happened
            name, run = told(lines)
        assert run["points"][0]["test_loss"] is None  # it was NaN
        for event in committed(2):
            stream.publish(event)
        name, run = told(lines)
        while run["committed"] < 2:
            name, run = told(lines)
        assert (name, [point["round"] for point in run["points"]]) == ("change", [2])
        whole = client.get("/api/run").json()["runs"][0]
        assert [point["round"] for point in whole["points"]] == [1, 2]


def test_the_fifty_first_viewer_is_refused(client: httpx.Client, stream: events.EventStream) -> None:
    with ExitStack() as stack:
        readers = []  # one that is dropped closes its stream
        for _ in range(50):
            answer = stack.enter_context(client.stream("GET", "/api/events"))
            assert answer.status_code == 200
            readers.append(answer.iter_raw())
            next(readers[-1])
        assert client.get("/api/events").status_code == 503
        assert client.get("/api/run").status_code == 200


def test_the_last_thing_that_viewers_hear_is_how_the_run_ended(tmp_path: Path) -> None:
    stream = events.EventStream()
    views = lambda: [Page([RunView(10)])]  # noqa: E731
    with ExitStack() as stack:
        url = stack.enter_context(web_server("127.0.0.1:0", tmp_path / "page", stream, views))
        with httpx.stream("GET", f"{url}api/events", timeout=60.0) as answer:
            lines = answer.iter_lines()
            told(lines)
            stream.publish(started())
            stream.publish(joined(1, "a"))
            stream.publish(events.RunFinished(10, 60.0))
            stack.close()
            *_, last = (line for line in lines if line.startswith("data: "))
    assert json.loads(last.removeprefix("data: "))["runs"][0]["state"] == "finished"


def test_the_files_of_the_page_are_its_own_alone(client: httpx.Client) -> None:
    for path, kind in {
        "/": "text/html",
        "/page.js": "javascript",
        "/page.css": "text/css",
        "/icon.svg": "image/svg+xml",
    }.items():
        answer = client.get(path)
        assert kind in answer.headers["content-type"]
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert "https://" not in answer.text
    assert client.get("/../server.py").status_code == 404
