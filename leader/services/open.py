"""A run's record and what follows it, opened as the run's settings say."""

from __future__ import annotations

from collections.abc import Iterator

from leader.config import RunConfig
from leader.config.sections.operation.services import filled
from leader.events import Event, FederatedEvaluated
from leader.services.record.followers import Follower, Followers
from leader.services.record.writer import Record
from leader.state import RunState
from leader.storage.run_folder import RunFolder


def open_record(config: RunConfig, folder: RunFolder, state: RunState, *, resume: bool) -> Record:
    """The record of the run in `folder`; raises ConfigError for a service that can't be used as it is set."""
    untold: list[Event] = []
    if state.federated:
        untold.append(FederatedEvaluated(state.round - 1, state.federated))
    if state.committed is not None:
        untold.append(state.committed)
    followers = Followers(folder.record, list(_followers(config, folder, state.run_id)))
    return Record(folder.record, followers, untold=untold if resume else None)


def _followers(config: RunConfig, folder: RunFolder, run_id: str) -> Iterator[Follower]:
    services = config.services
    if services.mongodb.url:
        from leader.services.mongodb import (
            MongodbFollower,
        )  # here, so that no run without it needs its package

        url = filled("services.mongodb.url", services.mongodb.url)
        yield MongodbFollower(url, run_id, services.mongodb.retention_days)
    if services.mlflow.url:
        from leader.services.mlflow import MlflowFollower

        yield MlflowFollower(config, folder, run_id)
    if services.tensorboard:
        from leader.services.tensorboard import TensorboardFollower

        yield TensorboardFollower(folder.tensorboard)
    if services.kafka.events:
        from leader.services.kafka_events import KafkaFollower

        yield KafkaFollower(services.kafka, run_id)
