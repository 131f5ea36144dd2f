"""Settings that edges can't go with, each with the reason and what to set instead."""

from __future__ import annotations

from collections.abc import Iterator

from leader.config.sections import RunFields


def problems_of_edges(config: RunFields) -> Iterator[str]:
    """One line for each setting under which updates can't be added in several places."""
    if not config.edges.listen:
        return
    begins = f"edges.listen is {config.edges.listen}, so that updates are added in several places, but "
    alone = "or leave edges.listen empty"
    if config.exchange == "gradient":
        yield f"{begins}exchange is gradient, whose pieces the leader steps with at once: set exchange=delta, {alone}"
    if size := config.buffer.size:
        yield (
            f"{begins}buffer.size is {size}, so that the leader alone knows how old each is: set buffer.size=0, {alone}"
        )
    if (rule := config.aggregate.rule) != "mean":
        yield f"{begins}aggregate.rule is {rule}, which must see all of them: set aggregate.rule=mean, {alone}"
    if config.dp.mode == "central":
        yield f"{begins}dp.mode is central, which clips each at the leader: set dp.mode=distributed, {alone}"
