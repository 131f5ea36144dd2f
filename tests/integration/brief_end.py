"""`python -m tests.integration.brief_end ...`: a leader that waits no longer than a second for services at its end."""

from __future__ import annotations

import sys

from leader.__main__ import main
from leader.services.record import writer

if __name__ == "__main__":
    writer._LAST_ROWS_S = 1.0
    sys.exit(main())
