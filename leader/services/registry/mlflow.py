"""The registry of an MLflow server: registered models, whose tags are the card."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from leader.config.reference import Reference
from leader.services.registry.base import CARD, MODEL, Card, Version, pick
from utils.errors import ConfigError, UnreachableError
from utils.files import replace_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TAG = "flockstep."  # before the names of the card's fields
_SETTLED = "flockstep_settled"  # tag of a version for which it is decided whether the alias goes to it
_PAGE = 200
_REASON = 200  # characters
#: What the client must find when it is loaded: else one call to a server that is away takes four minutes.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def open_client(url: str) -> MlflowClient:
    """A client of the server at `url`, which is not called yet; raises ConfigError where there is no client.

    Users and tokens are MLflow's own variables (MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN).
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise ConfigError(f"MLflow needs a package: pip install 'flockstep[mlflow]' ({error})") from error
    return MlflowClient(tracking_uri=url, registry_uri=url)


class MlflowRegistry:
    """See Registry; what is published are files of the MLflow run `run_id`."""

    def __init__(self, client: MlflowClient, url: str, run_id: str = "") -> None:
        self._client = client
        self._url = url
        self._run_id = run_id

    def publish(self, name: str, model: Path, card: Card, alias: str) -> Version:
        """See Registry; of two that publish at once, the later one decides where the alias is."""
        there = self.versions(name)
        for version in there:
            if (version.card.run, version.card.sha256) == (card.run, card.sha256):
                break
        else:
            version = Version(name, self._register(name, model, card), card)
        with self._calls():
            made = self._client.get_model_version(name, str(version.number))
        # A run that is over was started again: the alias may have been moved by hand.
        if _SETTLED in made.tags:
            return version
        champion = next((other for other in there if alias in other.aliases), None)
        if champion is None or card.beats(champion.card):
            self.promote(version, alias)
            version = replace(version, aliases=(alias,))
        with self._calls():
            self._client.set_model_version_tag(name, str(version.number), _SETTLED, "true")
        return version

    def _register(self, name: str, model: Path, card: Card) -> int:
        place = f"model-{card.sha256[:16]}"  # later ones of the run leave it as it is
        with self._calls(), TemporaryDirectory() as folder:
            Path(folder, MODEL).symlink_to(model.absolute())
            replace_file(Path(folder, CARD), card.to_json(), sync=False)
            self._client.log_artifacts(self._run_id, folder, place)
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            tags = {f"{_TAG}{field}": str(value) for field, value in card if value not in (None, "")}
            source = f"runs:/{self._run_id}/{place}"
            made = self._client.create_model_version(name, source, self._run_id, tags, await_creation_for=0)
        return int(made.version)

    def versions(self, name: str = "") -> list[Version]:
        """See Registry."""
        found: list[Any] = []
        token = None
        with self._calls():
            while token != "":
                wanted = f"name = '{name}'" if name else None
                page = self._client.search_model_versions(wanted, _PAGE, page_token=token)
                found, token = [*found, *page], page.token or ""
            names = {made.name for made in found}
            aliases = {known: self._client.get_registered_model(known).aliases for known in names}
        versions = [_version(made, aliases[made.name]) for made in found]
        return sorted(versions, key=lambda version: (version.name, version.number))

    def find(self, reference: Reference) -> Version:
        """See Registry."""
        return pick(self.versions(reference.name), reference, self._url)

    def download(self, version: Version, folder: Path) -> None:
        """See Registry."""
        from mlflow.artifacts import download_artifacts

        with self._calls():
            source = self._client.get_model_version_download_uri(version.name, str(version.number))
            download_artifacts(f"{source}/{MODEL}", dst_path=str(folder), tracking_uri=self._url)

    def promote(self, version: Version, alias: str) -> None:
        """See Registry."""
        with self._calls():
            self._client.set_registered_model_alias(version.name, alias, str(version.number))

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """What the server or the way to it refuses is an UnreachableError, in one line."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            reason = str(error).partition("\n")[0][:_REASON]
            raise UnreachableError(
                f"MLflow at {self._url} did not do what was asked; is it up, and may you do that? ({reason})"
            ) from error


def _version(made: Any, aliases: dict[str, str]) -> Version:
    fields = {name.removeprefix(_TAG): value for name, value in made.tags.items() if name.startswith(_TAG)}
    mine = tuple(sorted(alias for alias, number in aliases.items() if number == made.version))
    return Version(made.name, int(made.version), Card.model_validate(fields), mine)
