from __future__ import annotations

import math

import pytest

from leader.learners.membership import Member, Membership, OwnData
from leader.trust.identities.callers import Caller, anonymous
from protos import leader_pb2
from utils.errors import (
    ForbiddenError,
    IncompatibleError,
    LimitError,
    NameTakenError,
    PayloadError,
    UnknownLearnerError,
)
from utils.version import PROTOCOL

ANYBODY = anonymous("ipv4:9.9.9.9:9")
SESSION, PLAIN = leader_pb2.CONTROL_SESSION, leader_pb2.CONTROL_PLAIN


def full(name: str = "a", token: bytes = b"") -> leader_pb2.LearnerInfo:
    return leader_pb2.LearnerInfo(
        protocol=PROTOCOL, name=name, token=token, device="cpu (1 thread)", control=SESSION
    )


def plain(address: str = "") -> leader_pb2.LearnerInfo:
    return leader_pb2.LearnerInfo(network_addr=address)


def members(most: int = 10, lease_s: float = 5.0) -> Membership:
    return Membership(max_learners=most, lease_s=lease_s)


def joined(register: Membership, info: leader_pb2.LearnerInfo, peer: str = "ipv4:1.1.1.1:1") -> Member:
    member, new = register.register(info, anonymous(peer), 0.0)
    assert new
    return member


def test_learners_are_numbered_from_one_in_the_order_they_come() -> None:
    register = members()
    assert [joined(register, full(name)).learner_id for name in ("b", "a", "c")] == [1, 2, 3]
    assert [member.name for member in register] == ["b", "a", "c"]
    assert len(register) == 3


def test_tokens_are_sixteen_bytes_and_secret() -> None:
    register = members()
    tokens = {joined(register, full(str(i))).token for i in range(10)}
    assert len(tokens) == 10
    assert {len(token) for token in tokens} == {16}
    member = next(iter(register))
    assert member.token.hex() not in repr(member)
    assert repr(member.token) not in repr(member)


def test_a_learner_is_found_by_its_token_alone() -> None:
    register = members()
    member = joined(register, full())
    assert register.by_token(member.token, ANYBODY) is member
    for wrong in (b"", b"x" * 16, member.token[:-1]):
        with pytest.raises(UnknownLearnerError, match="register again"):
            register.by_token(wrong, ANYBODY)


def test_a_learner_without_a_name_gets_one_of_its_own() -> None:
    register = members()
    names = {joined(register, full("")).name for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("learner-") for name in names)


def test_a_name_in_use_is_refused_without_its_token() -> None:
    register = members()
    first = joined(register, full())
    first.connected = True
    for token in (b"", b"x" * 16):
        with pytest.raises(NameTakenError, match="a learner named 'a' is connected already"):
            register.register(full(token=token), anonymous("peer"), 1.0)
    assert register.by_token(first.token, ANYBODY) is first


def test_a_learner_that_proves_itself_keeps_its_id_and_its_token() -> None:
    register = members(most=1)
    first = joined(register, full())
    first.connected = True
    again, new = register.register(full(token=first.token), anonymous("ipv4:2.2.2.2:2"), 1.0)
    assert not new
    assert (again.learner_id, again.token) == (first.learner_id, first.token)
    assert register.get(first.learner_id) is again
    assert register.by_token(first.token, ANYBODY) is again


def test_nobody_chooses_a_token() -> None:
    register = members()
    first = joined(register, full("a", token=b"x" * 16))
    assert first.token != b"x" * 16
    second = joined(register, full("b", token=first.token))
    assert second.token != first.token
    assert register.by_token(first.token, ANYBODY) is first


