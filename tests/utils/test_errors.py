from __future__ import annotations

import importlib
import pkgutil

import grpc
import pytest

import leader
import learner
import model
import utils
from utils import errors
from utils.errors import ConfigError, FlockstepError, UnreachableError, WireError, program
from utils.wire.status import REFUSED, STATUS, error_of


def subclasses(kind: type[FlockstepError]) -> set[type[FlockstepError]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


@pytest.fixture(scope="module", autouse=True)
def _all_modules() -> None:
    """Import everything, so that every error class is known."""
    for package in (utils, model, leader, learner):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def test_every_wire_error_has_a_status() -> None:
    assert set(STATUS) == subclasses(WireError) - {WireError}


def test_no_wire_error_looks_like_success_or_like_a_bug_in_the_server() -> None:
    vague = {
        grpc.StatusCode.OK,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
    assert vague.isdisjoint(STATUS.values())


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_the_peer_gets_the_error_that_was_raised(kind: type[WireError]) -> None:
    received = error_of(STATUS[kind], f"{REFUSED}gone", kind.__name__)
    assert type(received) is kind
    assert str(received) == "gone"


@pytest.mark.parametrize("code", grpc.StatusCode, ids=lambda code: code.name)
@pytest.mark.parametrize(
    ("details", "message"),
    [
        ("failed to connect to all addresses; last error: UNKNOWN: refused", "UNKNOWN: refused"),
        ("Socket closed", "Socket closed"),
    ],
)
def test_what_the_transport_says_is_never_taken_for_the_leaders_word(
    code: grpc.StatusCode, details: str, message: str
) -> None:
    received = error_of(code, details)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        # gRPC itself never ends a call so; something in between does, and going on would not help.
        assert type(received) is errors.ForbiddenError
        assert str(received) == f"refused on the way to the leader: {details}"
        return
    assert type(received) is UnreachableError
    assert str(received) == message


def test_a_transport_without_words_is_told_by_its_status() -> None:
    assert str(error_of(grpc.StatusCode.UNAVAILABLE, "")) == "UNAVAILABLE"


def test_exit_codes_of_the_errors_that_end_a_program_differ() -> None:
    ending = (
        errors.FlockstepError,
        errors.ConfigError,
        errors.DataError,
        errors.CheckpointError,
        errors.UnreachableError,
        errors.TooFewLearnersError,
    )
    assert [kind.exit_code for kind in ending] == [1, 2, 3, 4, 5, 6]


def test_a_program_tells_an_error_in_one_line_and_ends_with_its_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @program
    def main(error: BaseException | None) -> int:
        if error is not None:
            raise error
        return 7

    assert [main(error) for error in (None, ConfigError("no such key"), KeyboardInterrupt())] == [7, 2, 130]
    assert capsys.readouterr().err == "error: no such key\n"
    assert main(ZeroDivisionError("a\x1b[2J")) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "Traceback (most recent call last):"
    assert told[-1] == r"ZeroDivisionError: a\x1b[2J"


def test_each_argument_of_an_error_is_one_line_that_no_terminal_acts_on() -> None:
    assert str(ConfigError("a\nb: \u202ec", "then")) == "a\\nb: \\u202ec\nthen"
    assert str(errors.BusyError("wait\r", 2.0)) == r"wait\r"
