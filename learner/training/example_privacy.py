"""What this learner's examples have spent of their privacy, over all its runs: on disk before anything is made of them.

The ledger is `privacy.jsonl` in --state-dir; a line is JSON with the SHA-256 of the line before as `prev`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from learner.noise_key import NoiseKeys
from learner.privacy_floor import LARGEST_DELTA
from protos import leader_pb2
from utils.dp.sampled_gaussian import (
    LEAST,
    MOST,
    ORDERS,
    Divergences,
    divergences_of,
    epsilon_of,
    least_noise,
)
from utils.errors import ConfigError, PayloadError, PrivacyError
from utils.vector import Vector

_log = logging.getLogger(__name__)
_START = "0" * 64
_NAME_DIGITS = 16  # of the name of a key, which tells nothing of it
_SLACK = 1 + 1e-9  # of a budget that is spent to the last
_NOTHING: Divergences = np.zeros(len(ORDERS))


class ExamplePrivacy:
    """Charges orders of `dp.mode=examples`; `budget` is the epsilon of all runs together, 0 that of each run alone.

    `data` is the fingerprint of the examples, as far as they have one.
    Raises PrivacyError for a ledger that is not whole, or whose budget is spent.
    """

    def __init__(self, folder: Path | None, keys: NoiseKeys, budget: float = 0.0, data: str = "") -> None:
        self._path = folder / "privacy.jsonl" if folder else None
        self._keys = keys
        self._budget = budget
        self._data = data
        self._head = _START
        self._spent_budget = 0.0  # the largest that an order was refused for
        self._spent: dict[str, Divergences] = {}  # by run
        self._charged: set[tuple[str, str, float, float, str]] = (
            set()
        )  # run, work id, rate, z, name of the key
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def check(self, order: leader_pb2.WorkOrder) -> None:
        """Raise PayloadError for an order under which examples would be used beyond the budget's promise."""
        if self._budget and not order.HasField("examples"):
            raise PayloadError(
                "the leader asks for work without noise for each example, and this learner has a budget (--dp-budget)"
            )
        plan = order.examples
        if order.HasField("examples") and not (
            order.exchange == "delta"
            and 0 < plan.clip < math.inf
            and 0 < plan.epsilon < math.inf
            and 0 < plan.delta < 1
            # Beyond these no epsilon can be told; and what is no number would make all that is spent none.
            and (plan.noise_multiplier == 0 or LEAST <= plan.noise_multiplier <= MOST)
        ):
            raise PayloadError(f"privacy of examples that promises nothing: {str(plan)[:200]}")
        if order.HasField("examples") and (
            order.control_variates or order.personal_lambda or order.fragments
        ):
            raise PayloadError(
                "the leader asks for control variates, a personal model or fragments, whose steps are not those that "
                "privacy of examples charges"
            )

    def charge(
        self, run: str, order: leader_pb2.WorkOrder, examples: int, start: Vector
    ) -> tuple[float, bytes]:
        """Have the order's steps from `start` on disk as paid; noise multiplier and key of their noise.

        The same again is free. Not where this learner came back with more, fewer or other examples, which makes other
        steps, nor where the key is another one, as that of an earlier round is, or of another model or order.
        Raises PrivacyError where they can't be paid, and ConfigError where that can't be written.
        """
        if self._path is None:
            raise PrivacyError(
                "dp.mode is examples, whose ledger lies in a folder: start the learner with --state-dir"
            )
        plan, rate = order.examples, min(1.0, order.batch_size / examples)
        noise = plan.noise_multiplier or least_noise(
            rate, plan.rounds * order.local_steps, plan.epsilon, plan.delta
        )
        inputs = _inputs(order, start) + self._data.encode()
        key = hmac.digest(self._keys.of(run, order.round), inputs, "sha256")
        name = hmac.digest(key, b"flockstep dp 1 name", "sha256").hex()[:_NAME_DIGITS]
        if (run, order.work_id, rate, noise, name) not in self._charged:
            step = {"run": run, "round": order.round, "of": order.work_id, "rate": rate, "z": noise}
            self._pay({**step, "steps": order.local_steps, "key": name}, plan)
        return noise, key

    def _pay(self, entry: Mapping[str, Any], plan: leader_pb2.ExamplePlan) -> None:
        one = entry["steps"] * divergences_of(entry["rate"], entry["z"])
        in_run = epsilon_of(self._spent.get(entry["run"], _NOTHING) + one, plan.delta)
        # Delta is the leader's to choose, the budget is not.
        in_all = epsilon_of(sum(self._spent.values(), one), min(plan.delta, LARGEST_DELTA))
        begins = f"privacy budget: round {entry['round']} would bring this learner's examples to epsilon "
        if self._budget and in_all > self._budget * _SLACK:
            self._append({"spent": self._budget})
            raise PrivacyError(
                f"{begins}{in_all:.2f} of {self._budget:g} (--dp-budget); it takes part no more"
            )
        if in_run > plan.epsilon * _SLACK:
            raise PrivacyError(f"{begins}{in_run:.2f} of {plan.epsilon:g} in this run (dp.epsilon)")
        self._append(entry)
        text = "round %d: each example: epsilon %.3g of %g at delta %g in this run, %.3g in all"
        _log.info(text, entry["round"], in_run, plan.epsilon, plan.delta, in_all)

    def _append(self, entry: Mapping[str, Any]) -> None:
        assert self._path is not None
        line = json.dumps({**entry, "prev": self._head}, sort_keys=True).encode()
        try:
            with self._path.open("ab") as file:
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"can't write {self._path}: {error.strerror}; free the disk") from None
        self._take(line)

    def _take(self, line: bytes) -> None:
        entry = json.loads(line)
        if entry["prev"] != self._head:
            raise ValueError("it does not follow the one before")
        if "run" in entry:
            one = entry["steps"] * divergences_of(entry["rate"], entry["z"])
            self._spent[entry["run"]] = self._spent.get(entry["run"], _NOTHING) + one
            self._charged.add((entry["run"], entry["of"], entry["rate"], entry["z"], entry.get("key", "")))
        self._spent_budget = max(self._spent_budget, entry.get("spent", 0.0))
        self._head = hashlib.sha256(line).hexdigest()

    def _read(self, path: Path) -> None:
        """What earlier processes were charged; a line that a crash has cut off is cut."""
        content = path.read_bytes()
        *lines, torn = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                self._take(line)
            except (ValueError, LookupError, TypeError, ArithmeticError) as error:
                raise PrivacyError(
                    f"{path}: entry {number} is damaged ({error!r:.200}); restore the file"
                ) from None
        if torn:
            os.truncate(path, len(content) - len(torn))
        if 0 < self._budget <= self._spent_budget:
            raise PrivacyError(
                f"the privacy of this learner's examples is spent (--dp-budget {self._budget:g}, {path}); it takes "
                "part no more"
            )


def _inputs(order: leader_pb2.WorkOrder, start: Vector) -> bytes:
    """All that tells work from other work; its id is the leader's word."""
    asked = leader_pb2.WorkOrder()
    asked.CopyFrom(order)
    asked.ClearField("via")  # of the leader that is there now
    work = hashlib.sha256(asked.SerializeToString(deterministic=True))
    return b"flockstep dp 1 work " + work.digest() + hashlib.sha256(start.data).digest()
