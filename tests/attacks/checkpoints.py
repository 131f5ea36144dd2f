"""Checkpoints that say what no run has written, under a SHA-256 that fits: the format is public."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Tensors = dict[str, tuple[str, list[int], bytes]]  # dtype, shape and bytes, by name


@dataclass
class Checkpoint:
    """A file in parts, to be changed; `said` is the JSON as text where it shall be none that `state` can be."""

    state: dict[str, Any]
    tensors: Tensors
    said: str = ""


Forgery = Callable[[Checkpoint], object]


def forge(path: Path, forgery: Forgery) -> None:
    """Change what a checkpoint says, and make its SHA-256 fit."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    metadata = header.pop("__metadata__")
    tensors = {
        name: (one["dtype"], one["shape"], body[slice(*one["data_offsets"])]) for name, one in header.items()
    }
    forged = Checkpoint(json.loads(metadata["state"]), tensors)
    forgery(forged)
    said = forged.said or json.dumps(forged.state)
    listed = [[name, dtype, shape] for name, (dtype, shape, _) in forged.tensors.items()]
    digest = hashlib.sha256(json.dumps([said, metadata["config"], listed]).encode())
    entries, end = {}, 0
    for name, (dtype, shape, data) in forged.tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end := end + len(data)]}
        digest.update(data)
    metadata |= {"state": said, "sha256": digest.hexdigest()}
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    data = b"".join(data for _, _, data in forged.tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def says(**fields: object) -> Forgery:
    """Fields of the state replaced, or added."""
    return lambda forged: forged.state.update(fields)


def within(field: str, **fields: object) -> Forgery:
    """Fields of one field of the state replaced, or added."""
    return lambda forged: forged.state[field].update(fields)


def lacks(field: str) -> Forgery:
    """A field of the state left out."""
    return lambda forged: forged.state.pop(field)


def text(change: Callable[[str], str]) -> Forgery:
    """The state's JSON as text, changed."""

    def forgery(forged: Checkpoint) -> None:
        forged.said = change(json.dumps(forged.state))

    return forgery


def tensor(name: str, dtype: str, shape: list[int], data: bytes) -> Forgery:
    """A tensor replaced, or added."""
    return lambda forged: forged.tensors.update({name: (dtype, shape, data)})


def without(name: str) -> Forgery:
    """A tensor left out."""
    return lambda forged: forged.tensors.pop(name)


def reshaped(forged: Checkpoint) -> None:
    """The weights as a table."""
    dtype, [size], data = forged.tensors["vector"]
    forged.tensors["vector"] = dtype, [2, size // 2], data


#: What of a state with two shards and optimizer state can be wrong, by what it is called.
FORGERIES: dict[str, Forgery] = {
    "a number as text": says(round="5"),
    "a number as text that reads as one": says(own="2"),
    "a boolean for a number": says(exchanges=True),
    "a fraction for a number": says(bytes_up=0.5),
    "a list for a map": says(history=[]),
    "a map for a list": within("open_work", **{"own-b": {"round": 1}}),
    "nothing for a map": says(holders=None),
    "a number for a name": within("holders", **{"0": 7}),
    "a missing field": lacks("run_id"),
    "a missing field of what is told": lambda forged: forged.state["committed"].pop("lr"),
    "an unknown field": says(hats=3),
    "an unknown field of what is told": within("committed", hats=3),
    "a missing score": lambda forged: forged.state["federated"]["accuracy"].pop("std"),
    "a score as text": lambda forged: forged.state["federated"]["accuracy"].update(mean="high"),
    "a negative number": says(exchanges=-1),
    "a time that is not a number": says(seconds=float("nan")),
    "an infinite rate": within("committed", lr=float("inf")),
    "a number beyond 64 bits": says(version=10**30),
    "a number of 5,000 digits": text(lambda said: said.replace('"own": 2', f'"own": {"9" * 5000}')),
    "a history that is too short": within("history", **{"own-b": [1, 2, 0.5]}),
    "a history that is too long": within("history", **{"own-b": [1, 2, 0.5, 1.0, 9]}),
    "a history of later rounds": within("history", **{"own-b": [1, 900, 0.5, 1.0]}),
    "a history of round 0": within("history", **{"own-b": [1, 0, 0.5, 1.0]}),
    "open work that is too long": within("open_work", **{"own-b": [1, 2, 3, 4, 5]}),
    "open work of later rounds": within("open_work", **{"own-b": [900, 2, 3]}),
    "a claim of one": within("claims", b=["ff"]),
    "a round that its name is not of": says(round=3, committed=None, history={}, open_work={}),
    "a commit of another round": within("committed", round=2),
    "a holder of a shard that is not there": within("holders", **{"2": "b"}),
    "a holder of no shard": within("holders", first="b"),
    "a key twice": text(lambda said: said.replace('"own": 2', '"own": 1, "own": 2')),
    "half a character": text(lambda said: said.replace("run-7", "\\ud800")),
    "no JSON": text(lambda said: said[:-1]),
    "a list for a state": text(lambda said: f"[{said}]"),
    "a deep nest": text(lambda said: "[" * 100_000),
    "privacy without a key": says(privacy={"clip": 1.0, "entries": 0, "head": ""}),
    "half a key of noise": says(
        privacy={"noise_key": "ab" * 16, "clip": 1.0, "entries": 0, "head": "", "epsilon": 0.0, "budget": 8.0}
    ),
    "a clip below 0": says(
        privacy={"noise_key": "", "clip": -1.0, "entries": 0, "head": "", "epsilon": 0.0, "budget": 8.0}
    ),
    "no weights": without("vector"),
    "weights of another precision": tensor("vector", "F64", [2], bytes(16)),
    "weights that NumPy has no numbers for": tensor("vector", "BF16", [2], bytes(4)),
    "weights as a table": reshaped,
    "whole numbers in the optimizer": tensor("optimizer.velocity", "I32", [2], bytes(8)),
    "learners' weights of another size": tensor("public", "F32", [3], bytes(12)),
    "a mean of another size": tensor("average", "F32", [3], bytes(12)),
    "a mean of nobody knows how many models": tensor("average", "F32", [2], bytes(8)),
    "a count of models without their mean": says(averaged=3),
    "a tensor that nobody knows": tensor("hats", "F32", [1], bytes(4)),
    "no shards": without("shards"),
    "shards that are not asked for": says(shards=None, holders={}),
    "more shards than are dealt": says(shards=3),
    "sizes of shards that do not add up": tensor("shard_sizes", "I32", [2], struct.pack("<2i", 3, 9)),
    "a shard of a size below 0": tensor("shard_sizes", "I32", [2], struct.pack("<2i", 9, -4)),
    "an example below 0": tensor("shards", "I32", [5], struct.pack("<5i", 1, 4, -6, 0, 2)),
}
