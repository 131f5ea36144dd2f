"""Targets for masked runs: crashes in any order, and messages of one learner that are mutated both ways."""

from __future__ import annotations

import shutil
from pathlib import Path

from google.protobuf.message import DecodeError

from tests.fuzz.mutator import Mutator
from tests.fuzz.runner import PlainTarget
from tests.secagg_story import M, Story, told

_INPUTS_A_RUN = 200  # about


class RunTarget(PlainTarget):
    """Runs with crashes, losses and restarts: no update is in two sums, and each run ends."""

    name = "masked run"
    kind: type[Story] = Story

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed << 32
        self._left = 0

    def step(self) -> str:
        """Tell one; each message, loss and crash of it counts as one input."""
        if self._left:
            self._left -= 1
            return "further message"
        self._left = _INPUTS_A_RUN - 1
        self.last = self._seed
        place = self._folder / str(self._seed)
        story = told(self._seed, place, self.kind)
        shutil.rmtree(place)
        self._seed += 1
        assert story.end == "all rounds", story.end
        return f"{min(story.crashes, 3)} crashes"


class Meddled(Story):
    """While there is trouble, what one learner says and is told may be anything."""

    def carry(self, name: str, message: M) -> M | None:
        if self.calm or name != "learner-0":
            return message
        mutator = Mutator(self.random.randrange(1 << 32))
        try:
            return type(message).FromString(mutator.message(message))
        except DecodeError:
            return None


class MessageTarget(RunTarget):
    """The same where one learner and the leader hear nonsense of each other: the others go on."""

    name = "masking messages"
    kind = Meddled


TARGETS: tuple[type[RunTarget], ...] = (RunTarget, MessageTarget)
