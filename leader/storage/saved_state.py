"""A run's state as a checkpoint has it: JSON beside tensors, read back against the one schema of both.

Whoever can write a checkpoint can make its digest fit, so what is read is believed in nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from leader.events import Mean, RoundCommitted, Spread
from leader.rounds.buffer import OpenWork
from leader.state import (
    FEW_PARTS,
    Claim,
    History,
    LayeredHistory,
    PartHistory,
    PrivacyState,
    RunState,
    Seats,
    Shards,
)

Arrays = Mapping[str, NDArray[np.generic]]
_Model = TypeVar("_Model", bound=BaseModel)

#: Fields of RunState that are written as they are.
_PLAIN = (
    "run_id",
    "round",
    "exchanges",
    "version",
    "bytes_up",
    "bytes_down",
    "seconds",
    "federated",
    "secret",
)
_PREFIX = "optimizer."  # of its tensors
_MODELS = ("public", "average")  # tensors of the model's size that some runs have
_SHARDS = ("shards", "shard_sizes")  # tensors of the deal
_MAX_LOSS = 2.0**128  # a larger one is never kept
_KEY_BYTES = 32  # of noise


def _spread(scores: dict[str, int | float]) -> dict[str, int | float]:
    if scores.keys() not in (Spread.__annotations__.keys(), Mean.__annotations__.keys()):
        raise ValueError(f"has {sorted(scores)}, not {sorted(Spread.__annotations__)}")
    return scores


def _committed(told: RoundCommitted) -> RoundCommitted:
    others = [value for name, value in asdict(told).items() if name != "loss" and value is not None]
    if not all(0 <= value < 1 << 63 for value in others):
        raise ValueError("has a value below 0, beyond 63 bits or not finite")
    return told


def _loss(loss: float) -> float:
    if abs(loss) >= _MAX_LOSS:  # NaN: none was told
        raise ValueError("is no loss")
    return loss


def _privacy(private: PrivacyState) -> PrivacyState:
    amounts = private.epsilon, private.budget
    if len(private.noise_key) not in (0, _KEY_BYTES) or private.entries < 0:
        raise ValueError("has a key or a number of entries that can't be")
    if not 0 < private.clip < math.inf or not all(0 <= amount < math.inf for amount in amounts):
        raise ValueError("has a clip, epsilon or budget that can't be")
    return private


Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds = Annotated[FiniteFloat, Field(ge=0)]
Scores = dict[str, Annotated[dict[str, Count | FiniteFloat], AfterValidator(_spread)]]
_Round = Annotated[int, Field(ge=1, lt=1 << 63)]


class _SaidBeside(BaseModel):
    """The JSON of what lies beside."""

    model_config = ConfigDict(extra="forbid", strict=True)

    holders: dict[str, str]
    history: dict[str, tuple[_Round, _Round, Annotated[float, AfterValidator(_loss)], Seconds]] = {}


class _Said(_SaidBeside):
    """The JSON; what has a default is missing where a release, or a run, had no use for it."""

    model_config = ConfigDict(extra="forbid", strict=True, val_json_bytes="hex")

    run_id: str
    round: Count
    exchanges: Count
    version: Count
    bytes_up: Count
    bytes_down: Count
    seconds: Seconds
    federated: Scores
    secret: str = ""
    audit_head: Annotated[str, Field(pattern=r"\A([0-9]+:[0-9a-f]{64})?\z")] = ""
    privacy: Annotated[PrivacyState, AfterValidator(_privacy)] | None = None
    masks_range: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    frozen: Annotated[str, Field(pattern=r"\A([0-9a-f]{64})?\z")] = ""
    averaged: Count = 0
    own: Count
    committed: Annotated[RoundCommitted, AfterValidator(_committed)] | None
    shards: Count | None
    beside: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")] = ""
    open_work: dict[str, tuple[Count, Count, Count] | tuple[Count, Count, Count, Count]] = {}
    turns: dict[str, Count] = {}
    claims: dict[str, tuple[str, str]] = {}


class Beside(NamedTuple):
    """What a state says of many parts and few rounds change: written once for all the checkpoints that say it."""

    history: History
    holders: Mapping[str, str]
    shards: Shards

    @classmethod
    def of(cls, state: RunState) -> Beside:
        """Of small runs nothing."""
        many = state.seats is not None and len(state.seats.shards) > FEW_PARTS
        seats = state.seats if state.seats and many else Seats((), {}, 0)
        return cls(LayeredHistory.of(state.history).settled, seats.holders, seats.shards)

    def fields(self) -> str:
        """All of it that is no tensor, as JSON."""
        return json.dumps({"holders": dict(self.holders), "history": _rows(self.history)})

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The tensors, by name."""
        return _deal(self.shards)