def test_who_has_no_token_waits_until_the_learner_that_lost_its_connection_could_have_come_back() -> None:
    register = members(lease_s=8.0)
    first = joined(register, full())
    first.parted = 3.0
    here, elsewhere = anonymous("ipv4:1.1.1.1:2"), anonymous("ipv4:2.2.2.2:2")
    for caller, now in ((here, 4.999), (elsewhere, 5.0), (elsewhere, 10.999)):
        with pytest.raises(
            NameTakenError, match="the name 'a' is kept for a while for the learner that had it"
        ):
            register.register(full(), caller, now)
    again, new = register.register(full(), here, 5.0)
    assert (new, again.learner_id, again.parted) == (False, first.learner_id, 5.0)
    assert again.token != first.token
    with pytest.raises(UnknownLearnerError):
        register.by_token(first.token, ANYBODY)
    register.remove(again)  # as when its lease has run out
    assert joined(register, full(), "ipv4:2.2.2.2:2").learner_id == first.learner_id


def restarted(*claimed: str) -> tuple[Membership, dict[str, bytes]]:
    """A register after a restart at 100 s, and the tokens from before it."""
    before = members(lease_s=8.0)
    tokens = {name: joined(before, full(name)).token for name in claimed}
    joined(before, plain("c"))
    before.register(full(""), known("clinic-a"), 0.0)
    claims = before.claims(0.0)
    assert claims.keys() == {*claimed, "plain-c"}
    assert not [token for token in tokens.values() if token.hex() in repr(claims)]
    return Membership(max_learners=10, lease_s=8.0, claims=claims, began=100.0), tokens


def test_after_a_restart_a_name_is_its_owners_by_the_token_from_before() -> None:
    register, tokens = restarted("a", "b")
    thief = anonymous("ipv4:2.2.2.2:2")
    for token in (b"", tokens["b"]):
        with pytest.raises(NameTakenError, match="the name 'a' is kept for a while"):
            register.register(full("a", token), thief, 100.1)
    owner, new = register.register(full("a", tokens["a"]), anonymous("ipv4:3.3.3.3:3"), 100.2)
    assert (new, owner.token) == (True, tokens["a"])
    assert register.claims(100.2).keys() == {"a", "b", "plain-c"}


def test_after_a_restart_a_name_is_free_to_its_host_and_then_to_all() -> None:
    register, _ = restarted("a", "b")
    here, elsewhere = anonymous("ipv4:1.1.1.1:2"), anonymous("ipv4:2.2.2.2:2")
    for caller, now in ((here, 101.999), (elsewhere, 107.999)):
        with pytest.raises(NameTakenError):
            register.register(full("a"), caller, now)
    assert register.register(full("a"), here, 102.0)[1]
    assert register.register(full("b"), elsewhere, 108.0)[1]
    assert register.claims(108.0).keys() == {"a", "b"}


def test_after_a_restart_a_plain_learner_comes_back_from_its_host() -> None:
    register, _ = restarted()
    with pytest.raises(NameTakenError):
        register.register(plain("c"), anonymous("ipv4:2.2.2.2:2"), 100.0)
    assert register.register(plain("c"), anonymous("ipv4:1.1.1.1:2"), 100.0)[1]


def test_a_name_keeps_its_id_after_the_learner_left() -> None:
    register = members()
    first, second = joined(register, full("a")), joined(register, full("b"))
    assert register.remove(first)
    assert register.get(first.learner_id) is None
    assert joined(register, full("a")).learner_id == first.learner_id
    assert joined(register, full("c")).learner_id == second.learner_id + 1


def test_ids_stay_unique_when_many_names_come_and_go() -> None:
    register = members(most=2)
    stays = joined(register, full("stays"))
    seen = {stays.learner_id}
    for i in range(2000):
        member = joined(register, full(f"guest-{i}"))
        assert member.learner_id not in seen
        seen.add(member.learner_id)
        register.remove(member)
    again, _ = register.register(full("stays", stays.token), anonymous("peer"), 1.0)
    assert again.learner_id == stays.learner_id
    assert len(register._known_ids) < 1000


