"""Signed runs over real gRPC and TLS, with leaders that lie: learners refuse by name, and nothing is laid open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from leader.events import LearnerLeft, RoundCommitted, UpdateAccepted
from leader.learners.membership import Member
from leader.secagg.actions import Action, Send
from leader.secagg.masked_sum import MaskedSum
from leader.training.exchanges import kinds
from leader.training.exchanges.masked import MaskedExchange
from learner.secagg.signing import Signer
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.cluster.test_masked import FOUR, MASKED
from tests.clusters import Settings, join, play, train
from tests.leader.trust.fleet import Fleet
from tests.tools.clock import TurnedClock
from utils.errors import ConfigError
from utils.secagg import keys
from utils.secagg.roster import bit_set, order_bytes, signed_advert

KEYS_S = 60.0  # in which a session has the keys of all, and after which another one begins


def signed(folder: Path) -> Settings:
    return {**MASKED, "secagg.mode": "signed", "trust.mode": "on", "trust.dir": folder / "trust"}


def test_with_64_bits_the_weights_are_those_of_the_runs_without_signatures_and_without_masks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "peers").write_text("a\nb\nc # the third\n\nd\n")

    async def scenario(cluster: Cluster) -> None:
        for name in "abcd":
            join(cluster, name, secagg="signed", peers=tmp_path / "peers" if name < "c" else None)
        await cluster.finished()
        assert cluster.summary["privacy"] == {"mode": "signed", "least": 3}

    with caplog.at_level(logging.INFO):
        run = play(scenario, {**signed(tmp_path), "secagg.bits": 64})
    assert run.model_sha256 == play(train, FOUR).model_sha256
    assert run.model_sha256 == play(train, {**MASKED, "secagg.bits": 64}).model_sha256
    assert "whatever it tells to whom, while fewer than a third of the learners work for it" in caplog.text
    assert (
        "masks with whom the leader's CA certifies; --peers pins them; for the others' --peers: c "
        in caplog.text
    )


def test_who_has_no_identity_does_not_even_begin_where_it_asks_for_signatures(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        error = await cluster.failed(join(cluster, "a", secagg="signed"))
        assert isinstance(error, ConfigError)
        assert str(error) == (
            "--secagg signed: this learner has no identity to sign with; join with --join TOKEN"
        )

    play(scenario, MASKED)


class Liar(MaskedExchange):
    """A leader's exchange of which one part lies; it notes what learners refuse and what they lay open."""

    lie: ClassVar[Callable[[Liar, str, leader_pb2.MaskDown], None]]
    refused: ClassVar[dict[str, str]]  # why, by name
    revealed: ClassVar[set[str]]
    enough: ClassVar[asyncio.Event]  # set once `awaited` have refused
    awaited: ClassVar[int]
    #: Adverts of the session before, by name.
    before: ClassVar[dict[str, leader_pb2.Advert]]

    def _take(self, total: MaskedSum) -> None:
        super()._take(total)
        does = self._group._do

        def do(actions: Iterable[Action]) -> None:
            does([self._changed(action) for action in actions])

        self._group._do = do  # type: ignore[method-assign]

    def _changed(self, action: Action) -> Action:
        if not isinstance(action, Send):
            return action
        message = leader_pb2.MaskDown()
        message.CopyFrom(action.message)
        Liar.lie(self, action.name, message)
        return Send(action.name, message)

    def heard(self, member: Member, message: leader_pb2.MaskUp) -> None:
        """See MaskedExchange."""
        if message.HasField("refused"):
            Liar.refused[member.name] = message.refused.reason
            if len(Liar.refused) == Liar.awaited:
                Liar.enough.set()
        if message.HasField("revealed"):
            Liar.revealed.add(member.name)
        if message.HasField("agreed") and self.agreed(member, message):
            return
        super().heard(member, message)

    def agreed(self, member: Member, message: leader_pb2.MaskUp) -> bool:
        """Whether the lie makes of an agreement what it wants."""
        return False


Lie = Callable[[Liar, str, leader_pb2.MaskDown], None]


