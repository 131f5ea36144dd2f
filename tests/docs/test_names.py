"""Every path, module, link and package that README and docs name exists."""

from __future__ import annotations

import ast
import functools
import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.docs.blocks import DOCUMENTS, ROOT, blocks_of, spans_of

ALL = [*DOCUMENTS, ROOT / "examples" / "README.md"]
FOLDERS = (
    "leader",
    "learner",
    "model",
    "utils",
    "protos",
    "scripts",
    "benchmarks",
    "examples",
    "tests",
    "docs",
)
PROGRAMS = ("leader", "learner", "utils", "scripts", "benchmarks")  # not model: model.name is a config key
ROOMS = ("leader", "learner", "model", "utils", "protos", "scripts", "benchmarks")
#: What documents name of other libraries, and of a user.
WORDS_OF_OTHERS = {"SGDClassifier", "partial_fit"}
each_document = pytest.mark.parametrize("document", ALL, ids=lambda path: path.relative_to(ROOT).as_posix())


@each_document
def test_the_paths_are_there(document: Path) -> None:
    named = [span for span in spans_of(document) if re.fullmatch(r"[\w.-]+/[\w./-]*", span)]
    ours = [path for path in named if path.partition("/")[0] in FOLDERS or path.endswith(".py")]
    missing = [path for path in ours if not (ROOT / path).exists() and not (document.parent / path).exists()]
    assert missing == []


@each_document
def test_the_modules_and_what_is_named_in_them_are_there(document: Path) -> None:
    spans = spans_of(document)
    texts = [*spans, *(line for block in blocks_of(document) for line in block.commands)]
    run = [name for text in texts for name in re.findall(r"python -m ([\w.]+)", text)]
    named = [text for text in spans if re.fullmatch(r"\w+(\.\w+)+", text) and not text.endswith(".proto")]
    ours = [n for n in [*run, *named] if n.partition(".")[0] in PROGRAMS and not n.endswith(".NAME")]
    assert [name for name in ours if not _exists(name)] == []


def _exists(name: str) -> bool:
    """Whether this is a module, or something in one."""
    try:
        import_module(name)
    except ModuleNotFoundError:
        owner, _, leaf = name.rpartition(".")
        return bool(owner) and hasattr(import_module(owner), leaf)
    return True


@each_document
def test_the_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    broken = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path = document.parent / target if target else document
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(f"{target}#{anchor}" if anchor else target)
    assert broken == []


def _anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_architecture_has_a_row_for_every_package_as_its_own_docstring_says() -> None:
    packages = {
        path.parent.relative_to(ROOT).as_posix(): ast.get_docstring(
            ast.parse(path.read_text(encoding="utf-8"))
        )
        for top in ROOMS
        for path in (ROOT / top).rglob("__init__.py")
    }
    rows = re.findall(
        r"^\| `([\w/]+)/` \| (.*) \|$", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE
    )
    told = {name: about for name, about in rows if name in packages}
    assert told == {name: (about or "").partition("\n")[0] for name, about in packages.items()}


@each_document
def test_the_classes_and_messages_are_there(document: Path) -> None:
    named = {span for span in spans_of(document) if re.fullmatch(r"[A-Z]\w*[a-z]\w*(\.\w+)*(\(.*\))?", span)}
    words = {word for span in named for word in span.partition("(")[0].split(".")}
    assert sorted(words - _words() - WORDS_OF_OTHERS) == []


@functools.cache
def _words() -> frozenset[str]:
    """Every name in the sources and the contract."""
    files = (path for top in ROOMS for kind in ("*.py", "*.proto") for path in (ROOT / top).rglob(kind))
    return frozenset(word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8")))
