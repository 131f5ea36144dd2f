"""`python -m tests.attacks.attacker NAME ADDRESS [--held PREFIX]`: one attack on a leader, until it is killed."""

from __future__ import annotations

import argparse
import asyncio
import resource
from pathlib import Path

from tests.attacks.registry import ATTACKS
from tests.attacks.siege import Victim, tell_deeds
from utils.trust.credentials import Credentials


def main() -> None:
    """Attack; returns only if the attacker gives up."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.attacker", description=__doc__)
    parser.add_argument("name", choices=[attack.name for attack in ATTACKS if attack.attacker])
    parser.add_argument("address")
    parser.add_argument("--held", help="prefix of the PEM files .key, .certificate and .roots")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    [attacker] = [attack.attacker for attack in ATTACKS if attack.name == options.name]
    assert attacker is not None
    victim = Victim(options.address, _credentials(options.held))

    async def attack() -> None:
        telling = asyncio.create_task(tell_deeds())
        await attacker(victim)
        telling.cancel()

    asyncio.run(attack())


def _credentials(prefix: str | None) -> Credentials | None:
    if prefix is None:
        return None
    key, certificate, roots = (
        Path(f"{prefix}.{name}").read_bytes() for name in ("key", "certificate", "roots")
    )
    return Credentials(key, certificate, roots)


if __name__ == "__main__":
    main()
