"""Refusals are all counted, but only some are told."""

from __future__ import annotations

from leader.events import CallRefused, Event, EventStream
from leader.rpc.refusal_counts import Refusals
from utils.errors import LimitError, PayloadError


def test_a_flood_is_counted_whole_and_told_in_part() -> None:
    told: list[Event] = []
    events = EventStream()
    events.subscribe(told.append)
    now = 0.0
    refusals = Refusals(events, clock=lambda: now)
    for _ in range(1000):
        refusals.note("GetModel", PayloadError("bad"), None)
    refusals.note("GetModel", LimitError("much"), 7)
    assert refusals.counts == {"PayloadError": 1000, "LimitError": 1}
    assert told == [CallRefused(None, "bad", "GetModel", "PayloadError")] * 5 + [
        CallRefused(7, "much", "GetModel", "LimitError")
    ]
    now = 5.0
    refusals.note("GetModel", PayloadError("bad"), None)
    assert told[-1] == CallRefused(None, "bad", "GetModel", "PayloadError", suppressed=995)
