"""The pending sum: masked updates whose survivors are decided, on disk before anybody is asked to unmask them.

A crash never asks for another set of survivors of the same updates: the difference of two sums is an update.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from leader.secagg.actions import Closed
from protos import leader_pb2
from utils.errors import CheckpointError, FlockstepError
from utils.files import write_atomically
from utils.secagg.ring import WORDS, Words
from utils.secagg.roster import check_plan
from utils.secagg.update import VALUES, WIDE
from utils.wire.payload import PayloadReader, encode_header

_FORMAT = "flockstep-pending-1"


class Place(BaseModel):
    """Where the sum of a group of an asynchronous run counts."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    buffer: Annotated[int, Field(ge=1, lt=1 << 63)]  # the round whose buffer it is in
    turns: dict[str, Annotated[int, Field(ge=0, lt=1 << 63)]]  # of the orders of its parts
    unmasked: bool = False


@dataclass(frozen=True)
class PendingSum:
    """One round's masked sum, and the session that can unmask it; or a group's, which may be unmasked already."""

    round: int  # whose model its updates start from
    parts: tuple[str, ...]
    closed: Closed
    values: Words
    wide: NDArray[np.uint64]
    place: Place | None = None


class PendingFile:
    """Where the sum of the round under way is kept; in memory where there is no path."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._attempts: tuple[int, int] = (0, 0)  # round, and how often its unmasking has come to nothing

    def write(self, pending: PendingSum) -> None:
        """Replace what is there, on disk when this returns; raises CheckpointError."""
        closed = pending.closed
        said = {
            "round": pending.round,
            "parts": list(pending.parts),
            "session": closed.session.hex(),
            "order": _text(closed.order),
            "plan": _text(closed.plan.SerializeToString()),
            "roster": _text(leader_pb2.Roster(seats=closed.seats).SerializeToString()),
            "survivors": _text(closed.survivors.SerializeToString()),
            **({"place": pending.place.model_dump()} if pending.place else {}),
        }
        self._write(said, pending.values, pending.wide)

    def failed(self, round_: int) -> None:
        """The sum of this round was not unmasked, and never will be: the round's next attempt has other work."""
        self._attempts = (round_, self.attempt(round_) + 1)
        self._write(
            {"round": round_, "attempt": self._attempts[1]}, np.empty(0, np.uint64), np.empty(0, np.uint64)
        )

    def attempt(self, round_: int) -> int:
        """How often the unmasking of this round has come to nothing."""
        return self._attempts[1] if self._attempts[0] == round_ else 0

    def _write(self, said: dict[str, object], values: Words, wide: NDArray[np.uint64]) -> None:
        if self._path is None:
            return
        tensors = [(VALUES, f"I{8 * values.itemsize}", values.shape), (WIDE, "I64", wide.shape)]
        header = encode_header(tensors, {"format": _FORMAT, "state": json.dumps(said)})
        write_atomically(self._path, [header, values.data.cast("B"), wide.data.cast("B")], mode=0o600)

    def remove(self) -> None:
        """Nobody needs the sum any more."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def read(self, round_: int) -> PendingSum | None:
        """The sum of this round that waits to be unmasked; raises CheckpointError for a damaged file."""
        if self._path is None or not self._path.exists():
            return None
        try:
            return self._read(self._path.read_bytes(), round_)
        except (
            FlockstepError,
            OSError,
            ValueError,
            LookupError,
            TypeError,
            ArithmeticError,
            RecursionError,
            DecodeError,
        ) as error:
            raise CheckpointError(
                f"{self._path} is damaged: {error}; learners that have revealed their masks will not do so for "
                "another sum: start a new run"
            ) from None

    def _read(self, content: bytes, round_: int) -> PendingSum | None:
        reader = PayloadReader(max_bytes=len(content), header_bytes=len(content))
        reader.feed(content)
        payload = reader.finish()
        said = json.loads(payload.manifest.metadata["state"])
        if said["round"] != round_:
            return None
        if "attempt" in said:
            self._attempts = (round_, leader_pb2.MaskPlan(attempt=said["attempt"]).attempt)
            return None
        plan = leader_pb2.MaskPlan.FromString(_bytes(said["plan"]))
        check_plan(plan)
        self._attempts = (round_, plan.attempt)
        closed = Closed(
            bytes.fromhex(said["session"]),
            _bytes(said["order"]),
            plan,
            tuple(leader_pb2.Roster.FromString(_bytes(said["roster"])).seats),
            leader_pb2.Survivors.FromString(_bytes(said["survivors"])),
        )
        arrays = payload.arrays()
        values = arrays[VALUES].view(WORDS[plan.bits]).copy()
        place = Place.model_validate(said["place"]) if "place" in said else None
        if place is not None and place.turns.keys() != set(said["parts"]):
            raise ValueError(f"turns of {sorted(place.turns)} for the updates of {said['parts']}")
        wide = arrays[WIDE].view(np.uint64).copy()
        return PendingSum(round_, tuple(said["parts"]), closed, values, wide, place)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
