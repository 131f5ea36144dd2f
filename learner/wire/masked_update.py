"""A masked update as it travels: kept without masks until its round is committed, masked anew for each session."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from learner.secagg.member import MaskMember
from learner.secagg.sessions import MaskSessions
from learner.training.update import Update
from learner.wire.whole_update import HeldUpdate, WholeUpdate
from model.layout import Layout
from protos import leader_pb2
from utils.codecs.base import State
from utils.codecs.files import File
from utils.dp.shares import add_noise, clipped_words
from utils.errors import PayloadError
from utils.secagg.ring import Words
from utils.secagg.update import VALUES, WIDE, Score, facts_words, words_of
from utils.seeds import derive_seed
from utils.vector import Vector

_THREADS = 2


@dataclass
class MaskedUpdate(WholeUpdate):
    """One order's update, as words that have neither masks nor noise yet."""

    order: leader_pb2.WorkOrder
    words: Words
    wide: NDArray[np.uint64]
    model: bytes  # SHA-256 of what was trained from
    _sent: dict[bytes, HeldUpdate] = field(default_factory=dict)  # the last one, by session

    @classmethod
    def of(
        cls,
        order: leader_pb2.WorkOrder,
        update: Update,
        base: Vector,
        layout: Layout,
        memory: Mapping[str, Vector] = MappingProxyType({}),
    ) -> tuple[MaskedUpdate, State]:
        """The update that answers `order`, which was trained from `base`, and what its part is to remember of it.

        `memory` is what the part remembers now. Raises ValueRangeError.
        """
        shared = layout.gathered(update.values)
        words, wide, remembered = _words(order, update, shared, layout.shared_parameter_count, memory)
        model = hashlib.sha256(np.ascontiguousarray(layout.gathered(base)).data).digest()
        return cls(order, words, wide, model), remembered

    async def travelling(self, sessions: MaskSessions) -> HeldUpdate:
        """See WholeUpdate: the file for the session that is open, once its keys and shares are here."""
        member = await sessions.ready(self.order.work_id)
        if member.session not in self._sent:
            key = sessions.noise_key(self.order)
            self._sent = {member.session: await asyncio.to_thread(self._masked, member, key)}
        return self._sent[member.session]

    def _masked(self, member: MaskMember, key: bytes) -> HeldUpdate:
        words, wide = self.words.copy(), self.wide.copy()
        if key:
            add_noise(words, self.order.noise, key, self.order.work_id)
        member.mask(words, wide, self.model, threads=_THREADS)
        signed = {VALUES: words.view(f"i{words.itemsize}"), WIDE: wide.view(np.int64)}
        file, order = File.of(signed, {}), self.order
        said = leader_pb2.UpdateHeader(
            work_id=order.work_id, total_bytes=file.total_bytes, crc32=file.crc32, session=member.session
        )
        return HeldUpdate(order.round, file, said)


def _words(
    order: leader_pb2.WorkOrder, update: Update, shared: Vector, parameters: int, memory: Mapping[str, Vector]
) -> tuple[Words, NDArray[np.uint64], State]:
    """The update's values and what it tells beside them, before noise and masks; with noise to come, no loss."""
    plan = order.masking
    if not order.HasField("noise"):
        seed = derive_seed(order.seed, "masks", order.first_batch)
        scores = {name: Score(own.value, own.examples, 1) for name, own in update.scores.items()}
        return words_of(plan, shared, parameters, update.examples, update.loss, memory, seed, scores)
    if parameters < shared.size:
        raise PayloadError(
            "the model has buffers that would travel without noise; keep them here (model.local)"
        )
    return (
        clipped_words(shared, order.noise, plan.bits),
        facts_words(plan, update.examples, math.nan),
        {},
    )
