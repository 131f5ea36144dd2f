"""All attacks by name: each row of what a leader must bear, what bounds it and which test shows it."""

from __future__ import annotations

from functools import partial

from tests.attacks import callers, floods, held, transfers
from tests.attacks.siege import Attack, again

HELD = (
    Attack(
        "noise",
        "messages of noise for every method",
        "refused when parsed",
        "attacks/test_held.py",
        again(held.malformed),
    ),
    Attack(
        "guessed-tokens",
        "calls with guessed session tokens",
        "16 random bytes; `limits.refusals_per_min`",
        "attacks/test_held.py",
        again(held.guessed),
    ),
    Attack(
        "grpc-bombs",
        "gRPC messages of 0.3 MB that inflate to 256 MB",
        "`limits.message_bytes`, counted while it inflates",
        "attacks/test_held.py",
        again(held.bomb),
    ),
    Attack(
        "garbage",
        "bytes that are no HTTP/2",
        "`limits.connections`, `limits.handshake_s`",
        "attacks/test_held.py",
        again(held.garbage),
    ),
    Attack(
        "silent-sessions",
        "sessions that never say hello",
        "`limits.hello_s`",
        "attacks/test_held.py",
        again(held.silent_sessions),
    ),
    Attack(
        "replays",
        "updates and registrations that are sent again",
        "counted once by work id; names by token or identity",
        "cluster/test_resends.py",
        again(held.replays),
    ),
)

_BUDGET, _RATE = "`limits.upload_bytes`", "`limits.slow_bytes_per_s`"
TRANSFERS = (
    Attack(
        "mute-uploads",
        "150 uploads whose first message is large, then silence",
        f"{_BUDGET}; places for first messages",
        "attacks/test_transfers.py",
        transfers.over_and_over(transfers.mute_uploads),
    ),
    Attack(
        "half-messages",
        "100 messages sent by half and never ended",
        "places for first messages; `limits.hello_s`",
        "attacks/test_transfers.py",
        transfers.over_and_over(transfers.half_messages),
    ),
    Attack(
        "broken-uploads",
        "uploads that are broken off and begun anew, evicting each other",
        f"{_BUDGET}; a caller's own go first",
        "attacks/test_transfers.py",
        insider=callers.broken_uploads,
    ),
    Attack(
        "trickled-uploads",
        "64 uploads at a byte a second",
        _RATE,
        "attacks/test_transfers.py",
        insider=callers.trickled_uploads,
    ),
    Attack(
        "slow-uploads",
        "64 uploads just above what `limits.stall_s` asks of one",
        _RATE,
        "attacks/test_transfers.py",
        insider=callers.slow_uploads,
    ),
    Attack(
        "unread-downloads",
        "600 downloads that nobody reads",
        f"strangers have half of `limits.transfers`; {_RATE}",
        "attacks/test_transfers.py",
        transfers.over_and_over(transfers.unread_downloads),
    ),
    Attack(
        "trickled-downloads",
        "64 downloads at 5 KB a second",
        f"strangers have half of `limits.transfers`; {_RATE}",
        "attacks/test_transfers.py",
        transfers.over_and_over(transfers.trickled_downloads),
    ),
)

FLOODS = (
    Attack(
        "mute-calls",
        "streams without end over one connection, of which the headers alone come",
        "32 streams a connection; `limits.hello_s`; the oldest calls of strangers go first",
        "attacks/test_floods.py",
        again(partial(floods.mute_calls, count=5000)),
    ),
    Attack(
        "rapid-resets",
        "HTTP/2 streams opened and reset at once",
        "25 calls of a connection broken off at once, 6 a second: it is ended",
        "attacks/test_floods.py",
        again(floods.rapid_resets),
    ),
    Attack(
        "chatter",
        "130,000 heartbeats on one session",
        "20 messages of a session a second, 200 at once: it is read no faster",
        "attacks/test_floods.py",
        again(partial(floods.chatter, count=130_000)),
    ),
    Attack(
        "passing",
        "registrations that come and go without a pause",
        "20 told one by one in 5 s, the others in one line",
        "attacks/test_floods.py",
        again(callers.come_and_go, at_once=8),
    ),
    Attack(
        "silent-connections",
        "1,200 TCP connections that say nothing, over and over",
        "`limits.connections`, `limits.handshake_s`; the oldest without a call go first",
        "attacks/test_connections.py",
        again(floods.silent_connection, at_once=1200),
    ),
    Attack(
        "idle-connections",
        "300 HTTP/2 connections without a call, over and over",
        "`limits.connections`; the oldest without a call go first",
        "attacks/test_connections.py",
        again(floods.idle_connection, at_once=300),
        settings={"limits.connections": 200},
    ),
)