def fields_of(state: RunState, beside: str = "") -> str:
    """All of a state that is no tensor, as JSON; `beside` is the SHA-256 of what lies beside."""
    claims = state.seats.claims if state.seats else {}
    apart = Beside.of(state)
    fields = {
        **{name: getattr(state, name) for name in _PLAIN},
        **({"audit_head": state.audit_head} if state.audit_head else {}),
        **({"privacy": _private_fields(state.privacy)} if state.privacy else {}),
        **({"masks_range": state.masks_range} if state.masks_range else {}),
        **({"frozen": state.frozen} if state.frozen else {}),
        **({"averaged": state.averaged} if state.averaged else {}),
        **({"beside": beside} if beside else {}),
        "holders": dict(state.seats.holders) if state.seats and not apart.shards else {},
        "own": state.seats.own if state.seats else 0,
        "committed": asdict(state.committed) if state.committed else None,
        "shards": len(state.seats.shards) if state.seats else None,
        "history": _rows(LayeredHistory.of(state.history).recent),
        "open_work": {
            part: list(astuple(work))[: 4 if work.group else 3]
            for part, work in sorted(state.open_work.items())
        },
        "turns": dict(sorted(state.turns.items())),
        "claims": {name: astuple(claim) for name, claim in sorted(claims.items())},
    }
    return json.dumps(fields)


def _rows(history: History) -> dict[str, list[float]]:
    return {
        part: [past.times, past.last_round, past.loss, past.seconds] for part, past in sorted(history.items())
    }


def _private_fields(privacy: PrivacyState) -> dict[str, object]:
    return {**asdict(privacy), "noise_key": privacy.noise_key.hex()}


def arrays_of(state: RunState) -> dict[str, NDArray[np.generic]]:
    """The tensors of a state, by name, without those that lie beside."""
    arrays: dict[str, NDArray[np.generic]] = {"vector": state.vector}
    arrays |= {name: kept for name in _MODELS if (kept := getattr(state, name)) is not None}
    arrays |= {f"{_PREFIX}{name}": vector for name, vector in state.optimizer.items()}
    if state.seats and not Beside.of(state).shards:
        arrays |= _deal(state.seats.shards)
    return arrays


def _deal(shards: Shards) -> dict[str, NDArray[np.generic]]:
    if not shards:
        return {}
    kept = np.concatenate(shards), np.array([len(shard) for shard in shards])
    return {name: values.astype(np.int32) for name, values in zip(_SHARDS, kept, strict=True)}