def test_only_the_registration_that_holds_can_be_removed() -> None:
    register = members()
    first = joined(register, full())
    second, _ = register.register(full(token=first.token), anonymous("peer"), 1.0)
    assert not register.remove(first)
    assert register.by_token(second.token, ANYBODY) is second
    assert register.remove(second)
    assert not register.remove(second)
    with pytest.raises(UnknownLearnerError):
        register.by_token(second.token, ANYBODY)


def test_no_more_learners_than_the_limit_are_taken_until_one_leaves() -> None:
    register = members(most=2)
    first = joined(register, full("a"))
    joined(register, full("b"))
    with pytest.raises(LimitError, match=r"2 learners are registered, no more are taken"):
        register.register(full("c"), anonymous("peer"), 1.0)
    register.remove(first)
    joined(register, full("c"))


# --- plain learners ------------------------------------------------------------------------


def connections(*open_: str) -> Membership:
    """A register that knows which connections are open."""
    return Membership(max_learners=10, lease_s=5.0, stands=lambda peer: peer in open_)


def test_a_plain_learner_is_told_by_its_connection_and_where_that_is_gone_by_its_address_or_host() -> None:
    register = connections("ipv4:10.0.0.1:222")
    a = joined(register, plain("10.0.0.1:9"), "ipv4:10.0.0.1:111")
    b = joined(register, plain("10.0.0.1:8"), "ipv4:10.0.0.1:222")
    c = joined(register, plain(), "ipv4:10.0.0.3:333")
    assert register.by_address("", anonymous("ipv4:10.0.0.1:222"), 0.0) is b
    assert register.by_address("10.0.0.1:8", anonymous("ipv4:10.0.0.1:111"), 0.0) is a  # whatever it says
    assert register.by_address("", anonymous("ipv4:10.0.0.3:444"), 0.0) is c
    assert register.by_address("10.0.0.1:9", anonymous("ipv4:10.0.0.1:999"), 0.0) is a
    assert a.identity == "ipv4:10.0.0.1:999"  # its connection from now on
    for stranger in ("ipv4:10.0.0.1:888", "ipv4:10.0.0.30:333"):
        with pytest.raises(UnknownLearnerError, match="can't tell which learner"):
            register.by_address("", anonymous(stranger), 0.0)


def test_two_plain_learners_on_one_connection_are_told_by_their_addresses() -> None:
    register = connections("ipv4:10.0.0.1:111")
    a, b = (joined(register, plain(address), "ipv4:10.0.0.1:111") for address in "ab")
    assert register.by_address("a", anonymous("ipv4:10.0.0.1:111"), 0.0) is a
    assert register.by_address("b", anonymous("ipv4:10.0.0.1:111"), 0.0) is b


def test_a_plain_learners_place_is_its_connections_as_long_as_that_stands() -> None:
    register = connections("ipv4:1.1.1.1:1")
    first = joined(register, plain("host"))
    for stranger in ("ipv4:1.1.1.1:2", "ipv4:2.2.2.2:2"):
        with pytest.raises(UnknownLearnerError):
            register.by_address("host", anonymous(stranger), 1000.0)
        with pytest.raises(NameTakenError):
            register.register(plain("host"), anonymous(stranger), 1000.0)
    assert (
        register.register(plain("host"), anonymous("ipv4:1.1.1.1:1"), 1.0)[0].learner_id == first.learner_id
    )


def test_another_host_gets_a_plain_learners_place_once_it_was_silent_for_a_lease() -> None:
    register = connections()
    first = joined(register, plain("host"))
    elsewhere = anonymous("ipv4:2.2.2.2:2")
    with pytest.raises(NameTakenError):
        register.register(plain("host"), elsewhere, 4.999)
    assert register.register(plain("host"), elsewhere, 5.0)[0].learner_id == first.learner_id


def test_where_open_connections_are_not_known_a_plain_learner_lives_for_a_lease() -> None:
    register = members(lease_s=5.0)
    first = joined(register, plain("host"))
    with pytest.raises(UnknownLearnerError):
        register.by_address("host", anonymous("ipv4:1.1.1.1:2"), 4.999)
    assert register.by_address("host", anonymous("ipv4:1.1.1.1:2"), 5.0) is first


