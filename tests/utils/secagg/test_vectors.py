"""Secure aggregation against vectors that another implementation computed (tests/vectors)."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from protos import leader_pb2
from tests.vectors import vectors
from utils.errors import PayloadError, ValueRangeError
from utils.secagg import graph, keys
from utils.secagg.masks import add_streams
from utils.secagg.ring import WORDS, Ring
from utils.secagg.roster import Seated, bit_set
from utils.secagg.shamir import Combiner, split

of_hex = bytes.fromhex

STREAMS, SHAMIR, SESSION = vectors("mask_streams"), vectors("shamir"), vectors("session")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_stream_is_that_of_aes_in_counter_mode(threads: int) -> None:
    words = np.zeros(300_000, np.uint32)
    add_streams(words, [of_hex(STREAMS["key"])], threads=threads)
    assert words[:16].tobytes().hex() == STREAMS["first_64_bytes"]
    assert words[65536:65544].tobytes().hex() == STREAMS["bytes_from_262144"]
    assert {at: int(words[int(at)]) for at in STREAMS["words32_at"]} == STREAMS["words32_at"]
    assert hashlib.sha256(words.tobytes()).hexdigest() == STREAMS["sha256_of_first_1200000_bytes"]


@pytest.mark.parametrize("case", STREAMS["add"], ids=lambda case: str(case["bits"]))
def test_streams_are_added_modulo_a_power_of_two(case: dict[str, Any]) -> None:
    words = np.array(case["start"], WORDS[case["bits"]])
    add_streams(words, [of_hex(case["plus"])], [of_hex(case["minus"])])
    assert words.tolist() == case["result"]


@pytest.mark.parametrize("case", [SHAMIR, SHAMIR["edge"]], ids=["some", "largest"])
def test_shares_of_a_secret(case: dict[str, Any]) -> None:
    drawn = map(int, case["coefficients"])
    shares = split(
        of_hex(case["secret"]),
        range(1, len(case["shares"]) + 1),
        case["threshold"],
        lambda bound: next(drawn),
    )
    assert [share.hex() for share in shares] == case["shares"]


@pytest.mark.parametrize("case", SHAMIR["combine"], ids=lambda case: str(case["points"]))
def test_shares_give_the_secret(case: dict[str, Any]) -> None:
    combiner = Combiner(case["points"])
    assert [str(weight) for weight in combiner.weights] == case["weights"]
    assert combiner.secret([of_hex(SHAMIR["shares"][x - 1]) for x in case["points"]]).hex() == case["secret"]


def test_a_wrong_share_gives_another_secret_or_none() -> None:
    shares = [of_hex(share) for share in SHAMIR["bad"]["shares"]]
    with suppress(PayloadError):
        assert Combiner(SHAMIR["bad"]["points"]).secret(shares).hex() != SHAMIR["secret"]


@pytest.mark.parametrize(
    "case",
    [case for case in vectors("quantise")["cases"] if case["bits"] < 64],  # 64 are those of the exact sum
    ids=lambda c: f"{c['bits']}-{c['parties']}",
)
def test_levels(case: dict[str, Any]) -> None:
    ring = Ring(case["bits"], case["parties"], case["range"])
    assert (ring.limit, ring.scale) == (case["limit"], case["scale"])
    values = np.array(case["values"], np.float32)
    levels, saturated = ring.levels(values, case["share"])
    expected = np.array(case["levels_unsigned"], np.uint64).astype(levels.dtype)
    assert levels.tolist() == expected.tolist()
    assert saturated == case["saturated"]
    total = np.array(
        [int(level) * ring.parties % 2**ring.bits for level in levels], levels.dtype
    )  # of as many equal updates
    means = np.array(case["sum_of_n_equal_ones_decoded_with_divisor_0.75n"], np.float32)
    assert ring.means(total, 0.75 * ring.parties).tolist() == means.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_level_for_what_is_no_number(bad: float) -> None:
    with pytest.raises(ValueRangeError, match="not finite"):
        Ring(32, 4, 8.0).levels(np.array([1.0, bad], np.float32))


@pytest.mark.parametrize(
    "case",
    vectors("graph")["cases"],
    ids=lambda c: "-".join(str(c[k]) for k in ("n", "gamma", "sigma", "active")),
)
def test_the_fewest_neighbours_that_are_safe(case: dict[str, Any]) -> None:
    found = graph.least(case["n"], case["gamma"], case["delta"], case["sigma"], active=case["active"])
    assert list(found) == case["k_t"]


def test_neighbours_are_mutual_and_as_many_as_asked_for() -> None:
    beside, other_ring = (
        [of.neighbours(seat) for seat in range(151)]
        for of in (graph.Graph(roster * 32, 151, 20) for roster in (b"r", b"s"))
    )
    assert {len(of) for of in beside} == {20}
    assert all(seat in beside[other] and other != seat for seat, of in enumerate(beside) for other in of)
    assert beside != other_ring


class TestSession:
    """Four learners with secrets that are known, one of which is lost."""

    session = of_hex(SESSION["session"])
    names = SESSION["order"]

    def seated(self) -> Seated:
        adverts = {
            name: leader_pb2.Advert(
                share_key=of_hex(said["share_key"]),
                mask_key=of_hex(said["mask_key"]),
                self_hash=of_hex(said["self_hash"]),
            )
            for name, said in SESSION["adverts"].items()
        }
        seats = tuple(leader_pb2.Seat(name=name, advert=adverts[name]) for name in self.names)
        plan = leader_pb2.MaskPlan(threshold=SESSION["threshold"])
        return Seated(self.session, of_hex(SESSION["order_bytes"]), plan, seats)

    def secret(self, seat: int, what: str) -> bytes:
        return of_hex(SESSION["secrets"][self.names[seat]][what])

    def test_adverts(self) -> None:
        for name, advert in SESSION["adverts"].items():
            secrets = {what: of_hex(text) for what, text in SESSION["secrets"][name].items()}
            assert keys.public(secrets["share"]).hex() == advert["share_key"]
            assert keys.public(secrets["mask"]).hex() == advert["mask_key"]
            assert keys.digest("self hash", self.session, secrets["self"]).hex() == advert["self_hash"]

    def test_roster_and_survivors(self) -> None:
        seated = self.seated()
        assert seated.digest.hex() == SESSION["roster_digest"]
        said = {field: of_hex(SESSION["survivors"][field]) for field in ("in_sum", "masked_with")}
        assert said == {"in_sum": bit_set([0, 1, 3], 4), "masked_with": bit_set(range(4), 4)}
        found = seated.survivors_digest(leader_pb2.Survivors(**said))
        assert found.hex() == SESSION["survivors"]["digest"]

    def test_seeds(self) -> None:
        seated = self.seated()
        binding = seated.binding(of_hex(SESSION["model_sha256"]))
        for pair, seed in SESSION["pair_seeds"].items():
            low, high = map(int, pair.split("-"))
            [secret] = keys.agreed(self.secret(low, "mask"), [seated.seats[high].advert.mask_key])
            assert keys.derive(secret, self.session, "pair", binding, 64).hex() == seed
        for seat, name in enumerate(self.names):
            own = keys.derive(self.secret(seat, "self"), self.session, "self", binding, 64)
            assert own.hex() == SESSION["self_seeds"][name]

    def test_sealed_shares_open_for_the_receiver_alone(self) -> None:
        seated = self.seated()
        ends = [
            keys.SharingKeys(secret, self.session, seated.digest)
            for seat in (0, 1)
            for secret in keys.agreed(self.secret(seat, "share"), [seated.seats[1 - seat].advert.share_key])
        ]
        sealed = ends[0].seal(0, 1, bytes(66))
        assert sealed.hex() == SESSION["sealed_zero_share_alpha_to_beta"]
        assert ends[1].unseal(0, 1, sealed) == bytes(66)
        with pytest.raises(PayloadError, match="don't open"):
            ends[1].unseal(1, 0, sealed)
        with pytest.raises(PayloadError, match="don't open"):
            ends[1].unseal(0, 1, sealed[:-1] + bytes([sealed[-1] ^ 1]))

    def test_masked_updates_and_their_sum(self) -> None:
        total, wide_total = np.zeros(8, np.uint32), np.zeros(2, np.uint64)
        pair = {tuple(map(int, key.split("-"))): of_hex(seed) for key, seed in SESSION["pair_seeds"].items()}
        ring = Ring(SESSION["bits"], len(self.names), SESSION["range"])
        for seat, name in enumerate(self.names):
            plain = SESSION["plain"][name]
            values, _ = ring.levels(np.array(plain["values"], np.float32))
            assert values.tolist() == plain["levels"]
            wide = np.array(plain["wide"], np.uint64)
            plus = [seed for (low, _), seed in pair.items() if low == seat]
            plus.append(of_hex(SESSION["self_seeds"][name]))
            minus = [seed for (_, high), seed in pair.items() if high == seat]
            add_streams(values, [s[:32] for s in plus], [s[:32] for s in minus])
            add_streams(wide, [s[32:] for s in plus], [s[32:] for s in minus])
            assert values.tolist() == SESSION["masked"][name]["levels"]
            assert wide.tolist() == SESSION["masked"][name]["wide"]
            if name != SESSION["lost"]:
                total += values
                wide_total += wide
        lost = self.names.index(SESSION["lost"])
        own = [of_hex(seed) for name, seed in SESSION["self_seeds"].items() if name != SESSION["lost"]]
        plus = [seed for (low, high), seed in pair.items() if high != lost and low == lost]
        minus = [seed for (low, high), seed in pair.items() if high == lost] + own
        add_streams(total, [s[:32] for s in plus], [s[:32] for s in minus])
        add_streams(wide_total, [s[32:] for s in plus], [s[32:] for s in minus])
        assert total.tolist() == SESSION["sum"]["levels"]
        assert wide_total.tolist() == SESSION["sum"]["wide"]
        assert (
            ring.means(total, 3).tolist()
            == np.array(SESSION["sum"]["decoded_divisor_3"], np.float32).tolist()
        )


def test_a_key_of_low_order_is_no_key() -> None:
    with pytest.raises(PayloadError, match="low order"):
        keys.agreed(bytes(range(32)), [bytes(32)])