def lied_to(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    lie: Lie,
    count: int,
    *,
    kind: type[Liar] = Liar,
    peers: Path | None = None,
) -> dict[str, str]:
    """Why each learner refuses what a lying leader says, once so many have; nothing may have been laid open."""
    monkeypatch.setattr(kinds, "MaskedExchange", kind)

    async def scenario(cluster: Cluster) -> None:
        Liar.lie, Liar.awaited = lie, count
        Liar.refused, Liar.revealed, Liar.before, Liar.enough = {}, set(), {}, asyncio.Event()
        for name in "abcd":
            join(cluster, name, secagg="signed", peers=peers)
        async with asyncio.timeout(30):
            await Liar.enough.wait()

    run = play(scenario, settings)
    assert not Liar.revealed
    assert not run.seen(RoundCommitted)
    if kind is Liar:
        assert not run.seen(UpdateAccepted)  # it did not come that far
    return Liar.refused


def seat_of(message: leader_pb2.MaskDown, name: str) -> leader_pb2.Seat:
    return next(seat for seat in message.roster.seats if seat.name == name)


def swapped_key(liar: Liar, to: str, message: leader_pb2.MaskDown) -> None:
    """All are told the leader's own key as b's: a man in the middle."""
    if message.HasField("roster"):
        seat_of(message, "b").advert.mask_key = keys.public(b"l" * 32)


def test_a_key_that_is_swapped_for_all_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        refused = lied_to(monkeypatch, signed(tmp_path), swapped_key, 4)
    assert refused == {
        **dict.fromkeys("acd", "the advert of b is not signed by it"),
        "b": "this learner's own seat in the roster is not as it advertised",
    }
    assert "masks: the advert of b is not signed by it" in caplog.text  # at the learners
    assert "masks: c refuses: the advert of b is not signed by it" in caplog.text  # and at the leader


class Sybil:
    """Puts a learner of the leader's making, eve, in the place of d."""

    def __init__(self, fleet: Fleet, *, only: str = "abcd") -> None:
        self._signer = Signer(fleet.admit("eve"), None)
        self._only = only  # who is told so

    def __call__(self, liar: Liar, to: str, message: leader_pb2.MaskDown) -> None:
        """See Lie."""
        if not message.HasField("roster") or to not in self._only:
            return
        seat = seat_of(message, "d")
        seat.name = "eve"
        seat.advert.mask_key, seat.advert.share_key = keys.public(b"m" * 32), keys.public(b"s" * 32)
        seat.advert.self_hash, seat.advert.identity = b"h" * 32, self._signer.identity
        order = order_bytes(liar.orders.order("own-a"))
        seat.advert.signature = self._signer.sign(signed_advert(message.session, order, "eve", seat.advert))


def test_a_learner_that_the_leader_made_up_is_refused_unless_the_fleets_ca_has_certified_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sybil = Sybil(Fleet(tmp_path / "elsewhere"))
    refused = lied_to(monkeypatch, signed(tmp_path), sybil, 4)
    for name in "abc":
        assert refused[name] == (
            "the advert of eve is not signed by it: its certificate is none of this fleet's CA"
        )


def test_one_that_the_fleets_ca_has_certified_is_refused_by_who_pins_its_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = tmp_path / "peers"
    peers.write_text("a\nb\nc\nd\n")
    refused = lied_to(monkeypatch, signed(tmp_path), Sybil(Fleet(tmp_path / "trust")), 4, peers=peers)
    for name in "abc":
        assert refused[name] == f"eve is none of those that this learner masks with (--peers {peers})"


def test_another_list_of_members_for_some_lets_no_shares_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of them are told of eve, whom the leader's CA has certified, half of d."""
    sybil = Sybil(Fleet(tmp_path / "trust"), only="ab")
    refused = lied_to(monkeypatch, signed(tmp_path), sybil, 4)
    closed = "sealed shares that don't open: another roster, order or learner"
    assert refused == {"a": f"c: {closed}", "b": f"c: {closed}", "c": f"a: {closed}", "d": f"a: {closed}"}


def replayed(liar: Liar, to: str, message: leader_pb2.MaskDown) -> None:
    """The first session comes to nothing, and b's advert of then is shown in the second."""
    if not message.HasField("roster"):
        return
    if to == "a" and not Liar.before:
        Liar.before["b"] = leader_pb2.Advert()
        Liar.before["b"].CopyFrom(seat_of(message, "b").advert)
    if seat_of(message, "b").advert == Liar.before.get("b"):
        message.roster.you = 9  # nobody's
        return
    seat_of(message, "b").advert.CopyFrom(Liar.before["b"])


