"""`python -m leader.trust`: say who may take part in the runs of this leader."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command; returns the exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when gRPC is loaded
    from leader.trust.cli import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
