"""A gradient in pieces: each is told as soon as backward has made it, last layers first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
from torch import Tensor, nn

from learner.training.device_reads import Read
from learner.training.update import Watcher
from model.flat import FlatModel
from utils.codecs.pieces import Piece
from utils.errors import IncompatibleError
from utils.vector import Vector


def backward(loss: Tensor, model: FlatModel, start: Vector, watcher: Watcher, read: Read) -> None:
    """Run backward, and tell `watcher` of each piece, by `read`; the model's gradients must be zero.

    `start`, (total,), is what the model was before forward: buffers travel as the change since then.
    """
    split = model.layout.parameter_count
    gradients = [piece for piece in watcher.pieces if piece.start < split]

    def ready(piece: Piece) -> None:
        made = model.gradient[piece.start : piece.stop]
        read(made, lambda values: watcher.piece(piece.number, values.numpy()))

    def changed(piece: Piece, now: Tensor) -> None:
        watcher.piece(piece.number, np.subtract(now.numpy(), start[piece.start : piece.stop]))

    with _watching(model, gradients, ready):
        loss.backward()  # type: ignore[no-untyped-call]
    for piece in watcher.pieces:
        if piece.start >= split:
            read(model.vector[piece.start : piece.stop].detach(), partial(changed, piece))


@contextmanager
def _watching(model: FlatModel, pieces: Sequence[Piece], ready: Callable[[Piece], None]) -> Iterator[None]:
    """Call `ready` with each piece, once: when all its gradients are there, or else at the end of the block."""
    waiting = [set[int]() for _ in pieces]
    handles = []
    for number, index, parameter in _parameters(model, pieces):
        waiting[number].add(index)
        accumulated = _Accumulated(pieces[number], index, waiting[number], ready)
        handles.append(parameter.register_post_accumulate_grad_hook(accumulated))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for piece, left in zip(reversed(pieces), reversed(waiting), strict=True):
        if left or not piece.shapes:  # parameters that the loss does not depend on
            ready(piece)


class _Accumulated:
    """What happens when the gradient of one parameter is there."""

    def __init__(self, piece: Piece, index: int, waiting: set[int], ready: Callable[[Piece], None]) -> None:
        self._piece = piece
        self._index = index
        self._waiting = waiting  # of the same piece
        self._ready = ready

    def __call__(self, parameter: Tensor) -> None:
        if not self._waiting:
            raise IncompatibleError(
                "backward adds to a gradient that has been sent (does the task run backward twice, or checkpoint "
                "with use_reentrant?); set train.pipeline=false at the leader"
            )
        self._waiting.discard(self._index)
        if not self._waiting:
            self._ready(self._piece)


def _parameters(model: FlatModel, pieces: Sequence[Piece]) -> Iterator[tuple[int, int, nn.Parameter]]:
    """Each trained parameter with the position of its piece, of each that has a part of it, and its own."""
    named = dict(model.module.named_parameters())
    for position, piece in enumerate(pieces):
        for index in piece.tensors:
            yield position, index, named[model.layout.parameters[index].name]
