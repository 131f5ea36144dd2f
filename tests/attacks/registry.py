"""All attacks by name: each row of what a leader must bear, what bounds it and which test shows it."""

from __future__ import annotations

from tests.attacks import held
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

ATTACKS: tuple[Attack, ...] = HELD
