"""Settings that edges can't go with, each with the reason and what to set instead."""

from __future__ import annotations

from collections.abc import Iterator

from leader.config.run_fields import RunFields

MOST_LOGGED = 50_000  # updates of a sum in a log, so that their names fit in a record


#: Rules that need all updates of a coordinate, and nothing of the others.
COORDINATEWISE = ("median", "trimmed_mean")


def problems_of_edges(config: RunFields) -> Iterator[str]:
    """One line for each setting under which updates can't be added in several places."""
    kafka = config.services.kafka
    if kafka.events and not kafka.brokers:
        yield f"services.kafka.events is {kafka.events}, but services.kafka.brokers is empty: say where Kafka is"
    if config.services.redis.url and not config.edges.listen:
        yield "services.redis.url is set, but edges.listen is empty, and edges alone use Redis: set edges.listen"
    if not config.edges.listen:
        return
    if kafka.carries:
        yield from _problems_of_the_log(config)
    begins = f"edges.listen is {config.edges.listen}, so that updates are added in several places, but "
    alone = "or leave edges.listen empty"
    if config.exchange == "gradient":
        yield f"{begins}exchange is gradient, whose pieces the leader steps with at once: set exchange=delta, {alone}"
    if size := config.buffer.size:
        yield (
            f"{begins}buffer.size is {size}, so that the leader alone knows how old each is: set buffer.size=0, {alone}"
        )
    if (rule := config.aggregate.rule) in COORDINATEWISE and not kafka.carries:
        yield (
            f"{begins}aggregate.rule is {rule}, and edges merge sums alone, of which there is no {rule}: set "
            f"services.kafka.brokers, aggregate.rule=mean, {alone}"
        )
    elif rule not in ("mean", *COORDINATEWISE):
        yield f"{begins}aggregate.rule is {rule}, which must see all of them: set aggregate.rule=mean, {alone}"
    if config.dp.mode == "central":
        yield f"{begins}dp.mode is central, which clips each at the leader: set dp.mode=distributed, {alone}"


def _problems_of_the_log(config: RunFields) -> Iterator[str]:
    begins = f"services.kafka.brokers is {config.services.kafka.brokers}, so that updates go into a log, but "
    alone = "or leave services.kafka.topic empty, so that edges add them"
    if (size := config.updates_awaited) > MOST_LOGGED:
        yield f"{begins}a round has {size} updates: set cohort.size to {MOST_LOGGED} at most, {alone}"
