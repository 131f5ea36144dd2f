"""`python -m scripts.history`: what runs came to, who did what in them, and whom their rounds waited for."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from leader.config.sections.operation.services import MongodbConfig, filled
from leader.reporting.messages import size
from leader.services.record.file import TABLES, connect
from leader.storage.run_folder import RunFolder
from utils.console import open_console, say
from utils.errors import ConfigError, UnreachableError, program
from utils.settings.flags import FlagParser

_DESCRIPTION = """\
Ask the records of runs: folders of runs, folders of these, or a MongoDB that they were sent to.

  python -m scripts.history rounds runs/RUN
  python -m scripts.history slow runs/RUN runs/OTHER --csv
  python -m scripts.history who LEARNER 'mongodb://ann:${PW}@db.corp/runs?tls=true'

queries:
"""
_RUN = "(SELECT value FROM run WHERE key = 'run_id') AS run"
_SCORE = (
    "(SELECT metric || ' ' || round(value, 4) FROM scores AS s WHERE s.round = r.round "
    "AND metric LIKE 'test\\_%' ESCAPE '\\' ORDER BY metric LIMIT 1) AS score"
)
_FACTS = ", ".join(f"(SELECT value FROM run WHERE key = '{key}') AS {key}" for key in ("model", "dataset"))
Answer = list[dict[str, Any]]


@dataclass(frozen=True)
class Query:
    """One question, in the same words for a record and for what MongoDB has of it."""

    about: str
    sql: str
    tables: tuple[str, ...]  # that it reads, beside `run`


QUERIES: Mapping[str, Query] = {
    "runs": Query(
        "each run: model, data, rounds, training time, last loss, bytes",
        f"SELECT {_RUN}, {_FACTS}, max(round) AS rounds, datetime(max(committed_at), 'unixepoch') AS last_commit, "
        "sum(seconds) AS seconds, (SELECT loss FROM rounds ORDER BY round DESC LIMIT 1) AS loss, "
        "max(learners) AS learners, sum(bytes_up) AS bytes_up, sum(bytes_down) AS bytes_down, "
        "sum(abandoned) AS abandoned FROM rounds",
        ("rounds",),
    ),
    "rounds": Query(
        "each round: when, how long, loss, score, bytes",
        f"SELECT {_RUN}, round, datetime(committed_at, 'unixepoch') AS committed, seconds, loss, {_SCORE}, lr, "
        "learners, examples, bytes_up, bytes_down, abandoned, epsilon FROM rounds AS r ORDER BY round",
        ("rounds", "scores"),
    ),
    "who": Query(
        "LEARNER: what it did in each round",
        f"SELECT {_RUN}, p.round, outcome, updates, p.examples, bytes, wait_s, wait_s / seconds AS share, "
        "train_images_per_s, p.loss FROM participation AS p LEFT JOIN rounds AS r ON r.round = p.round "
        "WHERE learner = :learner AND p.seq NOT NULL ORDER BY p.round",
        ("participation", "rounds"),
    ),
    "slow": Query(
        "each learner: how often a round waited for it last, and how long",
        "WITH last AS MATERIALIZED (SELECT p.round, max(wait_s) AS most, r.seconds FROM participation AS p "
        "JOIN rounds AS r ON r.round = p.round WHERE outcome = 'counted' AND p.seq NOT NULL GROUP BY p.round) "
        f"SELECT {_RUN}, learner, sum(outcome = 'counted') AS rounds, "
        "sum(outcome = 'counted' AND wait_s = most) AS last_in, avg(iif(outcome = 'counted', wait_s, NULL)) "
        "AS mean_wait_s, avg(iif(outcome = 'counted', wait_s / seconds, NULL)) AS mean_share, "
        "sum(outcome <> 'counted') AS missed FROM participation AS p LEFT JOIN last AS l ON l.round = p.round "
        "WHERE p.seq NOT NULL GROUP BY +learner ORDER BY last_in DESC, mean_wait_s DESC, learner",
        ("participation", "rounds"),
    ),
    "bytes": Query(
        "each learner: bytes that it sent, in all and a round",
        f"SELECT {_RUN}, learner, sum(bytes) AS bytes, count(*) AS rounds, avg(bytes) AS bytes_a_round, "
        "1.0 * sum(bytes) / sum(sum(bytes)) OVER () AS share "
        "FROM participation WHERE seq NOT NULL AND outcome = 'counted' GROUP BY +learner ORDER BY bytes DESC, learner",
        ("participation",),
    ),
}


def ask(query: Query, place: str, learner: str = "") -> Answer:
    """What the runs at `place`, a folder or mongodb://, say; raises ConfigError and UnreachableError."""
    records = _in_mongodb(place, query, learner) if "://" in place else _in_folders(Path(place))
    answer: Answer = []
    for record in records:
        with closing(record):
            record.row_factory = sqlite3.Row
            try:
                answer += [dict(row) for row in record.execute(query.sql, {"learner": learner})]
            except sqlite3.Error as error:
                raise ConfigError(f"{place}: its record can't be read ({error})") from error
    return answer


