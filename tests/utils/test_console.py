from __future__ import annotations

import io
import json
import logging

import pytest
from rich.panel import Panel
from rich.table import Table

from utils.console import Format, Level, open_console, printable, say, setup_logging

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
    assert lines[-1] == "  OSError: connection reset"


def test_json_has_one_object_a_line_even_with_a_traceback() -> None:
    first, second = (json.loads(line) for line in logged("json").splitlines())
    assert (first["event"], first["logger"], first["level"]) == ("log", "learner.session", "info")
    assert first["message"] == r"joined as alpha\x1b[31m"
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


@pytest.mark.parametrize(
    "text",
    [
        "Ren\u00e9 d'Arc",
        "\u4e2d\u6587\u4efb\u52a1",
        "/data/my runs/a b",
        r"C:\runs\new",
        "\U0001f436 dog",
        "e\u0301\u0323",
        "100% {x} [red]",
    ],
)
def test_honest_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
        ("\u2066x\u2069\x9b2J", r"\u2066x\u2069\x9b2J"),
        ("\ud800 \ue000 \U000e0041 \u0378", r"\ud800 \ue000 \U000e0041 \u0378"),
        ("a" + 5 * "\u0301", "a" + 4 * "\u0301" + r"\u0301"),
    ],
)
def test_what_can_not_be_seen_or_turns_text_round_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_the_middle_of_a_long_text_is_left_out() -> None:
    assert printable(2000 * "x") == 2000 * "x"
    assert printable("begin" + 9000 * "x" + "end") == "begin" + 1495 * "x" + " ... " + 497 * "x" + "end"


def test_each_text_that_is_said_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("stopped: a\nresults are in /tmp", "resume")
    assert capsys.readouterr().out == "stopped: a\\nresults are in /tmp\nresume\n"


def test_a_console_shows_no_escapes_and_no_markup_but_its_own() -> None:
    stream = io.StringIO()
    console = open_console(stream)
    table = Table()
    table.add_column("[b]\x9b31m")
    table.add_row("[red]\x1b[2J\u202e", ":dog:")
    console.print(Panel(table, title="a\x1b[K"))
    text = stream.getvalue()
    assert all(word in text for word in (r"[b]\x9b3", r"[red]\x1", ":dog:", r"a\x1b[K"))
    assert all(letter.isprintable() for letter in text.replace("\n", ""))


def test_a_traceback_is_indented_so_that_none_of_its_lines_passes_for_a_message() -> None:
    stream = io.StringIO()
    setup_logging("plain", "info", stream)
    try:
        raise OSError("x\n12:00:00 run finished\x1b[2J")
    except OSError:
        logging.getLogger("x").exception("lost")
    assert stream.getvalue().splitlines()[-1] == r"  12:00:00 run finished\x1b[2J"