def test_a_full_learner_is_never_found_without_its_token() -> None:
    register = members()
    info = full()
    info.network_addr = "10.0.0.1:9"
    joined(register, info, "ipv4:10.0.0.1:111")
    with pytest.raises(UnknownLearnerError):
        register.by_address("10.0.0.1:9", anonymous("ipv4:10.0.0.1:111"), 0.0)


def test_a_plain_learner_that_registers_again_is_the_same_one() -> None:
    register = connections()
    first = joined(register, plain("10.0.0.1:9"))
    again, new = register.register(plain("10.0.0.1:9"), anonymous("ipv4:1.1.1.1:2"), 1.0)
    assert (new, again.learner_id) == (False, first.learner_id)
    assert again.link is first.link


def test_a_full_learner_cannot_take_a_plain_ones_name() -> None:
    register = members()
    joined(register, plain("host"))
    with pytest.raises(NameTakenError):
        register.register(full("plain-host"), anonymous("peer"), 1.0)


# --- identities ----------------------------------------------------------------------------


def known(name: str) -> Caller:
    """A caller with a certificate, perhaps behind a gateway that others come through too."""
    return Caller(name, "learner", "1.1.1.1", name)


def test_an_identity_is_one_learner_and_its_name_is_its_own() -> None:
    register = members()
    first, new = register.register(full(""), known("clinic-a"), 0.0)
    assert (first.name, first.identity, new) == ("clinic-a", "clinic-a", True)
    again, new = register.register(full("clinic-a"), known("clinic-a"), 1.0)
    assert (again.learner_id, new) == (first.learner_id, False)
    with pytest.raises(
        ForbiddenError, match=r"the name 'clinic-b' is not this learner's: its certificate says"
    ):
        register.register(full("clinic-b", again.token), known("clinic-a"), 2.0)
    assert [member.name for member in register] == ["clinic-a"]


def test_a_copied_identity_is_refused_while_its_learner_is_connected() -> None:
    register = members()
    first, _ = register.register(full(""), known("clinic-a"), 0.0)
    first.connected = True
    with pytest.raises(NameTakenError, match="a learner named 'clinic-a' is connected already"):
        register.register(full(""), known("clinic-a"), 1.0)


def test_a_session_token_counts_only_from_the_identity_that_got_it() -> None:
    register = members()
    first, _ = register.register(full(""), known("clinic-a"), 0.0)
    assert register.by_token(first.token, known("clinic-a")) is first
    for other in (known("clinic-b"), ANYBODY):
        with pytest.raises(UnknownLearnerError, match="unknown session token"):
            register.by_token(first.token, other)
    nobody, _ = register.register(plain(), ANYBODY, 0.0)
    with pytest.raises(UnknownLearnerError):
        register.by_token(nobody.token, known("clinic-a"))


def test_plain_learners_behind_one_gateway_are_told_apart_by_their_identities() -> None:
    register = members()
    a, _ = register.register(plain("same:1"), known("a"), 0.0)
    b, new = register.register(plain("same:1"), known("b"), 0.0)
    assert (a.name, b.name, new) == ("a", "b", True)
    assert register.by_address("same:1", known("a"), 0.0) is a
    assert register.by_address("", known("b"), 0.0) is b
    assert (register.of(known("a")), register.of(known("b")), register.of(known("c"))) == (a, b, None)
    for stranger in (known("c"), Caller("", "learner", "1.1.1.1", "ipv4:1.1.1.1:1")):
        with pytest.raises(UnknownLearnerError, match="can't tell which learner"):
            register.by_address("same:1", stranger, 0.0)


def test_where_there_are_identities_nobody_without_one_chooses_a_name() -> None:
    register = members()
    outsider = Caller("", "learner", "1.1.1.1", "ipv4:1.1.1.1:1")
    info = plain()
    info.name = "clinic-a"
    with pytest.raises(ForbiddenError, match="nobody without an identity may choose a name in this run"):
        register.register(info, outsider, 0.0)
    assert register.register(plain(), outsider, 0.0)[0].name == "plain/ipv4:1.1.1.1:1"


