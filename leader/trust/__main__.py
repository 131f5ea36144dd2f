"""`python -m leader.trust`: say who may take part in the runs of this leader."""

from __future__ import annotations

import sys

from leader.trust.cli import main

if __name__ == "__main__":
    sys.exit(main())
