"""A session of secure aggregation from both ends: sums without masks, losses in every phase, time, and liars."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leader.secagg.actions import Ready, Send, Unmask
from leader.secagg.session import Phase
from leader.secagg.unmasking import seeds
from learner.secagg.member import Phase as MemberPhase
from protos import leader_pb2
from tests.secagg import MODEL, Cohort, Words
from utils.errors import PayloadError
from utils.secagg.graph import COLLUDING, LOST, SECURITY, least
from utils.secagg.roster import seats_of


def same(one: Words, other: Words) -> bool:
    return all((a == b).all() for a, b in zip(one, other, strict=True))


def whole(cohort: Cohort) -> Words:
    """Everybody is there to the end; the sum of all that still are."""
    cohort.do(cohort.session.open())
    there = [name for name in cohort.names if name not in cohort.gone]
    total = cohort.collect(there)
    cohort.do(cohort.session.close(there, 0.0))
    cohort.do(cohort.session.unmask(0.0))
    return cohort.unmask(total)


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("count", [3, 4, 16])
def test_the_masks_of_all_cancel_out(count: int, bits: int) -> None:
    cohort = Cohort(count, bits=bits)
    assert same(whole(cohort), cohort.expected(cohort.names))


def test_a_masked_update_alone_looks_like_noise() -> None:
    cohort = Cohort(4)
    cohort.do(cohort.session.open())
    values, wide = cohort.masked(cohort.names[0])
    assert (values >= 2**20).mean() > 0.99  # of the plain ones none is
    assert (wide >= 2**40).all()


def test_a_large_cohort_shares_with_neighbours_alone() -> None:
    count, threshold = least(150, COLLUDING, LOST, SECURITY, active=False)
    cohort = Cohort(150, neighbours=count, neighbour_threshold=threshold)
    cohort.do(cohort.session.open())
    lost = cohort.names[:3]
    cohort.lose(*lost)
    there = cohort.names[3:]
    total = cohort.collect(there)
    cohort.do(cohort.session.close(there, 0.0))
    cohort.do(cohort.session.unmask(0.0))
    assert same(cohort.unmask(total), cohort.expected(there))
    event = cohort.revealed
    assert {len(event.seated.graph.neighbours(seat)) for seat in range(len(event.seated.seats))} == {count}
    assert count < 80
    found = seeds(event.seated, event.survivors, event.answers, MODEL)
    assert len(found.plus) + len(found.minus) <= 147 + 3 * count


def test_whoever_never_sends_keys_has_no_seat_and_costs_nothing() -> None:
    cohort = Cohort(6)
    silent = cohort.names[0]
    cohort.gone.add(silent)
    cohort.do(cohort.session.open())
    cohort.do(cohort.session.tick(9.9), 9.9)
    phases = [cohort.session.phase]
    cohort.do(cohort.session.tick(10.0), 10.0)
    assert [*phases, cohort.session.phase] == [Phase.KEYS, Phase.COLLECTING]
    (ready,) = (event for event in cohort.events if isinstance(event, Ready))
    assert silent not in ready.names
    there = list(ready.names)
    total = cohort.collect(there)
    cohort.do(cohort.session.close(there, 20.0))
    cohort.do(cohort.session.unmask(20.0))
    assert same(cohort.unmask(total), cohort.expected(there))


def test_a_session_does_not_wait_for_a_learner_of_another_that_connects_again() -> None:
    cohort = Cohort(4)
    actions = cohort.session.open()
    assert cohort.session.returned("a stranger") == []
    cohort.do(actions)
    assert cohort.session.phase is Phase.COLLECTING


def test_too_few_keys_end_the_session_in_words() -> None:
    cohort = Cohort(4)
    cohort.gone |= set(cohort.names[:2])
    cohort.do(cohort.session.open())
    cohort.do(cohort.session.tick(10.0), 10.0)
    assert cohort.failure == "2 of 4 learners sent keys, 3 are needed"


def test_too_few_updates_end_it_and_nothing_is_revealed() -> None:
    cohort = Cohort(4)
    cohort.do(cohort.session.open())
    cohort.collect(cohort.names[:2])
    cohort.do(cohort.session.close(cohort.names[:2], 0.0))
    assert cohort.failure == "2 masked updates came, 3 are needed"


def test_a_liar_about_shares_is_left_out_where_others_are_enough() -> None:
    cohort = Cohort(6)  # five of them unmask
    cohort.do(cohort.session.open())
    total = cohort.collect(cohort.names)
    cohort.do(cohort.session.close(cohort.names, 0.0))
    liar, slow = min(cohort.names), max(cohort.names)
    truth = cohort.answer
    held: list[tuple[str, leader_pb2.MaskUp]] = []

    def answer(send: Send) -> leader_pb2.MaskUp | None:
        said = truth(send)
        if send.name == slow and said is not None and said.HasField("revealed"):
            held.append((slow, said))
            return None
        return _flipped(said) if send.name == liar else said

    cohort.answer = answer  # type: ignore[method-assign]
    cohort.do(cohort.session.unmask(0.0))
    assert len(cohort.revealed.answers) == 5
    with pytest.raises(PayloadError, match="5 that fit are needed"):
        cohort.unmask(total)
    cohort.do(cohort.session.misfit(0.0, ""))
    cohort.do(cohort.session.heard(*held.pop(), 0.0))
    assert same(cohort.unmask(total), cohort.expected(cohort.names))


@pytest.mark.parametrize("liars", [1, 4])
def test_of_many_a_few_liars_are_found_wherever_they_sit(liars: int) -> None:
    """There are 346,104 sets of 17 of the 24, and the first of these learners would be in most of them."""
    cohort = Cohort(24)
    cohort.do(cohort.session.open())
    total = cohort.collect(cohort.names)
    cohort.do(cohort.session.close(cohort.names, 0.0))
    lying, truth = sorted(cohort.names)[:liars], cohort.answer
    cohort.answer = lambda send: _flipped(truth(send)) if send.name in lying else truth(send)  # type: ignore[method-assign]
    cohort.do(cohort.session.unmask(0.0))
    cohort.do(cohort.session.misfit(0.0, ""))  # of the first 17 the liars are some
    assert len(cohort.revealed.answers) == 24
    assert same(cohort.unmask(total), cohort.expected(cohort.names))


def test_what_comes_while_secrets_are_put_together_is_tried_next() -> None:
    cohort = Cohort(6)
    cohort.do(cohort.session.open())
    total = cohort.collect(cohort.names)
    cohort.do(cohort.session.close(cohort.names, 0.0))
    truth, liar = cohort.answer, min(cohort.names)
    cohort.answer = lambda send: _flipped(truth(send)) if send.name == liar else truth(send)  # type: ignore[method-assign]
    cohort.do(cohort.session.unmask(0.0))
    first = next(event for event in cohort.events if isinstance(event, Unmask))
    assert len(first.answers) == 5  # and the sixth is here by now
    cohort.do(cohort.session.misfit(0.0, "5 that fit are needed"))
    assert len(cohort.revealed.answers) == 6
    assert same(cohort.unmask(total), cohort.expected(cohort.names))
    cohort.do(cohort.session.misfit(0.0, "5 that fit are needed"))
    assert cohort.failure == "5 that fit are needed"


def _flipped(said: leader_pb2.MaskUp | None) -> leader_pb2.MaskUp | None:
    if said is not None and said.HasField("revealed"):
        said.revealed.shares = bytes(byte ^ (at % 33 == 32) for at, byte in enumerate(said.revealed.shares))
    return said


def test_with_too_few_right_shares_the_sum_stays_masked() -> None:
    cohort = Cohort(4)
    cohort.do(cohort.session.open())
    cohort.collect(cohort.names)
    cohort.do(cohort.session.close(cohort.names, 0.0))
    truth = cohort.answer
    cohort.answer = lambda send: _flipped(truth(send)) if send.name in cohort.names[:2] else truth(send)  # type: ignore[method-assign]
    cohort.do(cohort.session.unmask(0.0))
    event = cohort.revealed
    with pytest.raises(PayloadError, match="3 that fit are needed"):
        seeds(event.seated, event.survivors, event.answers, MODEL)


def test_another_model_gives_noise() -> None:
    """A leader that gave one learner a model of its own learns nothing from its update (Pasquini et al. 2022)."""
    cohort = Cohort(4)
    cohort.do(cohort.session.open())
    values, wide = cohort.plain(cohort.names[0])
    cohort.members[cohort.names[0]].mask(values, wide, b"x" * 32)
    others = cohort.collect(cohort.names[1:])
    cohort.do(cohort.session.close(cohort.names, 0.0))
    cohort.do(cohort.session.unmask(0.0))
    total = cohort.unmask((values + others[0], wide + others[1]))
    assert not (total[0] == cohort.expected(cohort.names)[0]).any()


@st.composite
def stories(draw: st.DrawFn) -> tuple[int, list[tuple[str, int]]]:
    """A size, and who is lost when."""
    count = draw(st.integers(4, 9))
    who = draw(st.permutations(range(count)))
    lost = draw(st.integers(0, count // 2))
    when = st.sampled_from(["keys", "shares", "training", "uploaded"])
    return count, [(draw(when), one) for one in who[:lost]]


@settings(max_examples=300, deadline=None)
@given(stories(), st.randoms(use_true_random=False))
def test_losses_in_any_phase_end_in_the_right_sum_or_in_none(
    story: tuple[int, list[tuple[str, int]]], random: object
) -> None:
    count, losses = story
    cohort = Cohort(count)
    lost = {when: [cohort.names[n] for at, n in losses if at == when] for when, _ in losses}
    need = max(cohort.plan.threshold, 3)
    cohort.gone |= set(lost.get("keys", []))
    cohort.do(cohort.session.open())
    if lost.get("keys"):
        cohort.do(cohort.session.tick(10.0), 10.0)
    there = [name for name in cohort.names if name not in cohort.gone]
    if len(there) < need:
        assert "sent keys" in cohort.failure
        return
    assert cohort.session.phase is Phase.COLLECTING
    cohort.lose(*lost.get("shares", []), *lost.get("training", []), now=11.0)
    sent = [name for name in there if name not in cohort.gone]
    total = cohort.collect(sent)
    cohort.do(cohort.session.close(sent, 12.0), 12.0)
    if len(sent) < need:
        assert "masked updates came" in cohort.failure
        return
    cohort.lose(*lost.get("uploaded", []), now=13.0)
    cohort.do(cohort.session.unmask(13.0), 13.0)
    if not any(isinstance(event, Unmask) for event in cohort.events):
        cohort.do(cohort.session.tick(23.0), 23.0)
    answered = [name for name in sent if name not in cohort.gone]
    if len(answered) < cohort.plan.threshold:
        assert (
            cohort.failure == f"{len(answered)} learners revealed shares, {cohort.plan.threshold} are needed"
        )
        return
    survivors = cohort.revealed.survivors
    assert set(seats_of(survivors.in_sum, len(there))) == {sorted(there).index(n) for n in sent}
    assert same(cohort.unmask(total), cohort.expected(sent))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"share_key": b"short"}, "32 bytes"),
        ({"mask_key": b""}, "32 bytes"),
        ({"self_hash": bytes(33)}, "32 bytes"),
        ({"identity": bytes(5000)}, "at most 4096"),
        ({"signature": bytes(5000)}, "at most 4096"),
    ],
)
def test_keys_that_can_be_none_are_refused(said: dict[str, object], why: str) -> None:
    cohort = Cohort(4)
    message = leader_pb2.MaskUp()
    message.CopyFrom(cohort.members[cohort.names[0]].advert)
    for field in said:
        message.advert.ClearField(field)
    message.advert.MergeFrom(leader_pb2.Advert(**said))  # type: ignore[arg-type]
    with pytest.raises(PayloadError, match=why):
        cohort.session.heard(cohort.names[0], message, 0.0)


def test_another_learners_keys_and_other_keys_than_before_are_refused() -> None:
    cohort = Cohort(4)
    one, other = cohort.names[:2]
    cohort.session.heard(one, cohort.members[one].advert, 0.0)
    with pytest.raises(PayloadError, match="the same share_key"):
        cohort.session.heard(other, cohort.members[one].advert, 0.0)
    with pytest.raises(PayloadError, match="does not have"):
        cohort.session.heard("stranger", cohort.members[one].advert, 0.0)
    cohort.do(cohort.session.open())
    cohort.session.heard(one, cohort.members[one].advert, 0.0)  # once more, as after a reconnect
    with pytest.raises(PayloadError, match="too late"):
        cohort.session.heard(one, Cohort(4).members[one].advert, 0.0)


def shared(cohort: Cohort) -> dict[str, leader_pb2.MaskUp]:
    """The session up to the rosters: what each learner answers to its own."""
    answers = {}
    for name, member in cohort.members.items():
        actions = cohort.session.heard(name, member.advert, 0.0)
    for action in actions:
        assert isinstance(action, Send)
        answer = cohort.answer(action)
        assert answer is not None
        answers[action.name] = answer
    return answers


def test_shares_that_are_not_for_each_neighbour_once_are_refused() -> None:
    cohort = Cohort(4)
    name, answer = next(iter(shared(cohort).items()))
    for change in (
        lambda s: s.__delitem__(0),
        lambda s: setattr(s[0], "seat", s[1].seat),
        lambda s: setattr(s[0], "seat", 99),
        lambda s: setattr(s[0], "sealed", b"short"),
        lambda s: s.add(seat=3, sealed=bytes(82)),
    ):
        bad = leader_pb2.MaskUp()
        bad.CopyFrom(answer)
        change(bad.shares.shares)
        with pytest.raises(PayloadError, match="once, 82 bytes"):
            cohort.session.heard(name, bad, 0.0)
    cohort.session.heard(name, answer, 0.0)
    other = leader_pb2.MaskUp()
    other.CopyFrom(answer)
    other.shares.shares[0].sealed = bytes(82)
    with pytest.raises(PayloadError, match="others than before"):
        cohort.session.heard(name, other, 0.0)


def test_who_never_sends_shares_is_masked_with_by_nobody() -> None:
    cohort = Cohort(6)  # five unmask
    answers = shared(cohort)
    silent, *others = answers
    for name in others:
        cohort.do(cohort.session.heard(name, answers[name], 0.0))
    assert cohort.session.phase is Phase.SHARES
    cohort.do(cohort.session.tick(10.0), 10.0)
    total = cohort.collect(others)
    cohort.do(cohort.session.close([silent, *others], 11.0))
    cohort.do(cohort.session.unmask(11.0))
    assert same(cohort.unmask(total), cohort.expected(others))


def test_an_agreement_that_nobody_asked_for_is_nothing() -> None:
    cohort = Cohort(4)
    shared(cohort)
    agreed = leader_pb2.MaskUp(agreed=leader_pb2.Agreed(signature=b"s"))
    assert cohort.session.heard(cohort.names[0], agreed, 0.0) == []


def test_a_revelation_of_another_size_is_refused() -> None:
    cohort = Cohort(4)
    cohort.do(cohort.session.open())
    cohort.collect(cohort.names)
    cohort.do(cohort.session.close(cohort.names, 0.0))
    cohort.gone |= set(cohort.names)
    cohort.do(cohort.session.unmask(0.0))
    revealed = leader_pb2.MaskUp(revealed=leader_pb2.Revealed(shares=bytes(33 * 3)))
    with pytest.raises(PayloadError, match="33 bytes for each seat"):
        cohort.session.heard(cohort.names[0], revealed, 0.0)


def test_who_refuses_is_not_waited_for() -> None:
    cohort = Cohort(4)
    refused = leader_pb2.MaskUp(refused=leader_pb2.MaskRefused(reason="no"))
    *others, last = cohort.names
    for name in others:
        cohort.do(cohort.session.heard(name, cohort.members[name].advert, 0.0))
    assert cohort.session.phase is Phase.KEYS
    cohort.do(cohort.session.heard(last, refused, 0.0))
    assert cohort.phases()[others[0]] is MemberPhase.READY


@pytest.mark.parametrize(("count", "enough"), [(4, 2), (6, 2), (7, 3), (12, 4)])
def test_whose_shares_do_not_open_is_blamed_by_a_third_of_all_and_by_no_fewer(
    count: int, enough: int
) -> None:
    cohort = Cohort(count)
    cohort.do(cohort.session.open())
    liar, *others = sorted(cohort.names)
    said = leader_pb2.MaskUp(
        refused=leader_pb2.MaskRefused(reason="don't open", unopened=[0, count, 1 << 20])
    )
    for name in (liar, *others[: enough - 1], others[0]):  # each counts once, and its own do not
        assert cohort.session.complaints.blamed == frozenset()
        cohort.session.heard(name, said, 0.0)
    assert cohort.session.complaints.blamed == frozenset()
    cohort.session.heard(others[enough - 1], said, 0.0)
    assert cohort.session.complaints.blamed == {liar}


def test_who_has_lost_its_secrets_sends_nothing_more_and_is_in_the_sum_if_it_was() -> None:
    """A learner that was restarted refuses all that it is told of a session that it does not know."""
    cohort = Cohort(6)  # five unmask
    cohort.do(cohort.session.open())
    lost, *others = cohort.names
    total = cohort.collect(cohort.names)
    refused = leader_pb2.MaskUp(refused=leader_pb2.MaskRefused(reason="in no such session"))
    assert cohort.session.heard(lost, refused, 0.0) == [Ready(tuple(sorted(others)))]
    cohort.do(cohort.session.close(cohort.names, 0.0))
    cohort.gone.add(lost)
    cohort.do(cohort.session.unmask(0.0))
    assert same(cohort.unmask(total), cohort.expected(cohort.names))


def test_who_is_away_when_the_sum_is_to_be_revealed_is_waited_for() -> None:
    cohort = Cohort(4)  # three unmask
    cohort.do(cohort.session.open())
    total = cohort.collect(cohort.names)
    away, back, *_ = cohort.names
    cohort.do(cohort.session.close(cohort.names, 0.0))
    cohort.lose(away, back)
    cohort.do(cohort.session.unmask(0.0))
    cohort.do(cohort.session.tick(9.9), 9.9)
    assert cohort.session.phase is Phase.REVEALING
    cohort.gone.discard(back)
    cohort.do(cohort.session.returned(back), 9.9)
    assert same(cohort.unmask(total), cohort.expected(cohort.names))


def test_too_few_answers_end_it_when_their_time_is_up_or_nobody_else_can_answer() -> None:
    for refusing in (False, True):
        cohort = Cohort(4)
        cohort.do(cohort.session.open())
        cohort.collect(cohort.names)
        cohort.do(cohort.session.close(cohort.names, 0.0))
        cohort.lose(*cohort.names[:2])
        cohort.do(cohort.session.unmask(0.0))
        if refusing:
            refused = leader_pb2.MaskUp(refused=leader_pb2.MaskRefused(reason="in no such session"))
            for name in cohort.names[:2]:
                assert cohort.failure == ""
                cohort.do(cohort.session.heard(name, refused, 1.0), 1.0)
        else:
            cohort.do(cohort.session.tick(10.0), 10.0)
        assert cohort.failure == "2 learners revealed shares, 3 are needed"


def test_wrong_shares_are_waited_on_no_longer_than_right_ones() -> None:
    cohort = Cohort(4)
    cohort.do(cohort.session.open())
    cohort.collect(cohort.names)
    cohort.do(cohort.session.close(cohort.names, 0.0))
    cohort.lose(cohort.names[0])
    cohort.do(cohort.session.unmask(0.0))
    assert isinstance(cohort.events[-1], Unmask)
    cohort.do(cohort.session.misfit(5.0, "wrong"), 5.0)
    assert cohort.session.deadline == 10.0
    cohort.do(cohort.session.tick(10.0), 10.0)
    assert cohort.failure == "wrong"
