"""What takes the masks off a sum: secrets put together from the shares that survivors revealed, and their seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from random import SystemRandom

from protos import leader_pb2
from utils.errors import PayloadError
from utils.secagg import keys
from utils.secagg.roster import Seated, seats_of
from utils.secagg.shamir import Combiner

SEED_BYTES = 64  # a key for the values' stream, and one for that of the wide part
_TRIED = 4096  # sets of answers that are tried until one gives the secret

#: Shares by the seat that answered, then by the seat whose secret they are of.
Answers = Mapping[int, Mapping[int, bytes]]


@dataclass(frozen=True)
class Seeds:
    """Streams that are to be added to the sum, and taken away from it."""

    plus: tuple[bytes, ...]
    minus: tuple[bytes, ...]


def seeds(seated: Seated, survivors: leader_pb2.Survivors, answers: Answers, model: bytes) -> Seeds:
    """The seeds that unmask the sum of `survivors`, who trained from the model of which `model` is SHA-256.

    Raises PayloadError where too few shares are right.
    """
    size = len(seated.seats)
    in_sum, masked_with = (set(seats_of(bits, size)) for bits in (survivors.in_sum, survivors.masked_with))
    binding, session = seated.binding(model), seated.session
    secrets = _Secrets(seated, answers)
    plus: list[bytes] = []
    minus: list[bytes] = []
    for seat in sorted(masked_with):
        if seat in in_sum:
            own = secrets.of(seat, _self_secret(seated, seat))
            minus.append(keys.derive(own, session, "self", binding, SEED_BYTES))
            continue
        mask_key = secrets.of(seat, _mask_key(seated, seat))
        others = sorted(in_sum.intersection(seated.graph.neighbours(seat)))
        agreed = keys.agreed(mask_key, (seated.seats[other].advert.mask_key for other in others))
        for other, secret in zip(others, agreed, strict=True):
            seed = keys.derive(secret, session, "pair", binding, SEED_BYTES)
            (minus if other < seat else plus).append(seed)  # the lower seat has added it
    return Seeds(tuple(plus), tuple(minus))


Fits = Callable[[bytes], bool]


def _choices(holders: Sequence[int], needed: int) -> Iterator[tuple[int, ...]]:
    """So many of these at a time, the first ones first: all such sets, or of very many some by chance.

    In turn, one that lies and comes first would be in all that are tried.
    """
    if math.comb(len(holders), needed) <= _TRIED:
        yield from combinations(holders, needed)
        return
    yield tuple(holders[:needed])
    draw = SystemRandom()
    for _ in range(_TRIED):
        yield tuple(draw.sample(holders, needed))


def _self_secret(seated: Seated, seat: int) -> Fits:
    expected = seated.seats[seat].advert.self_hash
    return lambda secret: keys.digest("self hash", seated.session, secret) == expected


def _mask_key(seated: Seated, seat: int) -> Fits:
    expected = seated.seats[seat].advert.mask_key
    return lambda secret: keys.public(secret) == expected


class _Secrets:
    """Puts secrets together; who has answered wrongly once is asked last from then on."""

    def __init__(self, seated: Seated, answers: Answers) -> None:
        self._seated = seated
        self._answers = answers
        self._order = sorted(answers)
        self._combiner = lru_cache(maxsize=64)(Combiner)

    def of(self, seat: int, fits: Fits) -> bytes:
        """The secret of `seat` that fits; raises PayloadError if none does."""
        needed = self._seated.shares_needed
        holders = [answerer for answerer in self._order if seat in self._answers[answerer]]
        for chosen in _choices(holders, needed):
            shares = [self._answers[answerer][seat] for answerer in chosen]
            try:
                secret = self._combiner(tuple(answerer + 1 for answerer in chosen)).secret(shares)
            except PayloadError:
                continue
            if fits(secret):
                self._order = [*chosen, *(other for other in self._order if other not in chosen)]
                return secret
        raise PayloadError(
            f"{len(holders)} learners revealed shares of {self._seated.seats[seat].name}, {needed} that fit are needed"
        )
