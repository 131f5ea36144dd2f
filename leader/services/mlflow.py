"""Runs in MLflow: parameters, metrics by round, results, and the model as a registered version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from leader.config import RunConfig
from leader.config.sections.operation.services import filled
from leader.config.yaml_file import SCHEMA
from leader.services.record.file import RESUMED, Row, connect
from leader.services.registry.lineage import register
from leader.services.registry.mlflow import MlflowRegistry, open_client
from leader.storage.run_folder import RunFolder
from utils.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_RUN = "flockstep.run"  # tag by which a run is found again
_MOST_PARAMS = 100  # that the server takes at once
_MOST_TEXT = 500  # characters of a parameter, at the oldest of servers
#: Columns of a round that are its metrics.
MEASURED = (
    "loss",
    "lr",
    "seconds",
    "bytes_up",
    "bytes_down",
    "learners",
    "examples",
    "abandoned",
    "epsilon",
)


class MlflowFollower:
    """Follower: run `run_id`, whatever leader goes on with it, is one run of the server, found by a tag.

    What is sent again is known by metric, round and time, and is there once. Raises ConfigError.
    """

    name = "mlflow"

    def __init__(self, config: RunConfig, folder: RunFolder, run_id: str) -> None:
        if find_spec("mlflow") is None:  # it takes a second to load: that is for the followers' thread
            raise ConfigError("MLflow needs a package: pip install 'flockstep[mlflow]'")
        self._url = filled("services.mlflow.url", config.services.mlflow.url)
        self._config = config
        self._folder = folder
        self._run_id = run_id
        self._opened: tuple[MlflowClient, str] | None = None

    def send(self, rows: Sequence[Row]) -> None:
        """See Follower; raises MlflowException."""
        client, run = self._opened = self._opened or self._open()
        if metrics := self._metrics(rows):
            client.log_batch(run, metrics=metrics)
        for key in (str(row.values["key"]) for row in rows if row.table == "run"):  # as it happened
            if key.startswith(RESUMED):
                client.update_run(run, status="RUNNING")
            elif key == "finished_round":
                self._finish(client, run)

    def close(self) -> None:
        """See Follower; there is no connection to let go of."""

    def _open(self) -> tuple[MlflowClient, str]:
        """The client, and the id of this run at the server, with its parameters."""
        client = open_client(self._url)
        name = self._config.services.mlflow.experiment
        experiment = client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else client.create_experiment(name)
        found = client.search_runs([number], f"tags.`{_RUN}` = '{self._run_id}'", max_results=1)
        run = (
            found[0] if found else client.create_run(number, tags={_RUN: self._run_id}, run_name=self._run_id)
        )
        self._log_params(client, run.info.run_id, run.data.params)
        return client, run.info.run_id

    def _log_params(self, client: MlflowClient, run: str, there: Mapping[str, str]) -> None:
        """Those that are not there yet; they stay as they were first, config.yaml has what a resume changed."""
        from mlflow.entities import Param

        values = SCHEMA.values(self._config).items()
        known = {name: str(value)[:_MOST_TEXT] for name, value in values if not SCHEMA.keys[name].secret}
        params = [Param(name, value) for name, value in known.items() if name not in there]
        for start in range(0, len(params), _MOST_PARAMS):
            client.log_batch(run, params=params[start : start + _MOST_PARAMS])

    def _metrics(self, rows: Sequence[Row]) -> list[Metric]:
        from mlflow.entities import Metric

        times = self._times(rows)
        return [Metric(name, value, times.get(round_, 0), round_) for round_, name, value in points(rows)]

    def _times(self, rows: Sequence[Row]) -> dict[int, int]:
        """When rounds were committed, in ms; the same for a point that is sent twice."""
        rounds = sorted({round_ for round_, _, _ in points(rows)})
        if not rounds:
            return {}
        asked = "SELECT round, committed_at FROM rounds WHERE round BETWEEN ? AND ?"
        database = connect(self._folder.record)
        try:
            found = database.execute(asked, (rounds[0], rounds[-1])).fetchall()
        finally:
            database.close()
        return {round_: int(at * 1000) for round_, at in found}

    def _finish(self, client: MlflowClient, run: str) -> None:
        """The run has ended: its results, and its model."""
        folder, section = self._folder, self._config.services.mlflow
        stopped = json.loads(folder.summary.read_bytes())["stopped"]
        for path in (folder.summary, folder.curves, folder.config, folder.lineage):
            if path.exists():
                client.log_artifact(run, str(path))
        if section.wanted and not stopped:
            register(MlflowRegistry(client, self._url, run), section, folder)
        client.set_terminated(run, "KILLED" if stopped else "FINISHED")


def points(rows: Sequence[Row]) -> list[tuple[int, str, float]]:
    """Round, name and value of all that rows of the record say of rounds and scores."""
    found: list[tuple[Any, str, Any]] = []
    for row in rows:
        if row.table == "rounds":
            found += [(row.values["round"], name, row.values[name]) for name in MEASURED]
        elif row.table == "scores":
            found.append((row.values["round"], str(row.values["metric"]), row.values["value"]))
    return [(int(round_), name, float(value)) for round_, name, value in found if value is not None]
