"""`python -m tests.attacks.few_files MOST ...`: a leader where a process may have no more files open than that."""

from __future__ import annotations

import resource
import sys

from leader.__main__ import main

if __name__ == "__main__":
    most = int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.exit(main())
