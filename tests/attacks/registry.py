"""All attacks by name: each row of what a leader must bear, what bounds it and which test shows it."""

from __future__ import annotations

from tests.attacks import held, transfers
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
    ),
    Attack(
        "trickled-uploads",
        "64 uploads at a byte a second, or just above what `limits.stall_s` asks",
        _RATE,
        "attacks/test_transfers.py",
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

ATTACKS: tuple[Attack, ...] = HELD + TRANSFERS
