"""`python -m leader.edge`: parse, run, and turn errors into one clear line and an exit code."""

from __future__ import annotations

import os
import sys

from leader.edge.app import run
from leader.edge.options import parse
from utils import faults
from utils.console import setup_logging
from utils.errors import program
from utils.malloc import keep_freed_memory


@program
def main() -> int:
    """Run the edge; returns the exit code."""
    options = parse(sys.argv[1:], os.environ)
    faults.arm(os.environ)
    setup_logging(options.log_format, options.log_level, program="edge")
    keep_freed_memory()
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
