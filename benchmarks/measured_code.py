"""Which code a result measured, so that a result that is older than the code says so."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: What every run of a benchmark runs.
PACKAGES = ("leader", "learner", "model", "protos", "utils")


def measured_now(root: Path = ROOT) -> dict[str, object]:
    """Today's date and the fingerprint of each package in `root`: 16 hexadecimal digits of a SHA-256."""
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "code": {package: _fingerprint(root / package) for package in PACKAGES},
    }


def changed_since(measured: Mapping[str, object] | None, root: Path = ROOT) -> list[str]:
    """The packages that have changed since a result was `measured`; all where it doesn't say what it measured."""
    code = (measured or {}).get("code")
    before = code if isinstance(code, Mapping) else {}
    return [package for package in PACKAGES if before.get(package) != _fingerprint(root / package)]


def _fingerprint(package: Path) -> str:
    """Over the names and bytes of all sources; a comment counts too, as telling it apart isn't worth a parser."""
    digest = hashlib.sha256()
    for path in sorted(path for end in ("py", "proto") for path in package.rglob(f"*.{end}")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]
