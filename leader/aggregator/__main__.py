"""`python -m leader.aggregator`: parse, run, and turn errors into one clear line and an exit code."""

from __future__ import annotations

import os
import sys

from leader.aggregator.app import run
from leader.edge.options import JoinOptions, options_of
from utils.console import setup_logging
from utils.errors import program
from utils.malloc import keep_freed_memory
from utils.settings.flags import FlagParser, paragraph
from utils.settings.schema import Schema

_DESCRIPTION = """\
Sum what edges write into Kafka: start as many as there are machines for it, and more or fewer at any time. \
What comes out has the bits of a run without them.

  python -m leader --set edges.listen=127.0.0.1:50060 --set services.kafka.brokers=127.0.0.1:9092
  python -m leader.aggregator --leader 127.0.0.1:50060"""
_ENVIRONMENT = """\
Each flag may also be given as an environment variable, such as FLOCKSTEP_AGGREGATOR_LEADER for --leader."""
SCHEMA = Schema(JoinOptions, prefix="FLOCKSTEP_AGGREGATOR_")


@program
def main() -> int:
    """Run the aggregator; returns the exit code."""
    parser = FlagParser("python -m leader.aggregator", "%(prog)s --leader HOST:PORT [flags]", _DESCRIPTION)
    parser.epilog = paragraph(_ENVIRONMENT)
    options = options_of(SCHEMA, parser, sys.argv[1:], os.environ)
    setup_logging(options.log_format, options.log_level, program="aggregator")
    keep_freed_memory()
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
