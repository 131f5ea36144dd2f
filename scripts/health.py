"""`python -m scripts.health`: whether a leader serves, as one line and an exit code, for probes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from leader.trust.cli import identity_in
from learner.options import METAVARS, SCHEMA, LearnerOptions
from learner.trust.access import Access, Files
from learner.trust.channel import explained, open_channel, speaks_tls
from utils.console import say
from utils.errors import ConfigError, FlockstepError, ForbiddenError, NotReadyError, program
from utils.settings.flags import SETTINGS, FlagParser, number
from utils.wire.status import failures_told

_FLAGS = ("ca", "certificate", "key", "server_name", "insecure")
_CHECK = "/grpc.health.v1.Health/Check"
_ANSWER_S = 5.0
_WHO = "it asks who is there: --identity DIR (python -m leader.trust issue NAME --role observer --out DIR)"
_DESCRIPTION = """\
Ask a leader whether it serves. The exit code is 0 if it does and 1 if not; 2 is a wrong flag or file.

  python -m scripts.health 127.0.0.1:50051
  python -m scripts.health leader:50051 --identity probe"""


def make_parser() -> FlagParser:
    """The flags of the command line."""
    parser = FlagParser("python -m scripts.health", "%(prog)s HOST:PORT [flags]", _DESCRIPTION)
    parser.add_argument("leader", metavar="HOST:PORT", help="where the leader listens")
    parser.add_argument(
        "--identity",
        type=Path,
        metavar="DIR",
        help="who asks, of a secure leader: a folder that `python -m leader.trust issue` wrote",
    )
    for name in _FLAGS:
        parser.add_key(f"--{name.replace('_', '-')}", SCHEMA.keys[name], METAVARS.get(name, ""))
    parser.add_argument(
        "--timeout-s",
        type=number(lambda seconds: 0 < seconds <= 3600, "above 0, at most 3600"),
        default=_ANSWER_S,
        metavar="SECONDS",
        help="how long to wait for the answer [5]",
    )
    return parser


async def ask(options: LearnerOptions, identity: Path | None, timeout_s: float) -> None:
    """Raise FlockstepError unless the leader serves."""
    if identity is not None:
        known_by, channel = "identity", open_channel(options, identity_in(identity).for_channel())
    else:
        access = Files(options) if options.certificate else Access(options)
        known_by, channel = access.known_by, await access.open()
    check = channel.unary_unary(_CHECK, HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString)
    async with channel:
        try:
            with failures_told():
                answer = await check(HealthCheckRequest(), timeout=timeout_s)
        except FlockstepError as error:
            raise await explained(error, options.leader, known_by) from None
    if answer.status != HealthCheckResponse.SERVING:
        raise NotReadyError("it is about to stop")


async def _problem(options: LearnerOptions, identity: Path | None, timeout_s: float) -> str:
    """Why the leader can't be said to serve; "" if it does."""
    try:
        async with asyncio.timeout(2 * timeout_s):
            await ask(options, identity, timeout_s)
    except ConfigError:
        raise
    except ForbiddenError as error:
        nobody = not (identity or options.certificate) and await speaks_tls(options.leader)
        return _WHO if nobody else str(error)
    except (FlockstepError, TimeoutError) as error:
        return str(error) or f"no answer within {timeout_s:g} s"
    return ""


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Ask, and tell; returns the exit code."""
    given = make_parser().parse_or_raise(sys.argv[1:] if argv is None else argv, {})
    settings = [("HOST:PORT", "leader", given.leader), *getattr(given, SETTINGS)]
    options = SCHEMA.build(SCHEMA.from_text(settings))
    problem = asyncio.run(_problem(options, given.identity, given.timeout_s))
    if problem:
        say(f"{options.leader} does not serve: {problem}", file=sys.stderr)
        return 1
    say(f"{options.leader} serves")
    return 0


if __name__ == "__main__":
    sys.exit(main())
