"""The check of an audit finds every change, whoever made it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leader.trust.audit.chain import FILE, KEY, PUBLIC_KEY, Audit, Head
from leader.trust.audit.check import kept_heads, report, verify
from utils.errors import ConfigError

LINES = 12


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust")
    write(folder)
    return folder


def write(folder: Path) -> list[Head]:
    """An audit of LINES lines; the head after each."""
    audit = Audit(folder)
    heads = []
    for number in range(LINES):
        audit.record("committed", round=number, learners=["a", "b"])
        heads.append(audit.head)
    audit.close()
    return heads


@contextmanager
def changed(original: Path, text: bytes) -> Iterator[Path]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(original / PUBLIC_KEY, folder)
        (folder / FILE).write_bytes(text)
        yield folder


def lines_of(folder: Path) -> list[bytes]:
    return (folder / FILE).read_bytes().splitlines(keepends=True)


def test_an_untouched_audit_is_right(original: Path) -> None:
    verdict = verify(original)
    assert (verdict.head.number, verdict.bad, verdict.why) == (LINES, 0, "")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_byte_that_is_changed_is_found_in_its_line(original: Path, data: st.DataObject) -> None:
    text = bytearray((original / FILE).read_bytes())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))
    with changed(original, bytes(text)) as folder:
        assert verify(folder).bad == (original / FILE).read_bytes()[:place].count(b"\n") + 1


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_byte_that_is_taken_out_or_put_in_is_found(original: Path, data: st.DataObject) -> None:
    text = (original / FILE).read_bytes()
    place = data.draw(st.integers(0, len(text) - 1))
    new = bytes(data.draw(st.lists(st.integers(0, 255), max_size=3)))
    after = text[:place] + new + text[place + 1 - len(new) % 2 :]
    if after == text:
        return
    with changed(original, after) as folder:
        assert verify(folder).bad


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_lines_that_are_swapped_dropped_or_doubled_are_found(original: Path, data: st.DataObject) -> None:
    lines = lines_of(original)
    first = data.draw(st.integers(0, LINES - 1))
    match data.draw(st.sampled_from(["swap", "drop", "double", "move"])):
        case "swap":
            other = data.draw(st.integers(0, LINES - 1).filter(lambda n: n != first))
            lines[first], lines[other] = lines[other], lines[first]
            bad = min(first, other) + 1
        case "drop":
            first = min(first, LINES - 2)  # the last one is missed by heads alone
            del lines[first]
            bad = first + 1
        case "double":
            lines.insert(first, lines[first])
            bad = first + 2
        case _:
            lines.insert(LINES - 1, lines.pop(0))
            bad = 1
    with changed(original, b"".join(lines)) as folder:
        assert verify(folder).bad == bad


def test_a_cut_end_is_found_by_a_head_that_was_kept(tmp_path: Path) -> None:
    heads = write(tmp_path)
    text = b"".join(lines_of(tmp_path)[:-2])
    (tmp_path / FILE).write_bytes(text)
    assert not verify(tmp_path).why
    assert not verify(tmp_path, heads[:-2]).why
    assert verify(tmp_path, heads[-2:-1]).bad == LINES - 1
    assert "cut" in verify(tmp_path, heads).why


def test_lines_written_in_place_of_a_cut_end_are_found_by_a_head(tmp_path: Path) -> None:
    heads = write(tmp_path)
    (tmp_path / FILE).write_bytes(b"".join(lines_of(tmp_path)[:-2]))
    audit = Audit(tmp_path)
    for _ in range(5):
        audit.record("start")
    assert not verify(tmp_path, heads[:-2]).why
    assert verify(tmp_path, heads).bad == LINES - 1


def test_lines_signed_anew_with_another_key_are_found(tmp_path: Path) -> None:
    mine, forged = tmp_path / "mine", tmp_path / "forged"
    heads, _ = write(mine), write(forged)
    shutil.copy(forged / FILE, mine)
    assert verify(mine).bad == 1
    assert "another key" in verify(mine).why
    shutil.copy(forged / PUBLIC_KEY, mine)
    assert not verify(mine).why
    assert verify(mine, heads[6:7]).bad == 7
    assert "anew" in verify(mine, heads[6:7]).why


def test_a_line_put_in_by_another_key_is_found(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    write(mine)
    other.mkdir()
    (other / FILE).write_bytes(b"".join(lines_of(mine)[:5]))
    write(tmp_path / "keys")
    for name in (KEY, PUBLIC_KEY):
        shutil.copy(tmp_path / "keys" / name, other)
    Audit(other).record("enrolled", who="mallory")
    lines = lines_of(mine)
    (mine / FILE).write_bytes(b"".join([*lines[:5], lines_of(other)[5], *lines[5:]]))
    assert verify(mine).bad == 6


def test_two_heads_of_one_line_that_differ_can_not_both_be_in_it(tmp_path: Path) -> None:
    heads = write(tmp_path)
    assert verify(tmp_path, [heads[3], Head(4, b"x" * 32)]).bad == 4


def test_no_lines_at_all_are_a_cut_end_too(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / FILE).write_bytes(b"")
    assert verify(tmp_path).bad == 1
    (tmp_path / FILE).unlink()
    with pytest.raises(ConfigError, match=FILE):
        verify(tmp_path)


def test_a_head_is_written_and_read_as_number_and_hash() -> None:
    head = Head(7, bytes(range(32)))
    assert str(head) == f"7:{bytes(range(32)).hex()}"
    assert Head.parse(f" {head}\n") == head
    for wrong in ("", "7", "7:abc", f"-{head}", f"{head}0"):
        with pytest.raises(ConfigError, match="NUMBER:HASH"):
            Head.parse(wrong)


def test_the_report_says_what_holds_and_the_head_to_keep(tmp_path: Path) -> None:
    heads = write(tmp_path)
    words, code = report(tmp_path, [str(heads[4])])
    assert code == 0
    assert re.search(rf"{LINES} lines are right; kept heads in it: 1", words)
    assert words.endswith(f"head {heads[-1]}")
    assert "a cut end can't be told" in report(tmp_path)[0]


def test_the_report_names_the_first_bad_line(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes().replace(b'"round":4,', b'"round":5,'))
    words, code = report(tmp_path)
    assert code == 1
    assert words.startswith(f"{path} line 5 is not signed by the key")


def test_heads_are_found_in_the_summary_and_the_checkpoints_of_a_run(tmp_path: Path) -> None:
    heads = write(tmp_path / "trust")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    state = json.dumps({"round": 4, "audit_head": str(heads[3])})
    header = json.dumps({"__metadata__": {"state": state}}).encode()
    checkpoint = run / "checkpoints" / "round-00000004.safetensors"
    checkpoint.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    (run / "summary.json").write_text(json.dumps({"audit_head": str(heads[9])}, indent=2), encoding="utf-8")
    assert set(kept_heads(run)) == {heads[3], heads[9]}
    assert kept_heads(checkpoint) == [heads[3]]
    assert report(tmp_path / "trust", runs=[run, checkpoint])[1] == 0
    path = tmp_path / "trust" / FILE
    path.write_bytes(b"".join(lines_of(tmp_path / "trust")[:8]))
    words, code = report(tmp_path / "trust", runs=[run])
    assert code == 1
    assert "line 9 is missing: line 10 was there once" in words


def test_a_run_without_trust_keeps_no_head_and_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"no head of an audit is kept in .*nowhere"):
        report(tmp_path, runs=[tmp_path / "nowhere"])
