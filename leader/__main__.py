"""`python -m leader`: parse, run, and turn errors into one clear line and an exit code."""

from __future__ import annotations

import os
import sys

from leader.cli import parse
from leader.config.yaml_file import dump_config
from utils import faults
from utils.console import say
from utils.errors import program
from utils.malloc import keep_freed_memory


@program
def main() -> int:
    """Run the leader; returns the exit code."""
    command = parse(sys.argv[1:], os.environ)
    faults.arm(os.environ)
    if command.print_config:
        say(*dump_config(command.config).splitlines())
        return 0
    keep_freed_memory()
    from leader.app import run  # here, so that --help does not wait for torch

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
