"""Lineage: what a run's models come from, written into the run folder at its end and registered with them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leader.config import RunConfig
from leader.config.reference import Reference
from leader.config.sections.operation.services import PublishConfig, filled
from leader.evaluation.tracker import metrics_of
from leader.services.registry.base import MODEL, Card, Registry, Version, open_registry, pull, weights_sha256
from leader.services.registry.folder import FolderRegistry
from leader.storage.metrics_log import Record
from leader.storage.run_folder import RunFolder
from utils.datasets import Dataset
from utils.errors import ConfigError, FlockstepError
from utils.files import replace_file

_log = logging.getLogger(__name__)


def starting_weights(config: RunConfig, folder: RunFolder, *, resume: bool) -> Path | None:
    """The file that model.weights names; a registered one is brought into the run folder first, and stays there.

    So a run that is resumed needs no registry, and goes on from what it began with wherever an alias is by then.
    Raises ConfigError, DataError and UnreachableError.
    """
    weights = config.model.weights
    if weights is None or not Reference.is_one(str(weights)):
        return weights
    reference = Reference.parse(str(weights))
    kept = FolderRegistry(folder.parent_model)
    there = kept.versions(reference.name) if resume else []
    if not there:
        shutil.rmtree(folder.parent_model, ignore_errors=True)
        services = config.services
        url = filled("services.mlflow.url", services.mlflow.url)
        registry = open_registry(url or str(services.registry.dir))
        there = [registry.find(reference)]
        try:
            pull(registry, there[0], _place(folder, there[0]))
        except OSError as error:
            raise ConfigError(f"model.weights: can't bring {there[0]} into {folder.path}: {error}") from error
    return _place(folder, there[0]) / MODEL


def _place(folder: RunFolder, version: Version) -> Path:
    return folder.parent_model / version.name / str(version.number)


def register_at_end(
    config: RunConfig,
    folder: RunFolder,
    records: Sequence[Record],
    versions: Mapping[int, int],
    train: Dataset | None,
) -> None:
    """Write the cards of a run whose results are written, and register its model in the folder, where that is wanted.

    `versions` are the numbers of model versions by round, where they are known. What fails is told: the run is good.
    """
    mine, servers = config.services.registry, config.services.mlflow
    if not (mine.wanted or servers.wanted):
        return
    try:
        summary = json.loads(folder.summary.read_bytes())
        by_round = {record["round"]: record for record in records}
        told = train.fingerprint() if train is not None and not config.dp.on else ""
        cards = _cards(config, folder, summary, by_round)
        full = {
            which: card.model_copy(update={"version": versions.get(card.round or 0), "dataset_sha256": told})
            for which, card in cards.items()
        }
        texts = {which: card.model_dump(exclude_none=True) for which, card in full.items()}
        replace_file(folder.lineage, json.dumps(texts, indent=2).encode() + b"\n")
        if mine.wanted:
            register(FolderRegistry(mine.dir), mine, folder)
    except (FlockstepError, OSError) as error:
        _log.warning(
            "the model is not registered: %s; once that is mended: python -m leader --resume %s",
            error,
            folder.path,
        )


def _cards(
    config: RunConfig, folder: RunFolder, summary: Mapping[str, Any], records: Mapping[int, Record]
) -> dict[str, Card]:
    """Those of the last model and of the best one; where nothing was measured these are the same."""
    parent = next(map(str, FolderRegistry(folder.parent_model).versions()), "")
    whole = Card(
        run=summary["run"],
        model=summary["model"],
        dataset=summary["dataset"],
        parent=parent,
        metric=config.evaluation.metric,
        mode=config.evaluation.mode,
        delta=config.dp.delta if config.dp.on else None,
        audit_head=summary.get("audit_head", ""),
    )
    last, best = summary["rounds"], summary["best"]
    score = metrics_of(records[last]).get(whole.metric) if last in records else None
    cards = {"last": _of_round(whole, last, records, summary["model_sha256"], score)}
    cards["best"] = cards["last"]
    if best:
        cards["best"] = _of_round(whole, best["round"], records, weights_sha256(folder.best), best["value"])
    return cards


def _of_round(
    card: Card, round_: int, records: Mapping[int, Record], sha256: str, score: float | None
) -> Card:
    record = records.get(round_)
    facts = {
        "round": round_,
        "sha256": sha256,
        "score": score if score is not None and math.isfinite(score) else None,
        "epsilon": record.get("epsilon") if record else None,
        "record_sha256": hashlib.sha256(json.dumps(record).encode()).hexdigest() if record else "",
    }
    return card.model_copy(update=facts)


def register(registry: Registry, section: PublishConfig, folder: RunFolder) -> None:
    """Register the model of a run that has ended, as `section` wants it; raises FlockstepError and OSError."""
    card = Card.model_validate(json.loads(folder.lineage.read_bytes())[section.register_])
    path = folder.best if section.register_ == "best" and folder.best.exists() else folder.model
    version = registry.publish(section.model, path, card, section.alias)
    stands = f"; {section.alias} stands for it" if section.alias in version.aliases else ""
    _log.info("the model of round %s is %s%s", card.round, version, stands)
