"""Edits that take a check out: each still has its place in the code, and a test; no attack is without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.mutations import MUTATIONS, table
from tests.attacks.registry import ATTACKS
from tests.attacks.report import PAGE
from tests.attacks.test_siege import SEEN
from tests.tools.mutation import ROOT, Mutation, copied, failure


@pytest.mark.parametrize("one", MUTATIONS, ids=lambda one: f"{one.of}: {one.says}")
def test_what_is_taken_out_is_there_once_and_so_is_the_test(one: Mutation) -> None:
    compile(one.applied(), one.file, "exec")
    file, _, name = one.test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / "tests" / file).read_text()


def test_whatever_was_seen_to_harm_a_leader_is_bounded_by_a_check_that_a_test_would_miss() -> None:
    assert SEEN - {one.of for one in MUTATIONS} == set()
    assert {one.of for one in MUTATIONS} - {attack.name for attack in ATTACKS} == set()
    assert table() in PAGE.read_text("utf-8")


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    with copied() as tree:
        yield tree


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("light + 0", ""),
        ("heavy", "FAILED tests/test_scale.py::test_it - assert 1 == 0"),
        ("light +", ""),  # then no test runs
    ],
)
def test_a_test_that_fails_of_an_edit_is_told_from_one_that_does_not(tree: Path, new: str, told: str) -> None:
    code = "def weigh(heavy: int, light: int) -> int:\n    return light\n"
    (tree / "scale.py").write_text(code)
    (tree / "tests" / "test_scale.py").write_text(
        "from scale import weigh\ndef test_it(): assert weigh(1, 0) == 0\n"
    )
    one = Mutation("", "", "scale.py", "return light", f"return {new}", "test_scale.py")
    assert failure(one, tree).partition(", w")[0] == told
    assert (tree / "scale.py").read_text() == code
