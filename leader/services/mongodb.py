"""The record of runs in MongoDB: a collection a table, a document a row, found by index alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from leader.services.record.file import RESUMED, TABLES, Row
from utils.errors import ConfigError

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.database import Database

_TIMEOUT_MS = 2000
#: Where the URL says nothing of them.
_OPTIONS: Mapping[str, Any] = {
    "serverSelectionTimeoutMS": _TIMEOUT_MS,
    "connectTimeoutMS": _TIMEOUT_MS,
    "timeoutMS": 4 * _TIMEOUT_MS,
    "appname": "flockstep",
}
_DAY_S = 86_400
_EXPIRES = "expires_at"
#: Of each collection what it is searched by, beside _id.
INDEXES: Mapping[str, Sequence[Sequence[tuple[str, int]]]] = {
    "run": ([("run", 1), ("key", 1)], [("key", 1)]),
    "rounds": ([("run", 1), ("round", 1)],),
    "participation": (
        [("run", 1), ("round", 1), ("learner", 1)],
        [("learner", 1), ("run", 1), ("round", -1)],
    ),
    "learners": ([("run", 1), ("name", 1)],),
    "scores": ([("run", 1), ("round", 1)],),
    "refusals": ([("run", 1), ("round", 1)],),
    "sessions": ([("run", 1), ("learner", 1)],),
}
_OF_ROUNDS = ("rounds", "participation", "scores", "refusals")
_EXPIRING = ("rounds", "participation")
Document = dict[str, Any]


def open_database(url: str) -> tuple[MongoClient[Document], Database[Document]]:
    """A client for `url`, which is not called yet, and the database that it names (default flockstep).

    Raises ConfigError where there is no client, or the URL is none.
    """
    try:
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError
    except ImportError as error:
        raise ConfigError(f"MongoDB needs a package: pip install 'flockstep[mongodb]' ({error})") from error
    try:
        client: MongoClient[Document] = MongoClient(url, connect=False, **_unsaid(url))
        return client, client.get_default_database("flockstep")
    except (PyMongoError, OSError, ValueError) as error:  # its text may quote the URL
        raise ConfigError(
            f"services.mongodb.url can't be used ({type(error).__name__}): check it as MongoDB's manual has it"
        ) from None


def _unsaid(url: str) -> dict[str, Any]:
    """Our options that are not in `url`: beside it they would count in place of those."""
    said = {option.partition("=")[0].lower() for option in re.split("[&;]", url.partition("?")[2])}
    return {name: value for name, value in _OPTIONS.items() if name.lower() not in said}


class MongodbFollower:
    """Follower: the rows of run `run_id`; what it holds of a round goes after `retention_days`, if that is not 0."""

    name = "mongodb"

    def __init__(self, url: str, run_id: str, retention_days: int = 0) -> None:
        self._client, self._database = open_database(url)
        self._run_id = run_id
        self._retention_s = retention_days * _DAY_S
        self._is_indexed = False

    def send(self, rows: Sequence[Row]) -> None:
        """See Follower; raises PyMongoError."""
        from pymongo import ReplaceOne

        if not self._is_indexed:
            self._make_indexes()
        upserts: dict[str, list[ReplaceOne[Document]]] = defaultdict(list)
        for row in rows:
            if row.table == "run" and str(row.values["key"]).startswith(RESUMED):
                self._write(upserts)
                self._forget_after(int(row.values["value"] or 0))
            document = self._document(row)
            upserts[row.table].append(ReplaceOne({"_id": document["_id"]}, document, upsert=True))
        self._write(upserts)

    def close(self) -> None:
        """See Follower."""
        self._client.close()

    def _write(self, upserts: dict[str, list[Any]]) -> None:
        for table, changes in upserts.items():
            self._database[table].bulk_write(changes, ordered=True)
        upserts.clear()

    def _document(self, row: Row) -> Document:
        document: Document = {"_id": f"{self._run_id}:{row.key}", "run": self._run_id, **row.values}
        at = row.values.get("committed_at")
        if self._retention_s and row.table in _EXPIRING and isinstance(at, float):
            document[_EXPIRES] = datetime.fromtimestamp(at + self._retention_s, UTC)
        return document

    def _forget_after(self, round_: int) -> None:
        """The run goes on from this round: what it did after that has not happened."""
        for table in _OF_ROUNDS:
            self._database[table].delete_many({"run": self._run_id, "round": {"$gt": round_}})

    def _make_indexes(self) -> None:
        for table, indexes in INDEXES.items():
            for number, keys in enumerate(indexes):
                unique = table == "participation" and number == 0
                self._database[table].create_index(list(keys), unique=unique)
        if self._retention_s:
            for table in _EXPIRING:
                self._database[table].create_index(_EXPIRES, expireAfterSeconds=0)
        self._is_indexed = True


def runs_in(database: Database[Document]) -> list[str]:
    """The runs that are in it, by id, oldest first; raises PyMongoError."""
    found = database["run"].find({"key": "run_id"}, {"value": 1})
    return [str(document["value"]) for document in found]


def rows_of(
    database: Database[Document], run_id: str, table: str, learner: str = ""
) -> list[tuple[Any, ...]]:
    """The rows of one run's table, in the order of its columns; raises PyMongoError."""
    asked = question(run_id, table, learner)
    columns = TABLES[table]
    return [
        tuple(document.get(name) for name in columns)
        for document in database[table].find(asked, dict.fromkeys(columns, 1))
    ]


def question(run_id: str, table: str, learner: str = "") -> Document:
    """What is asked of a collection for a run's rows, or those of one learner."""
    if learner and table == "participation":
        return {"learner": learner, "run": run_id}
    return {"run": run_id}