HEADERS = (
    Attack(
        "zstd-bombs",
        "updates of some KB, zstd, that inflate to a 45 MB safetensors header",
        "what the layout needs, before it is inflated",
        "attacks/test_headers.py",
        insider=callers.zstd_bombs,
        settings={"codec.up": "int8"},
    ),
    Attack(
        "metrics",
        "headers with huge lists of metrics",
        "64 KiB, before protobuf reads them",
        "attacks/test_headers.py",
        insider=callers.many_metrics,
    ),
    Attack(
        "costly-headers",
        "uploads whose headers are costly JSON, over and over",
        "what the layout needs, before they are parsed",
        "attacks/test_headers.py",
        insider=callers.costly_headers,
    ),
)

CALLERS = (
    Attack(
        "claims",
        "a claim of 2^35 examples of its own",
        "`data.max_examples`, `aggregate.max_share`",
        "attacks/test_claims.py",
        again(callers.claims),
    ),
    Attack(
        "claims-in-gradient-runs",
        "the same claim in a `gradient` run",
        "`data.max_examples`; a round is no longer for it",
        "attacks/test_claims.py",
    ),
    Attack(
        "instant-answers",
        "in an asynchronous run, a learner that answers at once, over and over",
        "its share of a buffer",
        "attacks/test_claims.py",
    ),
    Attack(
        "held-out-claims",
        "a claim of 2^40 held-out examples with accuracy 1",
        "what its part can hold out",
        "attacks/test_claims.py",
    ),
    Attack(
        "forged-work",
        "updates for others' work, by guessed ids",
        "a secret of the run in ids; counts from who was given it alone",
        "cluster/test_forged_work.py",
        insider=callers.forged_work,
    ),
    Attack(
        "failures",
        'two learners that say "can\'t do it"',
        "the run ends only if all fail, one of whom has done counted work",
        "attacks/test_silence.py",
    ),
    Attack(
        "names",
        "registrations under others' names, also over a cut and a restart",
        "name held for its token or identity",
        "cluster/test_taken_names.py",
        again(callers.names),
    ),
    Attack(
        "addresses",
        "a plain learner's address named by somebody else",
        "the connection that it registered on",
        "cluster/test_taken_names.py",
    ),
    Attack(
        "own-address",
        "learners that name the leader's own address to be dialled at",
        "refused",
        "attacks/test_claims.py",
        again(callers.own_address),
    ),
    Attack(
        "dialled",
        "400 addresses to be dialled at, which say nothing",
        "`limits.dialled`; the caller's own host, or an identity that serves",
        "cluster/test_dialling.py",
        callers.dialled,
    ),
    Attack(
        "plain-registrations",
        "1,000 plain registrations",
        "a lease",
        "attacks/test_silence.py",
        again(callers.plain_registrations, at_once=4),
    ),
    Attack(
        "silent-learners",
        "40 plain registrations before the first round, silent",
        "a deadline in all: who owed work at one comes after the others",
        "attacks/test_silence.py",
    ),
    Attack(
        "idle-takers",
        "a learner that takes a shard, beats and never sends",
        "its shard moves after one deadline",
        "attacks/test_silence.py",
    ),
)

FILES = (
    Attack(
        "checkpoints",
        "checkpoints whose state has wrong types, missing or extra keys, under a SHA-256 that fits",
        "one schema of state and tensors; the one before is used",
        "attacks/test_checkpoints.py",
    ),
    Attack(
        "texts",
        "escape sequences, CR and bidirectional marks in failures, goodbyes and names",
        "escaped in every error, event, log line and final line; 2000 characters",
        "attacks/test_text.py",
    ),
)

ATTACKS: tuple[Attack, ...] = HELD + TRANSFERS + HEADERS + FLOODS + CALLERS + FILES
