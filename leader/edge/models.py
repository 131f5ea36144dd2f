"""Model versions at an edge: fetched when they are first asked for, once for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from copy import copy
from dataclasses import dataclass, field

from leader.condition import Signal
from leader.services.cache import Cache, model_key
from utils.errors import FlockstepError, LateUpdateError, LimitError

_VERSIONS = 2  # the newest ones, as there may be downloads of the one before
_ANSWERS = 3  # of one version, for those that have others; whoever else asks gets it whole
Key = tuple[int, int | None]  # version wanted, and the version that the learner has
Fetch = Callable[[int, int | None], AsyncIterator[bytes]]


@dataclass(eq=False)
class _Model:
    """What has come of one version so far."""

    messages: list[bytes] = field(default_factory=list)
    changed: Signal = field(default_factory=Signal)
    over: bool = False
    error: FlockstepError | None = None
    task: asyncio.Task[None] | None = None


class Models:
    """Serves versions while they come: the first asker's download streams through to all that wait."""

    def __init__(self, fetch: Fetch, most_bytes: int) -> None:
        """`fetch` gives the framed messages of a version, for those that have another or None, of `most_bytes`."""
        self._fetch = fetch
        self._most_bytes = most_bytes
        self._models: dict[Key, _Model] = {}  # oldest first

    async def stream(self, version: int, have: int | None) -> AsyncIterator[bytes]:
        """The framed messages of `version`; raises what the parent refuses it with."""
        model = self._model(version, have)
        sent = 0

        def more() -> bool:
            return model.over or len(model.messages) > sent

        while await model.changed.wait_until(more):
            for message in model.messages[sent:]:
                yield message
                sent += 1
            if sent == len(model.messages) and model.over:
                break
        if model.error is not None:
            # Each asker's own: the frames of an error are cleared once its call is refused.
            raise copy(model.error)

    def _model(self, version: int, have: int | None) -> _Model:
        known = [key for key in self._models if key[0] == version]
        key = version, have if (version, have) in known or len(known) < _ANSWERS else None
        model = self._models.get(key)
        if model is None:
            self._make_room(version)
            model = self._models[key] = _Model()
            model.task = asyncio.ensure_future(self._pull(key, model))
        return model

    def _make_room(self, version: int) -> None:
        others = [*dict.fromkeys(number for number, _ in self._models if number != version)]
        for key in [key for key in self._models if key[0] in others[: 1 - _VERSIONS]]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        model = self._models.pop(key)
        if model.task is not None:
            model.task.cancel()

    async def _pull(self, key: Key, model: _Model) -> None:
        size = 0
        try:
            async for message in self._fetch(*key):
                size += len(message)
                if size > self._most_bytes:
                    raise LimitError(f"the parent sent more than {self._most_bytes} bytes of a model")
                model.messages.append(message)
                model.changed.notify()
        except FlockstepError as error:
            model.error = error
            if self._models.get(key) is model:  # the next one asks again
                del self._models[key]
        except asyncio.CancelledError:
            model.error = LateUpdateError(
                "this model version was replaced during the download; fetch new work"
            )
            raise
        finally:
            model.over = True
            model.changed.notify()


async def shared_model(
    cache: Cache, run_id: str, most_bytes: int, parent: Fetch, version: int, have: int | None
) -> AsyncIterator[bytes]:
    """A version in framed messages, from the cache where it is there, else from the parent.

    For those that have another one what makes it of that is looked for first: it is less.
    """
    for key in dict.fromkeys((model_key(run_id, version, have), model_key(run_id, version))):
        if (messages := await cache.get(key, most_bytes)) is not None:
            for message in messages:
                yield message
            return
    async for message in parent(version, have):
        yield message