def test_a_name_of_an_identity_is_not_taken_by_another_caller() -> None:
    """Plain ones have no lease: who came first would keep it for ever."""
    register = members()
    outsider, _ = register.register(plain("host"), Caller("", "plain", "1.1.1.1", "ipv4:1.1.1.1:1"), 0.0)
    owner, new = register.register(full(""), known("plain-host"), 1.0)
    assert (outsider.name, owner.name, new) == ("plain/host", "plain-host", True)


# --- leases --------------------------------------------------------------------------------


def test_a_lease_runs_out_when_nothing_is_heard() -> None:
    register = members(lease_s=5.0)
    a, b = joined(register, full("a")), joined(register, full("b"))
    register.touch(b, 2.0)
    assert register.next_expiry() == 5.0
    assert register.expired(4.999) == []
    assert register.expired(5.0) == [a]
    assert register.expired(7.0) == [a, b]
    register.remove(a)
    assert register.next_expiry() == 7.0
    register.remove(b)
    assert register.next_expiry() == math.inf


def test_a_plain_learner_that_never_calls_has_a_lease_and_one_that_does_may_compute_for_as_long_as_a_deadline() -> (
    None
):
    register = Membership(max_learners=9, lease_s=5.0, plain_lease_s=60.0)
    silent, calls, dialled = (joined(register, plain(name)) for name in "abc")
    dialled.connected = True
    register.touch(calls, 1.0)
    assert [register.lease_s(member) for member in (silent, calls, dialled)] == [5.0, 60.0, math.inf]
    assert register.expired(60.9) == [silent]
    assert register.expired(61.0) == [silent, calls]
    assert register.next_expiry() == 5.0


# --- what is said at registration ----------------------------------------------------------


def test_own_data_is_kept_as_it_was_told() -> None:
    info = full()
    info.own_data.CopyFrom(leader_pb2.OwnData(examples=7, classes=10, fingerprint="ff"))
    assert joined(members(), info).own_data == OwnData(7, 10, "ff")
    assert joined(members(), full()).own_data is None


def test_tags_device_and_memory_are_kept_and_plain_learners_have_none() -> None:
    info = full()
    info.tags.extend(["site-a", "b", "b"])
    info.device_kind, info.memory_bytes = "cuda", (1 << 64) - 1
    member = joined(members(), info)
    assert member.tags == {"site-a", "b"}
    assert (member.device_kind, member.memory_bytes) == ("cuda", (1 << 64) - 1)
    member = joined(members(), plain())
    assert (member.tags, member.device_kind, member.memory_bytes) == (frozenset(), "", 0)


def tagged(*tags: str) -> leader_pb2.LearnerInfo:
    return leader_pb2.LearnerInfo(tags=tags)


def own(examples: int) -> leader_pb2.LearnerInfo:
    info = full()
    info.own_data.CopyFrom(leader_pb2.OwnData(examples=examples, classes=10))
    return info


