"""The live page in a real Chromium: what it shows is the run, whatever it is told, also after the leader's restart."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from leader import events
from leader.web.page import Page as Pages
from leader.web.run_view import RunView
from leader.web.server import web_server
from tests.clusters import TINY
from tests.integration.harness import TIMEOUT_S, Cluster, Settings, noise
from tests.leader.web.runs import accepted, committed, joined, started

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LONG: Settings = {**TINY, "rounds": 100_000, "web.listen": "127.0.0.1:0"}
HOSTILE = "<img src=x onerror=document.title='hacked'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests here, and gone after them: asyncio.run does not work beside it."""
    if not CHROMIUM.exists() and "CI" not in os.environ:
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Seen:
    """A tab, and what went wrong or elsewhere in it."""

    def __init__(self, browser: Browser, url: str, width: int = 1180) -> None:
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page: Page = browser.new_page(viewport={"width": width, "height": 800})
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda asked: self.hosts.add(urlsplit(asked.url).netloc))
        self.page.goto(url)

    def wait(self, condition: str) -> None:
        """Wait until this JavaScript is true; asked from outside, for the page's policy lets nobody in."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"not {condition}: {self.page.inner_text('body')[:2000]}"
            self.page.wait_for_timeout(20)

    def assert_sound(self, url: str) -> None:
        """Nothing went wrong, nothing was asked elsewhere, and every text is meant for people."""
        assert self.errors == []
        assert self.hosts == {urlsplit(url).netloc}
        text = self.page.inner_text("body")
        assert re.findall(r"null|NaN|undefined|\[object|Infinity", text) == []
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


ROUND = "Number(document.querySelector('#figures small')?.textContent.match(/round (\\d+)/)?.[1] ?? 0)"


def test_the_page_shows_the_record_and_survives_the_leaders_death(cluster: Cluster, browser: Browser) -> None:
    leader = cluster.leader(LONG)
    url = (leader.started, (leader.run_dir / "page").read_text().strip())[1]
    seen = Seen(browser, url)
    seen.wait("document.querySelector('#state').textContent === 'waiting'")
    assert f"python -m learner --leader {leader.address} --data DIR" in seen.page.inner_text("#waiting")
    crew = [cluster.learner(leader, "--name", name, *noise(name)) for name in "ab"]
    seen.wait(f"{ROUND} >= 5")
    seen.wait("document.querySelectorAll('#learners tbody tr').length === 2")
    seen.assert_sound(url)
    loss, round_ = seen.page.evaluate(
        f"[document.querySelector('#figures dd').firstChild.textContent, {ROUND}]"
    )
    assert float(loss) == float(f"{record(leader.run_dir, round_)['loss']:.4g}")
    leader.kill()
    again = cluster.resumed(leader, "--rounds", "100000", "--set", "web.listen=127.0.0.1:0")
    resumed = int(again.started["resumed_round"])
    assert (leader.run_dir / "page").read_text().strip() == url
    seen.wait(f"{ROUND} > {resumed} + 2")
    assert seen.page.evaluate("document.querySelectorAll('#charts figure').length") >= 3
    again.signal(signal.SIGTERM)
    seen.wait("document.querySelector('#state').textContent === 'stopped'")
    assert "stopped by SIGTERM" in seen.page.inner_text("#words")
    for program in crew:
        program.kill()
    seen.page.close()


def record(run_dir: Path, round_: int) -> dict[str, Any]:
    """A round's line of metrics.jsonl."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return next(line for line in lines if line["round"] == round_)


@pytest.mark.parametrize(("width", "last"), [(400, 10_001), (1180, 1_001)])
def test_a_large_hostile_run_is_shown_at_once_and_as_text(
    tmp_path: Path, browser: Browser, width: int, last: int
) -> None:
    stream, view = events.EventStream(), RunView(20_000)
    with web_server("127.0.0.1:0", tmp_path / "page", stream, lambda: [Pages([view])]) as url:
        stream.publish(started(20_000))
        for number in range(1000):
            stream.publish(joined(number, f"{HOSTILE}{number}"))
        for round_ in range(1, last):
            for event in committed(round_):
                stream.publish(event)
        stream.publish(events.RoundStarted(last, 1, 1000))
        for number in range(1000):
            stream.publish(accepted(number, last, loss=float("nan")))
        stream.publish(events.CallRefused(None, HOSTILE, "GetModel"))
        for event in committed(last, loss=float("nan")):
            stream.publish(event)
        seen = Seen(browser, url, width)
        seen.wait(f"document.querySelector('#round').textContent.startsWith('Round {last} of')")
        spent = seen.page.evaluate("performance.now()")
        seen.assert_sound(url)
        assert spent < 5000  # it takes a tenth of that on an idle machine
        assert seen.page.title() == f"{last}/20000 training – Flockstep"
        assert seen.page.locator("#learners tbody tr").count() == 100
        assert seen.page.inner_text("#more") == "and 900 more that are faster"
        assert HOSTILE in seen.page.inner_text("#learners")
        assert HOSTILE in seen.page.inner_text("#messages")
        assert seen.page.locator("img").count() == 1  # the page's own
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        seen.page.close()


@pytest.mark.parametrize("loss", [1.3936, 2.5e15, -7.0, 0.0])
def test_a_curve_of_one_value_has_axes(tmp_path: Path, browser: Browser, loss: float) -> None:
    stream, view = events.EventStream(), RunView(10)
    with web_server("127.0.0.1:0", tmp_path / "page", stream, lambda: [Pages([view])]) as url:
        stream.publish(started())
        for round_ in (1, 2):
            for event in committed(round_, loss=loss):
                stream.publish(event)
        seen = Seen(browser, url)
        seen.wait(f"{ROUND} === 2")
        seen.assert_sound(url)
        labels = seen.page.locator("#charts figure").first.locator("text.y").all_text_contents()
        assert len(set(labels)) >= 3  # two values at least, and the word round
        seen.page.close()
