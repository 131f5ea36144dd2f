"""`python -m scripts.page RUN...`: the page of runs that have ended, from their folders; several side by side."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from leader import events
from leader.config.yaml_file import SCHEMA, read_config
from leader.storage.metrics_log import read_records
from leader.storage.run_folder import RunFolder
from leader.web.page import Page
from leader.web.run_view import RunView
from leader.web.server import WebServer, listen_on
from utils.console import say
from utils.errors import ConfigError, program
from utils.settings.flags import FlagParser

_DESCRIPTION = """\
Show runs that have ended in a browser, until Ctrl-C; several are compared.

  python -m scripts.page runs/A runs/B"""


@program
def main() -> int:
    """Serve the page until SIGINT or SIGTERM; returns the exit code."""
    options = make_parser().parse_or_raise(sys.argv[1:], {})
    views = [view_of(RunFolder(path)) for path in options.runs]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # in its thread, too
    server = WebServer(listen_on(f"127.0.0.1:{options.port}"), "", lambda: [Page(views)])
    say(f"page: {server.url}; Ctrl-C ends it")
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    server.stop()
    return 0


def make_parser() -> FlagParser:
    """The flags of the command line."""
    parser = FlagParser("python -m scripts.page", "%(prog)s [--port PORT] RUN ...", _DESCRIPTION)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--port", type=int, default=8051, help="port, or the next free one [8051]")
    return parser


def view_of(folder: RunFolder) -> RunView:
    """A run as it ended, from its folder; raises ConfigError."""
    if not folder.config.is_file():
        raise ConfigError(f"{folder.path}: no run there (no config.yaml); give the folder of an earlier run")
    config = SCHEMA.build(read_config(folder.config))
    records = list(read_records(folder).values())
    text = folder.summary.read_text(encoding="utf-8") if folder.summary.is_file() else "{}"
    summary: dict[str, Any] = json.loads(text)
    last = records[-1]["round"] if records else 0
    started = events.RunStarted(
        run_id=str(summary.get("run", folder.path.name)),
        run_dir=folder.path,
        dataset=str(summary.get("dataset", config.data.source)),
        model=str(summary.get("model", config.model.task or config.model.name)),
        parameters=int(summary.get("parameters", 0)),
        exchange=config.exchange,
        rounds=config.rounds,
        address="",
        learners=config.learners,
        resumed_round=last,
    )
    cut = "" if summary else "it was cut off"
    seconds, early = float(summary.get("seconds", 0)), summary.get("stopped_early") or ""
    view = RunView(config.rounds, lambda resumed_round: records)
    view.on_event(started, 0.0, 1)
    view.on_event(events.RunFinished(last, seconds, summary.get("stopped") or cut, early), 0.0, 1)
    return view


if __name__ == "__main__":
    sys.exit(main())
