"""`python -m learner`: parse, run, and turn errors into one clear line and an exit code."""

from __future__ import annotations

import os
import sys

from learner.options import parse
from utils import faults
from utils.console import setup_logging
from utils.errors import program
from utils.malloc import keep_freed_memory


@program
def main() -> int:
    """Run the learner; returns the exit code."""
    options = parse(sys.argv[1:], os.environ)
    faults.arm(os.environ)
    setup_logging(options.log_format, options.log_level)
    keep_freed_memory()
    from learner.app import run  # here, so that --help does not wait for torch

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
