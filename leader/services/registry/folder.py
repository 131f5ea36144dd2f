"""The registry in a folder: NAME/3/ with the files of a version, NAME/aliases/champion with its number."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from leader.config.reference import ALIAS, NAME, Reference
from leader.services.registry.base import CARD, MODEL, Card, Version, pick
from utils.errors import ConfigError
from utils.files import alone_at, replace_file, sync_folder

_ALIASES = "aliases"


class FolderRegistry:
    """See Registry; leaders that publish at once wait for each other."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def publish(self, name: str, model: Path, card: Card, alias: str) -> Version:
        """See Registry."""
        with self._alone(name) as folder:
            there = self.versions(name)
            for version in there:
                if (version.card.run, version.card.sha256) == (card.run, card.sha256):
                    return version
            version = Version(name, max((version.number for version in there), default=0) + 1, card)
            self._write(folder, version.number, model, card)
            champion = next((other for other in there if alias in other.aliases), None)
            if champion is not None and not card.beats(champion.card):
                return version
            try:
                self._point(folder, alias, version.number)
            except OSError:
                shutil.rmtree(folder / str(version.number))  # else whoever tries again leaves it as it is
                raise
            return replace(version, aliases=(alias,))

    def _write(self, folder: Path, number: int, model: Path, card: Card) -> None:
        """Make the folder of a version: it is there whole, or not at all."""
        partial = folder / ".partial"
        if partial.exists():  # of a process that was killed
            shutil.rmtree(partial)
        partial.mkdir()
        shutil.copyfile(model, partial / MODEL)
        with (partial / MODEL).open("rb") as file:
            os.fsync(file.fileno())
        replace_file(partial / CARD, card.to_json())
        partial.rename(folder / str(number))
        sync_folder(folder)

    @contextmanager
    def _alone(self, name: str) -> Iterator[Path]:
        folder = self._root / _checked(NAME, name, "a model")
        (folder / _ALIASES).mkdir(parents=True, exist_ok=True)
        with alone_at(folder / ".lock"):
            yield folder

    def _point(self, folder: Path, alias: str, number: int) -> None:
        replace_file(folder / _ALIASES / _checked(ALIAS, alias, "an alias"), f"{number}\n".encode())

    def versions(self, name: str = "") -> list[Version]:
        """See Registry."""
        if not name:
            names = [path.name for path in sorted(self._root.glob("*")) if re.fullmatch(NAME, path.name)]
            return [version for known in names for version in self.versions(known)]
        folder = self._root / _checked(NAME, name, "a model")
        aliases = {path.name: path.read_text() for path in folder.glob(f"{_ALIASES}/*")}
        aliases = {name: number.strip() for name, number in aliases.items() if re.fullmatch(ALIAS, name)}
        found = sorted(
            int(path.name) for path in folder.glob("*") if re.fullmatch("[1-9][0-9]{0,8}", path.name)
        )
        return [
            Version(
                name,
                number,
                _read(folder / str(number) / CARD),
                tuple(sorted(alias for alias, target in aliases.items() if target == str(number))),
            )
            for number in found
        ]

    def find(self, reference: Reference) -> Version:
        """See Registry."""
        return pick(self.versions(reference.name), reference, str(self._root))

    def download(self, version: Version, folder: Path) -> None:
        """See Registry."""
        shutil.copyfile(self._root / version.name / str(version.number) / MODEL, folder / MODEL)

    def promote(self, version: Version, alias: str) -> None:
        """See Registry."""
        with self._alone(version.name) as folder:
            self._point(folder, alias, version.number)


def _checked(pattern: str, text: str, what: str) -> str:
    """`text` if it may be the name of a folder or file; raises ConfigError."""
    if re.fullmatch(pattern, text) is None:
        raise ConfigError(f"{text!r} is no name of {what}: 1 to 64 of letters, digits, '.', '_' and '-'")
    return text


def _read(path: Path) -> Card:
    try:
        return Card.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} is no card of a model ({type(error).__name__}); remove that version"
        ) from None
