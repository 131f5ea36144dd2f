"""Who is in one session of secure aggregation, and what everybody's keys and shares are bound to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

from protos import leader_pb2
from utils.errors import PayloadError
from utils.secagg.graph import ALL_TO_ALL, COLLUDING, LOST, SECURITY, SIGNED_SECURITY, Graph, least
from utils.secagg.keys import KEY_BYTES, SESSION_BYTES, digest

#: Of the protocol, as LearnerInfo.secagg says it; 2: adds its share of noise; 3: masks of 16 bits; 4: groups;
#: 5: scores.
VERSION = 5
MOST_SEATS = 10_000
MOST_ATTEMPTS = (
    3  # sums that a leader asks for in a synchronous round, and updates of it that a learner reveals
)
MOST_METRICS = 16  # whose sums a plan asks for
METRIC_NAME = re.compile(r"[A-Za-z0-9_.]{1,64}")
_PROOF_BYTES = 4096  # of an identity, and of a signature


@dataclass(frozen=True)
class Seated:
    """A roster that everybody in the session sees alike, for the work of one order."""

    session: bytes
    order: bytes  # order_bytes of the work order
    plan: leader_pb2.MaskPlan
    seats: tuple[leader_pb2.Seat, ...]  # in the order of their names

    @cached_property
    def digest(self) -> bytes:
        """What shares are sealed for: another order, name or key for anybody makes it another, 32 bytes."""
        parts = [self.session, self.order]
        for seat in self.seats:
            parts += [seat.name.encode(), *advert_parts(seat.advert)]
        return digest("roster", *parts)

    def binding(self, model: bytes) -> bytes:
        """What masks are derived for: the roster, and SHA-256 of the model that was trained from, 64 bytes."""
        return self.digest + model

    @cached_property
    def graph(self) -> Graph:
        """Who shares secrets with whom."""
        return Graph(self.digest, len(self.seats), self.plan.neighbours)

    @property
    def shares_needed(self) -> int:
        """Shares that give a secret."""
        return self.plan.neighbour_threshold if self.plan.neighbours else self.plan.threshold

    def survivors_digest(self, survivors: leader_pb2.Survivors) -> bytes:
        """What stands for one set of survivors in vows and signatures, 32 bytes."""
        return digest("survivors", self.session, self.digest, survivors.in_sum, survivors.masked_with)


def need(plan: leader_pb2.MaskPlan) -> int:
    """Fewest learners that a session can go on with."""
    return max(plan.threshold, plan.least)


def order_bytes(order: leader_pb2.WorkOrder) -> bytes:
    """A work order without what differs between the learners of one exchange, in one way of writing it."""
    common = leader_pb2.WorkOrder()
    common.CopyFrom(order)
    own = ["work_id", "shard", "seed", "first_batch", "counted_round", "via"]
    own += ["local_steps"] if order.masking.epochs else []
    own += ["step"] if order.last_round else []  # of asynchronous runs: a number of its learner's
    for field in own:
        common.ClearField(field)
    return common.SerializeToString(deterministic=True)


def advert_parts(advert: leader_pb2.Advert) -> list[bytes]:
    """What an advert says, but for its signature."""
    names = b""  # of scores: in plans today, yet still a part here, so that no digest is another
    return [advert.share_key, advert.mask_key, advert.self_hash, advert.identity, names]


def signed_advert(session: bytes, order: bytes, name: str, advert: leader_pb2.Advert) -> bytes:
    """What an advert's signature is over, 32 bytes."""
    return digest("advert", session, order, name.encode(), *advert_parts(advert))


def check_advert(advert: leader_pb2.Advert) -> None:
    """Raise PayloadError unless each field has a size that it can have."""
    keys = (advert.share_key, advert.mask_key, advert.self_hash)
    proofs = (advert.identity, advert.signature)
    if any(len(key) != KEY_BYTES for key in keys) or any(len(proof) > _PROOF_BYTES for proof in proofs):
        raise PayloadError(
            f"an advert's keys and hash have {KEY_BYTES} bytes, its proofs at most {_PROOF_BYTES}"
        )


def check_plan(plan: leader_pb2.MaskPlan) -> None:
    """Raise PayloadError for a plan under which more than one set of survivors could be unmasked."""
    if plan.bits not in (16, 32, 64) or not plan.range > 0:
        raise PayloadError(
            f"masks of {plan.bits} bits for values up to {plan.range:g}: 16, 32 or 64, above 0"
        )
    if not 2 <= plan.least <= plan.parties <= MOST_SEATS:
        raise PayloadError(
            f"a sum of {plan.least} to {plan.parties} updates; from 2 to {MOST_SEATS} can be masked"
        )
    names = list(plan.metrics)
    if len(names) > MOST_METRICS or names != sorted(set(names)):
        raise PayloadError(f"sums of at most {MOST_METRICS} scores can be asked for, each once and in order")
    if any(not METRIC_NAME.fullmatch(name) for name in names):
        raise PayloadError("a score's name has 1 to 64 letters, digits, underscores and dots")
    if not plan.parties < 2 * plan.threshold <= 2 * plan.parties:
        raise PayloadError(
            f"{plan.threshold} of {plan.parties} learners could unmask; more than half must be needed"
        )
    if plan.signed and 3 * plan.threshold <= 2 * plan.parties:
        raise PayloadError(
            f"{plan.threshold} of {plan.parties} learners could agree to two sums with a few that lie; more than "
            "two thirds must be needed where sessions are signed"
        )
    if not plan.neighbours:
        return
    if plan.parties <= ALL_TO_ALL or plan.neighbours >= plan.parties:
        raise PayloadError(
            f"{plan.parties} learners all share with all, not with {plan.neighbours} neighbours"
        )
    count, threshold = fewest_neighbours(plan)
    if plan.neighbours < count or not threshold <= plan.neighbour_threshold <= plan.neighbours:
        raise PayloadError(
            f"{plan.neighbour_threshold} of {plan.neighbours} neighbours could unmask; of {plan.parties} learners "
            f"{threshold} of {count} must be needed"
        )


def fewest_neighbours(plan: leader_pb2.MaskPlan) -> tuple[int, int]:
    """The fewest neighbours in a sparse graph of the plan's learners, and how many of their shares unmask.

    All see the same survivors: signatures prove it, or the leader follows the protocol.
    """
    security = SIGNED_SECURITY if plan.signed else SECURITY
    return least(plan.parties, COLLUDING, LOST, security, active=False)


def check_session(session: bytes) -> None:
    """Raise PayloadError for an id that is none."""
    if len(session) != SESSION_BYTES:
        raise PayloadError(f"a masking session has an id of {SESSION_BYTES} bytes, not {len(session)}")


def bit_set(seats: Collection[int], size: int) -> bytes:
    """Seats of `size` as bits, the first in the lowest bit of the first byte."""
    return sum(1 << seat for seat in seats).to_bytes(-(-size // 8), "little")


def seats_of(bits: bytes, size: int) -> tuple[int, ...]:
    """The seats in a bit set, in order; raises PayloadError for bits of no seat."""
    number = int.from_bytes(bits, "little")
    if len(bits) != -(-size // 8) or number >> size:
        raise PayloadError(f"a set of seats that is none of {size}")
    return tuple(_ones(number))


def _ones(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