def _in_folders(path: Path) -> Iterator[sqlite3.Connection]:
    """The record of a run's folder, or those of all runs in a folder of them."""
    files = [
        file for folder in (path, *sorted(path.glob("*"))) if (file := RunFolder(folder).record).is_file()
    ]
    if not files:
        raise ConfigError(f"{path}: no run with a record there (metadata.sqlite); give a folder of runs/")
    for file in files:
        try:
            yield connect(file)
        except sqlite3.Error as error:
            raise ConfigError(f"{file}: can't be opened ({error})") from error


def _in_mongodb(url: str, query: Query, learner: str) -> Iterator[sqlite3.Connection]:
    """The tables that a query reads of each run there, as a record in memory."""
    from leader.services.mongodb import open_database, rows_of, runs_in

    try:
        allowed = MongodbConfig(url=url).url
    except ValidationError as error:
        raise ConfigError(
            f"the URL of the MongoDB: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from None
    client, database = open_database(filled("mongodb.url", allowed, os.environ))
    from pymongo.errors import PyMongoError

    with closing(client):
        try:
            for run_id in runs_in(database):
                yield _copied(
                    {name: rows_of(database, run_id, name, learner) for name in ("run", *query.tables)}
                )
        except PyMongoError as error:
            raise UnreachableError(
                f"the MongoDB did not answer ({type(error).__name__}): {error}"[:300]
            ) from error


def _copied(rows: Mapping[str, Sequence[tuple[Any, ...]]]) -> sqlite3.Connection:
    record = sqlite3.connect(":memory:")
    for table, columns in TABLES.items():
        record.execute(f"CREATE TABLE {table} ({', '.join(columns)}, seq)")
    for table, found in rows.items():
        marks = ", ".join("?" * len(TABLES[table]))
        record.executemany(f"INSERT INTO {table} VALUES ({marks}, 0)", found)
    return record


def _show(answer: Answer, options: Namespace) -> None:
    """Print rows as a table, or as JSON or CSV with the bare values."""
    if options.json:
        say(*json.dumps(answer, indent=1).splitlines())
    elif options.csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, answer[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(answer)
        say(*text.getvalue().splitlines())
    else:
        _show_table(answer)


def _show_table(answer: Answer) -> None:
    from rich import box
    from rich.table import Table

    one_run = len({row["run"] for row in answer}) == 1
    told = [name for name in answer[0] if any(row[name] not in (None, 0) for row in answer)]
    shown = [name for name in told if name != "run" or not one_run or len(answer) == 1]
    table = Table(
        box=box.SIMPLE_HEAD, padding=0, title=f"run {answer[0]['run']}" if "run" not in shown else None
    )
    for name in shown:
        numeric = all(isinstance(row[name], int | float | None) for row in answer)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left")
    for row in answer:
        table.add_row(*(_cell(name, row[name]) for name in shown))
    console = open_console()
    console.width = max(
        console.width, console.measure(table, options=console.options.update(width=1000)).maximum
    )
    console.print(table)


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float) and name.startswith("bytes"):
        return size(value)
    if isinstance(value, float):
        return f"{value:.1%}" if name.endswith("share") else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and name != "round" else str(value)


def make_parser() -> FlagParser:
    """The flags and words."""
    words = "\n".join(f"  {name:<7} {query.about}" for name, query in QUERIES.items())
    usage = "%(prog)s QUERY [LEARNER] RUN... | mongodb://HOST/DATABASE [--json | --csv]"
    parser = FlagParser("python -m scripts.history", usage, _DESCRIPTION + words)
    parser.add_argument("query", choices=tuple(QUERIES), help="what to ask")
    parser.add_argument(
        "words", nargs="+", metavar="RUN", help="folders or mongodb://; after `who` the learner first"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON list")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    return parser


@program
def main() -> int:
    """Answer; returns the exit code."""
    options = make_parser().parse_or_raise(sys.argv[1:], {})
    needs_name = options.query == "who"
    learner, places = (options.words[:1], options.words[1:]) if needs_name else ([""], options.words)
    if not places:
        raise ConfigError(
            f"{options.query}: give {'the learner, then ' if needs_name else ''}the folder of a run"
        )
    answer = [row for place in places for row in ask(QUERIES[options.query], place, learner[0])]
    if not answer:
        about = f" of learner {learner[0]}" if needs_name else ""
        raise ConfigError(f"nothing is recorded{about} there yet; `runs` lists what there is")
    _show(answer, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