@pytest.mark.parametrize(
    ("info", "kind", "message"),
    [
        (
            leader_pb2.LearnerInfo(protocol=PROTOCOL + 1),
            IncompatibleError,
            f"this leader {PROTOCOL}; install",
        ),
        (full("a b"), PayloadError, "name 'a b' is not 1 to 64 of letters"),
        (full("a\n"), PayloadError, "is not 1 to 64 of letters"),
        (full("é"), PayloadError, "is not 1 to 64 of letters"),
        (full("a" * 65), PayloadError, "is not 1 to 64 of letters"),
        (full("../a"), PayloadError, "is not 1 to 64 of letters"),
        (plain("a" * 257), PayloadError, "text of 257 characters in LearnerInfo"),
        (plain("a\x1b[2J"), PayloadError, "printable, at most 256"),
        (leader_pb2.LearnerInfo(device="\n"), PayloadError, "printable, at most 256"),
        (leader_pb2.LearnerInfo(release="\x00"), PayloadError, "printable, at most 256"),
        (leader_pb2.LearnerInfo(frozen="\x1b"), PayloadError, "printable, at most 256"),
        (tagged("a", ""), PayloadError, "2 tags in LearnerInfo; at most 16, each of 1 to 32 letters"),
        (tagged("a,b"), PayloadError, "1 tags in LearnerInfo; at most 16"),
        (tagged("a" * 33), PayloadError, "each of 1 to 32 letters"),
        (tagged("é"), PayloadError, "each of 1 to 32 letters"),
        (tagged(*["a"] * 17), PayloadError, "17 tags in LearnerInfo; at most 16"),
        (leader_pb2.LearnerInfo(control=7), PayloadError, "control 7 is none of this contract's"),  # type: ignore[arg-type]
        (
            leader_pb2.LearnerInfo(own_data=leader_pb2.OwnData(examples=1, fingerprint="a" * 257)),
            PayloadError,
            "text of 257 characters in LearnerInfo",
        ),
        (leader_pb2.LearnerInfo(codecs=["a"] * 65), PayloadError, "65 codecs in LearnerInfo; at most 64"),
        (leader_pb2.LearnerInfo(codecs=["a" * 65]), PayloadError, "each of at most 64 characters"),
        (leader_pb2.LearnerInfo(device_kind="cuda\n"), PayloadError, "is no kind of device, such as cpu"),
        (leader_pb2.LearnerInfo(device_kind="a" * 17), PayloadError, "is no kind of device"),
        (own(0), PayloadError, "own_data.examples is 0; it must be from 1 to"),
        (own(1 << 40), PayloadError, "it must be from 1 to"),
    ],
)
def test_a_registration_that_cannot_be_is_refused(
    info: leader_pb2.LearnerInfo, kind: type[Exception], message: str
) -> None:
    register = members()
    with pytest.raises(kind, match=message):
        register.register(info, anonymous("peer"), 0.0)
    assert len(register) == 0


def test_the_longest_name_and_tags_and_the_largest_data_set_are_taken() -> None:
    most = [letter * 32 for letter in "abcdefghijklmnop"]
    assert joined(members(), tagged(*most)).tags == set(most)
    assert joined(members(), full("a" * 64)).name == "a" * 64
    assert joined(members(), own((1 << 40) - 1)).own_data == OwnData((1 << 40) - 1, 10, "")


def test_without_an_identity_in_a_secure_run_nobody_opens_a_session_or_is_dialled() -> None:
    register = Membership(max_learners=9, lease_s=1.0)
    for control in (SESSION, leader_pb2.CONTROL_DIALLED):
        info = leader_pb2.LearnerInfo(control=control, network_addr="10.0.0.1:9")
        with pytest.raises(ForbiddenError, match="the plain contract alone"):
            register.register(info, anonymous("ipv4:9.9.9.9:9", "plain"), 0.0)


def test_who_calls_is_found_by_the_connection_that_it_has_now() -> None:
    register = members()
    before, after, other = (anonymous(f"ipv4:1.1.1.1:{port}") for port in (1, 2, 3))
    a, _ = register.register(full("a"), before, 0.0)
    b, _ = register.register(full("b"), before, 0.0)  # over the same connection
    assert register.of(before) is a
    again, new = register.register(full("a", a.token), after, 1.0)
    assert (new, register.of(after), register.of(before)) == (False, again, b)
    assert not register.remove(a)  # replaced; its successor stays
    assert register.of(after) is again
    register.remove(b)
    assert register.of(before) is None
    moved = joined(register, plain("1.1.1.1:7"), "ipv4:1.1.1.1:4")
    assert register.by_address("1.1.1.1:7", other, 100.0) is moved
    assert (register.of(other), register.of(anonymous("ipv4:1.1.1.1:4"))) == (moved, None)