class Again(Liar):
    """Waits for the second session, which soon begins."""

    clock: ClassVar[TurnedClock]

    def heard(self, member: Member, message: leader_pb2.MaskUp) -> None:
        """See MaskedExchange."""
        first = message.HasField("refused") and "own seat" in message.refused.reason and member.name != "b"
        if first:
            MaskedExchange.heard(self, member, message)
        else:
            super().heard(member, message)
        if self._group._session is None:  # all have refused
            Again.clock.turn(KEYS_S)


def test_an_advert_of_a_session_before_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: TurnedClock
) -> None:
    Again.clock = clock
    settings = {**signed(tmp_path), "secagg.keys_s": KEYS_S}
    refused = lied_to(monkeypatch, settings, replayed, 4, kind=Again)
    for name in "acd":
        assert refused[name] == "the advert of b is not signed by it"


class OtherOrder(Liar):
    """Has a train otherwise than the others, so that the sum would tell it; and believes all signatures."""

    def __init__(self, engine: Any, *given: Any) -> None:
        engine.signed = lambda *proof: None
        super().__init__(engine, *given)

    def _order(self, step: int, part: Any) -> leader_pb2.WorkOrder:
        order = super()._order(step, part)
        if part.id == "own-a":
            order.momentum = 0.5
        return order


def honest(liar: Liar, to: str, message: leader_pb2.MaskDown) -> None:
    """No lie in the session."""


def test_another_order_for_one_is_refused_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = lied_to(monkeypatch, signed(tmp_path), honest, 4, kind=OtherOrder)
    assert refused == {
        "a": "the advert of b is not signed by it",
        **dict.fromkeys("bcd", "the advert of a is not signed by it"),
    }


class Unsigned(Liar):
    """Plans sessions without signatures, or such as few could agree to twice."""

    def _order(self, step: int, part: Any) -> leader_pb2.WorkOrder:
        self._plan.signed = False
        return super()._order(step, part)


def test_sessions_without_signatures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "MaskedExchange", Unsigned)

    async def scenario(cluster: Cluster) -> None:
        Liar.lie, Liar.refused = honest, {}
        strict = [join(cluster, name, secagg="signed") for name in "abcd"]
        for error in await asyncio.gather(*map(cluster.failed, strict)):
            assert str(error) == "this learner takes part in signed sessions alone (--secagg signed)"
        await cluster.until(lambda: len(cluster.seen(LearnerLeft)) == 4, "somebody stays")
        assert not Liar.refused

    play(scenario, signed(tmp_path))


class TwoViews(Liar):
    """Shows a and b other survivors than c and d, and all the signatures that it can get."""

    def __init__(self, *given: Any) -> None:
        self._told: dict[str, bytes] = {}
        super().__init__(*given)

    def _changed(self, action: Action) -> Action:
        if isinstance(action, Send) and action.message.HasField("survivors") and action.name in "ab":
            action.message.survivors.CopyFrom(self.without_d)
        return action

    @property
    def without_d(self) -> leader_pb2.Survivors:
        return leader_pb2.Survivors(in_sum=bit_set([0, 1, 2], 4), masked_with=bit_set(range(4), 4))

    def agreed(self, member: Member, message: leader_pb2.MaskUp) -> bool:
        """See Liar."""
        told = self._told
        told[member.name] = message.agreed.signature
        if len(told) < 4:
            return True
        session = self._group._session
        assert session is not None
        for each in self._engine.workforce:
            view = self.without_d if each.name in "ab" else session.survivors
            seats = [name for name in "abcd" if each.name in "cd" or name != "d"]
            shares = [leader_pb2.Share(seat="abcd".index(name), sealed=told[name]) for name in seats]
            reveal = leader_pb2.Reveal(survivors=view, signatures=shares)
            each.link.mask(leader_pb2.MaskDown(session=session.session, reveal=reveal))
        return True


def test_two_views_of_who_is_in_the_sum_are_shown_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The difference of the two sums would be d's update."""
    refused = lied_to(monkeypatch, signed(tmp_path), honest, 4, kind=TwoViews)
    assert refused == {
        **dict.fromkeys("ab", "the agreement of c is not signed by it"),
        **dict.fromkeys("cd", "the agreement of a is not signed by it"),
    }
