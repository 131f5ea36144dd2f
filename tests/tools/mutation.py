"""Mutations: a check of the product is taken out, in a copy of this tree, and a test must fail then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
_FAILED = 1  # exit code of pytest where tests ran, and failed


@dataclass(frozen=True)
class Mutation:
    """An edit of one file."""

    of: str  # what the check belongs to, such as an attack's name
    says: str  # what was taken out
    file: str
    old: str  # stands in the file once
    new: str
    test: str  # that fails then: below tests/, as pytest names it
    more: tuple[tuple[str, str], ...] = ()  # edits of the file: another check that would do alone

    def applied(self, root: Path = ROOT) -> str:
        """The file's text with the edit; raises ValueError unless there is one place for it."""
        text = (root / self.file).read_text("utf-8")
        for old, new in ((self.old, self.new), *self.more):
            if text.count(old) != 1:
                raise ValueError(f"{self.file} has {text.count(old)} times, and not once: {old!r}")
            text = text.replace(old, new)
        return text


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of all that git knows of this tree, as it is now."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True)
    with TemporaryDirectory(prefix="flockstep-mutation-") as folder:
        for name in filter(None, names.stdout.split("\0")):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, path)
        yield Path(folder)


def failure(mutation: Mutation, tree: Path) -> str:
    """How the test fails in a tree with the edit, in a line; "" if it does not, or for want of the test."""
    path, text = tree / mutation.file, mutation.applied(tree)
    before = path.read_text("utf-8")
    try:
        _write(path, text)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            f"tests/{mutation.test}",
        ]
        env = os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "200"}
        ran = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    finally:
        _write(path, before)
    lines = [line for line in ran.stdout.splitlines() if line.startswith("FAILED ")]
    return lines[-1] if ran.returncode == _FAILED and lines else ""


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    Path(cache_from_source(str(path))).unlink(missing_ok=True)  # which may be as old and of the same size
