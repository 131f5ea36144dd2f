"""Registries: versions of models by name, each with a card that says where it comes from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from leader.config.reference import Reference
from leader.metric_names import Mode, is_better, lower_is_better
from utils.errors import ConfigError, DataError
from utils.files import replace_file

MODEL, CARD = "model.safetensors", "card.json"  # the files of a version
_READ_BYTES = 1 << 20


class Card(BaseModel):
    """Where a model comes from, and what it is worth; all of it is empty for what others have registered."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    run: str = ""  # id of the run
    model: str = ""
    round: int | None = None  # whose weights these are
    version: int | None = None  # number of that model version, as learners were told
    sha256: str = ""  # of the weights, in hex: the file's bytes behind its header
    dataset: str = ""
    dataset_sha256: str = ""  # of what was trained on; "" where that must not be told, or nobody said
    parent: str = ""  # models:/NAME/VERSION that the run started from
    metric: str = ""
    mode: Mode = "auto"  # whether a larger value of the metric is better
    score: float | None = None  # its value for these weights
    epsilon: float | None = None  # spent up to that round, of a run with dp.mode
    delta: float | None = None
    record_sha256: str = ""  # of the round's line in metrics.jsonl, without its end
    audit_head: str = ""  # of the run's audit at its end, as N:HASH

    def beats(self, other: Card) -> bool:
        """Whether this model is measured to be better, by the metric that `other` was measured by."""
        if self.score is None or (other.score is not None and self.metric != other.metric):
            return False
        return is_better(self.score, other.score, lower=lower_is_better(self.metric, self.mode))

    def to_json(self) -> bytes:
        """The content of card.json."""
        return self.model_dump_json(indent=2, exclude_none=True).encode() + b"\n"


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: int
    card: Card
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(Reference(self.name, self.number))


class Registry(Protocol):
    """Where versions are kept; raises ConfigError for what is not there, UnreachableError for a server that is not."""

    def publish(self, name: str, model: Path, card: Card, alias: str) -> Version:
        """Register a file of weights; `alias` moves to it if it beats what has that now, or nothing has.

        What the same run has registered before, with the same weights, is left as it is. Raises OSError.
        """
        ...

    def versions(self, name: str = "") -> list[Version]:
        """Those of one model, or of all, oldest first."""
        ...

    def find(self, reference: Reference) -> Version:
        """The version that this names."""
        ...

    def download(self, version: Version, folder: Path) -> None:
        """Put the files of a version into a folder that is there. Raises OSError."""
        ...

    def promote(self, version: Version, alias: str) -> None:
        """Have `alias` stand for this version, whatever its score. Raises OSError."""
        ...


def open_registry(where: str) -> Registry:
    """The registry in a folder, or at the MLflow server of an http:// or https:// URL; raises ConfigError."""
    if where.startswith(("http://", "https://")):
        from leader.services.registry.mlflow import MlflowRegistry, open_client

        return MlflowRegistry(open_client(where), where)
    if "://" in where:
        raise ConfigError(f"{where}: a registry is a folder, or an MLflow server at http://HOST:PORT")
    from leader.services.registry.folder import FolderRegistry

    return FolderRegistry(Path(where))


def pull(registry: Registry, version: Version, folder: Path) -> None:
    """Bring a version into `folder`, with its card; raises DataError if the weights are not those of the card.

    Raises UnreachableError and OSError too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    registry.download(version, folder)
    if version.card.sha256 not in ("", found := weights_sha256(folder / MODEL)):
        (folder / MODEL).unlink()
        raise DataError(
            f"the weights of {version} have SHA-256 {found[:12]}..., its card says {version.card.sha256[:12]}...: "
            "they were changed or damaged there; register them again"
        )
    replace_file(folder / CARD, version.card.to_json())


def weights_sha256(path: Path) -> str:
    """SHA-256 of a safetensors file's bytes behind its header, in hex; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def pick(versions: list[Version], reference: Reference, where: str) -> Version:
    """The one of `versions` that is named; raises ConfigError that says which there are."""
    for version in versions:
        if reference.number == version.number or reference.alias in version.aliases:
            return version
    names = [alias for version in versions for alias in version.aliases]
    known = ", ".join([*map(str, names), *(str(version.number) for version in versions[-10:])])
    have = f"of {reference.name} it has {known}" if versions else f"it has no model {reference.name}"
    raise ConfigError(
        f"{reference} is not in the registry {where}: {have}; see python -m scripts.registry list"
    )
