"""Edges under edges: what goes with one of them, and that all hear of the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from leader.distributed import hub, lost_edges
from leader.edge.app import App
from leader.edge.options import EdgeOptions
from tests.leader.edge.parents import Learner, Parent, config_of, edge_of, mean_of, play, stub_of


@pytest.mark.parametrize("broken", ["the leader's", "the upper edge's"])
def test_edges_whose_streams_break_as_the_run_ends_come_again_and_hear_of_it(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (hub, lost_edges):  # in three seconds a busy machine may not be done with that
        monkeypatch.setattr(module, "AGAIN_S", 20.0)

    async def whole() -> None:
        async with asyncio.timeout(50), Parent(config_of({})).listening() as parent:
            top = App(EdgeOptions(leader=parent.address, name="top", edges_listen="127.0.0.1:0"))
            running = [asyncio.ensure_future(top.run())]
            await parent.until(lambda: len(parent.hub.addresses) == 1)
            running.append(
                asyncio.ensure_future(App(EdgeOptions(leader=top.edges_address, name="low")).run())
            )
            await parent.until(lambda: len(parent.hub.addresses) == 2)
            assert top._link is not None
            (parent if broken == "the leader's" else top._link).hub.end()
            parent.hub.end("over")
            await parent.hub.dismissed()
        await asyncio.wait_for(asyncio.gather(*running), 30)  # half of what they would look for a leader

    asyncio.run(whole())


def test_the_leader_waits_for_no_edge_that_left_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_edges, "AGAIN_S", 3600.0)

    async def story(parent: Parent) -> None:
        async with edge_of(parent):
            pass
        parent.hub.end("over")
        async with asyncio.timeout(20):
            await parent.hub.dismissed()

    play(story)


def test_an_edge_under_an_edge_that_goes_takes_its_own_updates_with_it_alone() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent, name="top", edges_listen="127.0.0.1:0") as top:
            above = parent.hub.addresses[0]
            parent.open(1)
            learners = [Learner(number, parent) for number in range(3)]
            async with (
                edge_below(parent, top.edges_address, "left") as left,
                stub_of(above) as own,
                stub_of(left) as below,
            ):
                await learners[0].send(own)
                await learners[1].send(below)
                async with edge_below(parent, top.edges_address, "right") as right, stub_of(right) as other:
                    await learners[2].send(other)
                lost = parent.lost | await parent.gather()
                assert lost == {parent.receipts[2].uid}
                parent.sum.forget(frozenset(uid.hex() for uid in lost))
                assert parent.sum.finish().mean.tobytes() == mean_of(parent, *learners[:2])
                assert [receipt.header.work_id for receipt in parent.receipts] == [
                    learner.ticket.work_id for learner in learners
                ]

    play(story)


@asynccontextmanager
async def edge_below(parent: Parent, above: str, name: str) -> AsyncIterator[str]:
    """An edge below another; its address."""
    known = set(parent.hub.addresses)
    app = App(EdgeOptions(leader=above, name=name))
    running = asyncio.ensure_future(app.run())
    try:
        await parent.until(lambda: len(parent.hub.addresses) > len(known))
        (address,) = set(parent.hub.addresses) - known
        yield address
    finally:
        app.parent.leave()
        await asyncio.wait_for(running, 60)
