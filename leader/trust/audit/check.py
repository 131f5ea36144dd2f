"""The check of an audit: every line signed, numbered and chained, and the heads that were kept still in it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from leader.trust.audit.chain import BEGINNING, FILE, LINE, PUBLIC_KEY, Head
from utils.errors import ConfigError

#: A kept head in a file of JSON, such as a learner's witness.json, or in JSON within JSON, as in a checkpoint.
_KEPT = re.compile(rb"head\W{1,8}([0-9]{1,18}:[0-9a-f]{64})")


@dataclass(frozen=True)
class Verdict:
    """What a check found: all lines right up to `head`, and what is wrong with the line after it, if anything is."""

    head: Head
    why: str = ""  # "" = all is right

    @property
    def bad(self) -> int:
        """Number of the first bad line; 0 = none."""
        return self.head.number + 1 if self.why else 0


def verify(folder: Path, heads: Sequence[Head] = ()) -> Verdict:
    """Check the audit in `folder`, and that `heads` stand in it; raises ConfigError if none can be read.

    The chain alone can't tell that lines are missing at its end, nor that all was signed anew by another
    key and audit.pub replaced: that takes a head that was kept elsewhere.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex((folder / PUBLIC_KEY).read_text()))
        return _check(_lines(folder / FILE), key, heads)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no audit can be read in {folder}: {error}") from error


def _lines(path: Path) -> Iterator[bytes]:
    """The lines that are there now; writers wait for a moment at most."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        left = os.fstat(file.fileno()).st_size
        fcntl.flock(file, fcntl.LOCK_UN)
        while line := file.readline(left):
            left -= len(line)
            yield line


def _check(lines: Iterable[bytes], key: Ed25519PublicKey, kept: Sequence[Head]) -> Verdict:
    """Go from line to line, as long as each follows from the one before."""
    head = BEGINNING
    for line in lines:
        if why := _fault(line, head, key):
            return Verdict(head, why)
        found = Head(head.number + 1, hashlib.sha256(line[:-1]).digest())
        if any(one.number == found.number and one != found for one in kept):
            return Verdict(head, "not the line that was kept as a head: the audit was written anew")
        head = found
    last = max((one.number for one in kept), default=1)
    missing = f"missing: line {last} was there once, so lines were cut from the end"
    return Verdict(head, missing if head.number < last else "")


def _fault(line: bytes, before: Head, key: Ed25519PublicKey) -> str:
    """Why a line can't stand after `before`, or ""."""
    match = LINE.fullmatch(line)
    if match is None:
        return "not a whole line: edited, or torn by a crash that nothing was recorded after"
    try:
        key.verify(bytes.fromhex(match[3].decode()), match[1] + b"}")
    except InvalidSignature:
        return f"not signed by the key of {PUBLIC_KEY}: edited, or signed with another key"
    if int(match[2]) != before.number + 1:
        return f"numbered {int(match[2])}: lines are missing, doubled or out of order"
    if json.loads(line)["prev"] != before.digest.hex():
        return "does not follow from the line before: that one was changed"
    return ""


def kept_heads(run: Path) -> list[Head]:
    """The heads in the checkpoints and the summary of a run's folder, or in a file; ConfigError if there are none."""
    files = [file for file in (run, *run.glob("checkpoints/*"), run / "summary.json") if file.is_file()]
    texts = {text.decode() for file in files for text in _KEPT.findall(file.read_bytes())}
    if not texts:
        raise ConfigError(f"no head of an audit is kept in {run}: was it a run with trust?")
    return [Head.parse(text) for text in texts]


def report(folder: Path, heads: Sequence[str] = (), runs: Sequence[Path] = ()) -> tuple[str, int]:
    """What `audit verify` prints, and its exit code: 0, or 1 with the first bad line; raises ConfigError."""
    kept = [Head.parse(text) for text in heads] + [head for run in runs for head in kept_heads(run)]
    verdict = verify(folder, kept)
    if verdict.why:
        return f"{folder / FILE} line {verdict.bad} is {verdict.why}", 1
    known = f"kept heads in it: {len(set(kept))}" if kept else "without a kept head, a cut end can't be told"
    return f"{folder / FILE}: {verdict.head.number} lines are right; {known}\nhead {verdict.head}", 0
