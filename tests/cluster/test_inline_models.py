"""Models that come with work orders, in whole runs."""

from __future__ import annotations

from typing import Any

import pytest

from leader.events import RoundCommitted
from learner.wire.connection import Endpoint
from learner.wire.transfer import pull_model
from tests.clusters import TINY, play, train

INLINE = "learner.control.registration.INLINE_BYTES"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Versions that learners fetch, one by one."""
    versions: list[int] = []

    async def noted(at: Endpoint, order: Any, *rest: Any) -> Any:
        versions.append(order.version)
        return await pull_model(at, order, *rest)

    monkeypatch.setattr("learner.work.inputs.pull_model", noted)
    return versions


def test_a_run_whose_models_come_with_the_orders_ends_in_the_bits_of_one_that_fetches_them(
    fetched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = play(train)
    assert not fetched
    monkeypatch.setattr(INLINE, 0)  # as a learner of an older release says

    plain = play(train)

    assert len(fetched) == 2 * 3
    assert inline.model_sha256 == plain.model_sha256
    counted = [run.seen(RoundCommitted)[-1].bytes_down for run in (inline, plain)]
    assert counted[1] - 16 < counted[0] <= counted[1]  # all but what frames a chunk


def test_changes_in_the_place_of_models_are_fetched(fetched: list[int]) -> None:
    play(train, {**TINY, "codec.down": "int8"})

    assert len(fetched) == 2 * 2  # all but the first, which came whole
