from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tools.stubs import main, stale_stubs, stubs_of

ROOT = Path(__file__).parents[2]
PROTOS = ("edge", "leader", "learner", "log", "trust")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of protos/ that a test may change."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def add_field(checkout: Path) -> None:
    proto = checkout / "protos" / "learner.proto"
    text = proto.read_text()
    proto.write_text(text.replace("message Empty {}", "message Empty { bytes added = 7; }"))
    assert proto.read_text() != text


def test_committed_stubs_are_fresh() -> None:
    assert stale_stubs(ROOT) == []


def test_every_contract_has_three_stubs_each() -> None:
    kinds = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
    assert set(stubs_of(ROOT)) == {name + kind for name in PROTOS for kind in kinds}


def test_changed_contract_makes_its_message_stubs_stale(checkout: Path) -> None:
    add_field(checkout)
    assert stale_stubs(checkout) == ["learner_pb2.py", "learner_pb2.pyi"]


def test_check_fails_on_stale_stubs_and_says_what_to_do(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_field(checkout)
    before = stubs_of(checkout)
    assert main(["--check", "--root", str(checkout)]) == 1
    assert "stubs are stale: run make proto (learner_pb2.py, learner_pb2.pyi)" in capsys.readouterr().err
    assert stubs_of(checkout) == before


def test_generating_makes_stale_stubs_fresh(checkout: Path) -> None:
    add_field(checkout)
    assert main(["--root", str(checkout)]) == 0
    assert "added" in (checkout / "protos" / "learner_pb2.pyi").read_text()
    assert main(["--check", "--root", str(checkout)]) == 0


def test_stub_without_a_contract_is_stale_and_then_removed(checkout: Path) -> None:
    orphan = checkout / "protos" / "gone_pb2.py"
    orphan.write_text("")
    assert stale_stubs(checkout) == ["gone_pb2.py"]
    assert main(["--root", str(checkout)]) == 0
    assert not orphan.exists()


def test_contract_that_does_not_compile_fails_and_keeps_the_stubs(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stubs_of(checkout)
    (checkout / "protos" / "learner.proto").write_text("this is not proto")
    assert main(["--root", str(checkout)]) == 1
    assert (
        f"error: protoc failed on {', '.join(f'protos/{name}.proto' for name in PROTOS)}"
        in capsys.readouterr().err
    )
    assert stubs_of(checkout) == before