def state_of(
    fields: str, arrays: Arrays, read_beside: Callable[[str], tuple[str, Arrays]] = lambda digest: ("", {})
) -> RunState:
    """The state that these are of, with what `read_beside` finds under a SHA-256.

    Raises ValueError, in words, for what no run has written.
    """
    said = _read(fields, _Said)
    if said.beside:
        said, arrays = _together(said, arrays, *read_beside(said.beside))
    _check_tensors(said, arrays)
    _check_agreement(said, arrays)
    claims = {name: Claim(*values) for name, values in said.claims.items()}
    seats = Seats(_shards(arrays) if said.shards else (), said.holders, said.own, claims)
    vectors = {
        name: array.astype(np.float32, copy=False) for name, array in arrays.items() if name not in _SHARDS
    }
    plain: dict[str, Any] = {
        name: getattr(said, name)
        for name in (*_PLAIN, "audit_head", "turns", "masks_range", "frozen", "averaged")
    }
    return RunState(
        vector=vectors["vector"],
        public=vectors.get("public"),
        average=vectors.get("average"),
        optimizer={
            name.removeprefix(_PREFIX): vector for name, vector in vectors.items() if name.startswith(_PREFIX)
        },
        seats=None if said.shards is None else seats,
        committed=said.committed,
        privacy=said.privacy,
        history=LayeredHistory.of({part: PartHistory(*values) for part, values in said.history.items()}),
        open_work={part: OpenWork(*values) for part, values in said.open_work.items()},
        **plain,
    )


def _together(said: _Said, arrays: Arrays, fields: str, tensors: Arrays) -> tuple[_Said, Arrays]:
    more = _read(fields, _SaidBeside)
    if tensors.keys() - set(_SHARDS):
        raise ValueError(f"beside it are the tensors {sorted(tensors)}, not {sorted(_SHARDS)}")
    whole = {"history": {**more.history, **said.history}, "holders": {**more.holders, **said.holders}}
    return said.model_copy(update=whole), {**arrays, **tensors}


def _read(fields: str, kind: type[_Model]) -> _Model:
    try:
        said = kind.model_validate_json(fields)
    except ValidationError as error:
        raise ValueError(in_words(error)) from None
    json.loads(fields, object_pairs_hook=_once)
    return said


def in_words(error: ValidationError) -> str:
    """What is wrong first, and where."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'its state'}: {first['msg']}"


def _once(pairs: Sequence[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("its state names a key twice")


def _check_tensors(said: _Said, arrays: Arrays) -> None:
    optional = {name for name in arrays if name in _MODELS or name.startswith(_PREFIX)}
    wanted = {"vector", *optional, *(_SHARDS if said.shards else ())}
    if arrays.keys() != wanted:
        raise ValueError(f"it has the tensors {sorted(arrays)}, its state needs {sorted(wanted)}")
    for name, array in arrays.items():
        dtype = np.dtype(np.int32 if name in _SHARDS else np.float32)
        if array.dtype != dtype or array.ndim != 1:
            raise ValueError(f"tensor {name} is {array.dtype}{list(array.shape)}, not one row of {dtype}")
    for name in _MODELS:
        if name in arrays and arrays[name].size != arrays["vector"].size:
            raise ValueError(f"tensors {name} and vector differ in size")
    if (said.averaged > 0) != ("average" in arrays) or said.averaged > said.round:
        raise ValueError(f"it tells of a mean of {said.averaged} models after round {said.round}")


def _check_agreement(said: _Said, arrays: Arrays) -> None:
    if said.shards:
        dealt, sizes = (arrays[name].astype(np.int64) for name in _SHARDS)
        if (
            len(sizes) != said.shards
            or sizes.sum() != len(dealt)
            or min(sizes.min(), dealt.min(initial=0)) < 0
        ):
            raise ValueError(f"its tensors are no deal of {said.shards} shards")
    if strange := said.holders.keys() - set(map(str, range(said.shards or 0))):
        raise ValueError(f"somebody holds shard {min(strange)}, of {said.shards or 0}")
    rounds = [past[1] for past in said.history.values()] + [work[0] for work in said.open_work.values()]
    if max(rounds, default=0) > said.round or (said.committed and said.committed.round != said.round):
        raise ValueError(f"it tells of other rounds than those up to its own, {said.round}")


def _shards(arrays: Arrays) -> tuple[NDArray[np.int64], ...]:
    dealt, sizes = (arrays[name].astype(np.int64) for name in _SHARDS)
    return tuple(np.split(dealt, np.cumsum(sizes)[:-1]))
