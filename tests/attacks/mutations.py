"""`python -m tests.attacks.mutations [--only NAME]`: take out what bounds each attack; a test of it must fail."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from tests.attacks.registry import ATTACKS
from tests.attacks.report import publish
from tests.tools.mutation import Mutation, copied, failure

PLACES, UPLOADS, GUARD = "leader/places.py", "leader/rpc/uploads.py", "leader/trust/access/guard.py"
CONNECTIONS, MEMBERSHIP = "leader/trust/access/connections.py", "leader/learners/membership.py"
STANDING, FORCE = "leader/learners/standing.py", "leader/learners/workforce.py"
TRANSFERS, FLOODS, CLAIMS = "attacks/test_transfers.py", "attacks/test_floods.py", "attacks/test_claims.py"
HEADERS, SILENCE, HELD = "attacks/test_headers.py", "attacks/test_silence.py", "attacks/test_held.py"
NAMES, DIALLING = "cluster/test_taken_names.py", "cluster/test_dialling.py"

#: No place for a call's first message.
_FIRSTS = (
    'async with self._firsts.hold(caller.place, 1, ranked=ranked) as place, place.moving(math.inf, ""):\n'
    "            yield",
    "yield",
)

MUTATIONS = (
    Mutation(
        "zstd-bombs",
        "the bound on a header that is inflated",
        "utils/codecs/compression.py",
        "size = check_header_size(start, most)",
        'size = int.from_bytes(start, "little")',
        f"{HEADERS}::test_a_small_update_that_inflates_to_a_large_header_is_refused_by_its_size",
    ),
    Mutation(
        "mute-uploads",
        "the budget",
        PLACES,
        "held = [other for other in self._held if other not in without]",
        "return True",
        f"{TRANSFERS}::test_uploads_of_ones_own_work_stay_within_the_budget[silent]",
    ),
    Mutation(
        "half-messages",
        "places for first messages",
        GUARD,
        *_FIRSTS,
        f"{TRANSFERS}::test_messages_sent_by_half_are_bounded_in_all",
    ),
    Mutation(
        "metrics",
        "64 KiB of what becomes objects",
        "utils/wire/rpc.py",
        "MAX_SAID_BYTES = 64 << 10",
        "MAX_SAID_BYTES = 8 << 20",
        f"{HEADERS}::test_metrics_beyond_64_kib_of_a_header_are_refused_unread",
    ),
    Mutation(
        "broken-uploads",
        "what a broken upload has left counts",
        UPLOADS,
        "transfer.place.leave(lambda: self._forget(key))",
        "transfer.place.free()",
        f"{TRANSFERS}::test_uploads_of_ones_own_work_stay_within_the_budget[broken off and begun anew]",
    ),
    Mutation(
        "trickled-uploads",
        "the slow lose their places",
        PLACES,
        "return self._watchdog is not None and now > self._until",
        "return False",
        f"{TRANSFERS}::test_uploads_that_hardly_move_hold_nobody_back[a byte a second-plain]",
    ),
    Mutation(
        "slow-uploads",
        "by rate: whatever moves is quick",
        PLACES,
        "self._until = min(max(self._until, now) + count / self.places.slow_bytes_per_s, now + ahead_s)",
        "self._until = now + ahead_s",
        f"{TRANSFERS}::test_uploads_that_hardly_move_hold_nobody_back[just above what stall_s asks-plain]",
    ),
    Mutation(
        "unread-downloads",
        "a place is had by whoever moves",
        "leader/rpc/downloads.py",
        "            place.moving(self._stall_s, _COMPLAINT),\n",
        "",
        f"{TRANSFERS}::test_downloads_that_nobody_reads_hold_nobody_back",
    ),
    Mutation(
        "trickled-downloads",
        "the slow lose their places",
        PLACES,
        "return self._watchdog is not None and now > self._until",
        "return False",
        f"{TRANSFERS}::test_downloads_at_a_trickle_hold_nobody_back",
    ),
    Mutation(
        "costly-headers",
        "what the layout needs",
        "model/piece_files.py",
        "return min(self._header_bytes, 4 * len(plain) + _MORE_HEADER)",
        "return self._header_bytes",
        f"{HEADERS}::test_costly_headers_hold_up_nobody",
    ),
    Mutation(
        "mute-calls",
        "strangers' calls, the mute ones first, go when there are too many",
        GUARD,
        "            self._make_room()\n",
        '            raise BusyError("too many calls", 1.0)\n',
        f"{FLOODS}::test_calls_that_stay_mute_shut_nobody_out",
        (_FIRSTS,),
    ),
    Mutation(
        "mute-calls",
        "seconds for a first message",
        GUARD,
        "self.deadline.reschedule(min(now + self.hello_s, self.due or math.inf))",
        "self.deadline.reschedule(self.due)",
        f"{FLOODS}::test_a_call_that_sends_headers_alone_is_ended",
    ),
    Mutation(
        "rapid-resets",
        "a connection whose calls come to nothing is ended",
        CONNECTIONS,
        "if again or self._vain.wait_s(peer):",
        "if False:",
        f"{FLOODS}::test_a_connection_whose_calls_are_all_broken_off_is_ended",
    ),
    Mutation(
        "chatter",
        "a session is read no faster",
        "leader/rpc/session.py",
        'if wait_s := pace.wait_s(""):',
        "if wait_s := 0.0:",
        f"{FLOODS}::test_a_session_is_read_no_faster_than_a_learner_speaks",
    ),
    Mutation(
        "passing",
        "sums in the place of lines",
        "leader/reporting/turnover.py",
        "if self._seen > _TOLD_AT_ONCE:",
        "if False:",
        f"{FLOODS}::test_learners_that_come_and_go_are_summed_up_in_the_log",
    ),
    Mutation(
        "silent-connections",
        "gRPC's bound on connections",
        "leader/trust/access/listeners.py",
        '            ("grpc.max_allowed_incoming_connections", self.connections.most),\n',
        "",
        "attacks/test_connections.py::test_connections_that_say_nothing_leave_the_run_its_descriptors",
    ),
    Mutation(
        "idle-connections",
        "those that nobody needs go",
        CONNECTIONS,
        "for end in doomed | {end for end in too_many if worth.get(end, IDLE) < LEARNERS}:",
        "for end in doomed:",
        "attacks/test_connections.py::test_connections_without_a_call_go_when_others_come",
    ),
    Mutation(
        "claims",
        "`data.max_examples`",
        "leader/learners/eligibility.py",
        "if own.examples > (most := self._config.data.max_examples):",
        "if own.examples > (most := 1 << 40):",
        f"{CLAIMS}::test_a_claim_beyond_what_one_learner_may_bring_leaves_the_run_as_it_is",
    ),
    Mutation(
        "claims",
        "`aggregate.max_share`",
        "leader/aggregation/aggregate.py",
        "weight = min(self._weighting.weight(facts), self._scale.heaviest)",
        "weight = self._weighting.weight(facts)",
        f"{CLAIMS}::test_a_claim_that_is_taken_makes_up_no_more_of_the_mean_than_the_config_says",
    ),
    Mutation(
        "claims-in-gradient-runs",
        "four times the median",
        "leader/training/work_orders.py",
        "max(min(count, most) if own else count for count, own in batches)",
        "max(count for count, own in batches)",
        f"{CLAIMS}::test_a_round_of_gradients_is_no_longer_for_a_claim_that_is_taken",
    ),
    Mutation(
        "instant-answers",
        "the share of a buffer",
        "leader/rounds/shares.py",
        "return min(max(2, math.ceil(_SHARE * self._target / learners)), self._target - 1)",
        "return sys.maxsize",
        f"{CLAIMS}::test_a_learner_that_answers_at_once_has_no_buffer_to_itself",
    ),
    Mutation(
        "held-out-claims",
        "what a part can hold out",
        "leader/evaluation/federated.py",
        "if metric.examples > most > 0:",
        "if False:",
        f"{CLAIMS}::test_scores_on_more_than_a_learner_holds_out_are_refused",
    ),
    Mutation(
        "forged-work",
        "the secret in ids",
        "leader/training/work_orders.py",
        "self._secret = secret.encode()",
        'self._secret = b""',
        "cluster/test_forged_work.py::test_the_id_of_anothers_work_can_not_be_computed_from_what_a_learner_is_told",
    ),
    Mutation(
        "forged-work",
        "that it was given the work",
        "leader/training/open_orders.py",
        "if learner_id not in self._given.get(work_id, ()):",
        "if False:",
        "cluster/test_forged_work.py::test_an_update_counts_only_from_the_learner_that_was_given_the_work_even_by_its_true_id",
    ),
    Mutation(
        "failures",
        "others are here who may do it",
        "leader/training/work_desk.py",
        "if self._workforce.others(self._failed):",
        "if len(self._failed) < 2:",
        f"{SILENCE}::test_two_learners_of_five_that_can_not_do_it_end_no_run_though_their_work_has_counted",
    ),
    Mutation(
        "names",
        "a name is kept over a cut",
        MEMBERSHIP,
        "return caller.known or (rested and claim.host == caller.address)",
        "return True",
        f"{NAMES}::test_a_name_is_not_taken_while_its_owner_reconnects",
    ),
    Mutation(
        "names",
        "and over a restart",
        MEMBERSHIP,
        "return self._claims if now < self._began + self._lease_s else {}",
        "return {}",
        f"{NAMES}::test_a_name_is_not_taken_after_a_restart_of_the_leader",
    ),
    Mutation(
        "addresses",
        "the connection that it registered on",
        MEMBERSHIP,
        "        if member.identity == caller.place:\n            return True\n        silent",
        "        return True\n        silent",
        f"{NAMES}::test_a_plain_learners_shard_and_place_are_not_had_by_naming_its_address",
    ),
    Mutation(
        "own-address",
        "the leader's own is refused",
        "leader/learners/dialling.py",
        "if int(port) in (self.own_port, *self._ports) and _is_here(host):",
        "if False:",
        f"{CLAIMS}::test_neither_the_leader_nor_another_host_nor_one_address_twice_is_dialled",
    ),
    Mutation(
        "dialled",
        "the caller's own host",
        "leader/learners/dialling.py",
        "if not caller.role and host not in self._hosts:",
        "if False:",
        f"{DIALLING}::test_the_leader_calls_no_internal_service_that_somebody_names",
    ),
    Mutation(
        "dialled",
        "`limits.dialled`",
        "leader/learners/dialling.py",
        "if len(others := taken()) >= self._most:",
        "others = taken()\n            if False:",
        f"{DIALLING}::test_no_more_learners_are_dialled_than_the_limit",
    ),
    Mutation(
        "plain-registrations",
        "the lease of who never called",
        MEMBERSHIP,
        "else self._plain_lease_s if member.called else self._lease_s",
        "else self._plain_lease_s if member.called else math.inf",
        f"{SILENCE}::test_places_of_plain_learners_that_never_call_are_free_again_after_a_lease",
    ),
    Mutation(
        "silent-learners",
        "who owed work comes after the others",
        FORCE,
        "        self._standings.held_up(waited, now)\n",
        "",
        f"{SILENCE}::test_forty_silent_registrations_before_the_first_round_cost_one_deadline",
    ),
    Mutation(
        "idle-takers",
        "its shard goes to others",
        STANDING,
        "return 3 if proven else 4",
        "return 0",
        f"{SILENCE}::test_the_shard_of_a_learner_that_never_sends_moves_after_the_first_deadline",
    ),
    Mutation(
        "checkpoints",
        "the schema's types and keys",
        "leader/storage/saved_state.py",
        'extra="forbid", strict=True, val_json_bytes="hex"',
        'extra="ignore", val_json_bytes="hex"',
        "attacks/test_checkpoints.py::test_what_no_run_has_written_is_damaged_and_the_one_before_is_used",
    ),
    Mutation(
        "texts",
        "escapes in lines of the log",
        "utils/console.py",
        "text = printable(record.getMessage())\n",
        "text = record.getMessage()\n",
        "attacks/test_text.py::test_a_leader_shows_nothing_raw_that_learners_say",
    ),
    Mutation(
        "texts",
        "escapes in the final line",
        "utils/console.py",
        'print(*map(printable, lines), sep="\\n"',
        'print(*lines, sep="\\n"',
        "attacks/test_text.py::test_a_failure_message_is_harmless_on_the_leaders_terminal_at_exit",
    ),
    Mutation(
        "noise",
        "what is no message is refused",
        "utils/wire/rpc.py",
        "except DecodeError as error:",
        "except MemoryError as error:",
        f"{HELD}::test_noise_and_guesses_are_answered_with_what_is_wrong",
    ),
    Mutation(
        "grpc-bombs",
        "`limits.message_bytes`",
        "utils/wire/rpc.py",
        '("grpc.max_receive_message_length", message_bytes),',
        '("grpc.max_receive_message_length", -1),',
        f"{HELD}::test_a_message_that_grpc_inflates_is_refused_before_it_is_large",
    ),
    Mutation(
        "replays",
        "an update counts once",
        "leader/rounds/round.py",
        "if part in self._done:\n            return Dup",
        "if False:\n            return Dup",
        "cluster/test_resends.py::test_an_update_that_is_sent_too_often_counts_once",
    ),
)


def table() -> str:
    """What was taken out, for docs/reliability.md."""
    says = {attack.name: attack.says for attack in ATTACKS}
    lines = ["| attack | taken out | a test that fails |", "| --- | --- | --- |"]
    lines += [f"| {says[one.of]} | {one.says} | `{one.test.rpartition('::')[2]}` |" for one in MUTATIONS]
    return "\n".join(lines)


def _told(chosen: Sequence[Mutation]) -> Iterator[bool]:
    with copied() as tree:
        for one in chosen:
            why = failure(one, tree)
            print(f"{one.of}, {one.says}: {why or 'NO TEST FAILED'}", flush=True)
            yield bool(why)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for, one after the other; the exit code is 1 where no test failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.mutations", description=__doc__)
    names = sorted({one.of for one in MUTATIONS})
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}"
    )
    parser.add_argument(
        "--publish", action="store_true", help="write the list into docs/reliability.md, and run nothing"
    )
    options = parser.parse_args(argv)
    if options.publish:
        publish(table(), mark="mutations")
        return 0
    failed = list(_told([one for one in MUTATIONS if one.of in (options.only or names)]))
    return 0 if all(failed) else 1


if __name__ == "__main__":
    raise SystemExit(main())
