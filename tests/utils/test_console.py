from __future__ import annotations

import io
import json
import logging

import pytest

from utils.console import Format, Level, printable, setup_logging

pytestmark = pytest.mark.usefixtures("root_logger")


def logged(log_format: Format, level: Level = "info") -> str:
    stream = io.StringIO()
    setup_logging(log_format, level, stream)
    log = logging.getLogger("learner.session")
    log.debug("heartbeat")
    log.info("joined as %s", "alpha\x1b[31m")
    try:
        raise OSError("connection reset")
    except OSError:
        log.exception("session lost")
    return stream.getvalue()


def test_plain_lines_have_time_level_of_trouble_and_traceback() -> None:
    lines = logged("plain").splitlines()
    assert lines[0][8:] == r" joined as alpha\x1b[31m"
    assert lines[1][8:] == " error: session lost"
    assert lines[-1] == "OSError: connection reset"


def test_json_has_one_object_a_line_even_with_a_traceback() -> None:
    first, second = (json.loads(line) for line in logged("json").splitlines())
    assert (first["event"], first["logger"], first["level"]) == ("log", "learner.session", "info")
    assert first["message"] == "joined as alpha\x1b[31m"
    assert second["exception"].endswith("OSError: connection reset")


def test_json_fields_that_are_not_finite_are_null() -> None:
    stream = io.StringIO()
    setup_logging("json", "info", stream)
    logging.getLogger("x").info("text", extra={"event": "E", "fields": {"loss": float("nan"), "lr": 0.5}})
    entry = json.loads(stream.getvalue())
    assert (entry["event"], entry["loss"], entry["lr"]) == ("E", None, 0.5)


def test_rich_shows_text_as_it_is() -> None:
    stream = io.StringIO()
    console = setup_logging("rich", "info", stream)
    logging.getLogger("x").info("[bold]not markup[/bold]")
    assert console is not None
    assert console.file is stream
    assert "INFO     [bold]not markup[/bold]" in stream.getvalue()


def test_the_level_decides_and_a_second_setup_replaces_the_first() -> None:
    assert "heartbeat" in logged("plain", "debug")
    assert "joined" not in logged("plain", "warning")
    assert logged("plain").count("session lost") == 1


def test_chatty_libraries_stay_silent_at_debug() -> None:
    stream = io.StringIO()
    setup_logging("plain", "debug", stream)
    logging.getLogger("matplotlib.font_manager").debug("findfont")
    assert stream.getvalue() == ""


def test_printable_keeps_letters_of_every_script() -> None:
    assert printable("Zürich 東京 a\tb\r\u202e") == r"Zürich 東京 a\tb\r\u202e"
