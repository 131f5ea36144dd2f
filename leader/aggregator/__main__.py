"""`python -m leader.aggregator`: parse, run, and turn errors into one clear line and an exit code."""

from __future__ import annotations

import os
import sys

from leader.aggregator.app import run
from leader.edge.options import METAVARS, JoinOptions
from utils.console import setup_logging
from utils.errors import program
from utils.malloc import keep_freed_memory
from utils.settings.flags import FlagParser, options_of, parser_of
from utils.settings.schema import Schema

_DESCRIPTION = """\
Sum what edges write into Kafka: start as many as there are machines for it, and more or fewer at any time. \
What comes out has the bits of a run without them.

  python -m leader --set edges.listen=127.0.0.1:50060 --set services.kafka.brokers=127.0.0.1:9092
  python -m leader.aggregator --leader 127.0.0.1:50060"""
_ENVIRONMENT = """\
Each flag may also be given as an environment variable, such as FLOCKSTEP_AGGREGATOR_LEADER for --leader."""
SCHEMA = Schema(JoinOptions, prefix="FLOCKSTEP_AGGREGATOR_")


def make_parser() -> FlagParser:
    """The aggregator's flags."""
    return parser_of(SCHEMA, "python -m leader.aggregator", _DESCRIPTION, _ENVIRONMENT, METAVARS)


@program
def main() -> int:
    """Run the aggregator; returns the exit code."""
    options = options_of(SCHEMA, make_parser(), sys.argv[1:], os.environ)
    setup_logging(options.log_format, options.log_level, program="aggregator")
    keep_freed_memory()
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
