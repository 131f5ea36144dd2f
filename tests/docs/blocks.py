"""The code in the README and the docs: what a document tells its reader to run, block by block."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = "sh"  # what an indented block is; Python and all else is fenced, with its language
MARKER = re.compile(r"\s*<!-- not run: (?P<why>[^>]+) -->\s*")


@dataclass(frozen=True)
class Block:
    """Lines of code that belong together."""

    document: Path
    line: int  # of its first line, from 1
    language: str  # empty where a fence has none
    text: str
    why_not: str  # why a test does not run it; empty where one does

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """A shell block's commands, each on one line without its comment."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [re.sub(r"\s+# .*", "", line).strip() for line in lines if line.strip()]


def blocks_of(document: Path) -> list[Block]:
    """The blocks of a document, in order."""
    return list(_blocks(document, document.read_text(encoding="utf-8").splitlines()))


def _blocks(document: Path, lines: list[str]) -> Iterator[Block]:
    number, why_not = 0, ""
    while number < len(lines):
        line = lines[number]
        if marker := MARKER.fullmatch(line):
            why_not = marker["why"]
        elif line.strip():
            end = number + 1
            if fence := re.fullmatch(r" *```(\w*)", line):
                end = next(n for n in range(end, len(lines)) if lines[n].strip() == "```")
                yield Block(document, number + 2, fence[1], "\n".join(lines[number + 1 : end]), why_not)
                end += 1
            elif _is_indented(lines, number):
                while end < len(lines) and lines[end].startswith("    "):
                    end += 1
                yield Block(document, number + 1, SHELL, "\n".join(lines[number:end]), why_not)
            number, why_not = end - 1, ""
        number += 1


def _is_indented(lines: list[str], number: int) -> bool:
    """Whether an indented block begins here: four spaces, and nothing above that it could be the rest of."""
    return lines[number].startswith("    ") and not lines[number - 1].strip()


def spans_of(document: Path) -> list[str]:
    """What a document has in backticks outside its blocks."""
    text = re.sub(
        r"^ *```.*?^ *```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return re.findall(r"`([^`\n]+)`", text)


def words_of(command: str) -> list[str]:
    """A command as the shell would split it, with this machine for HOST and an entry of the benchmarks for NAME."""
    there = command.replace("HOST", "127.0.0.1").replace("ARGS=NAME", "ARGS=soak")
    return shlex.split(there)
