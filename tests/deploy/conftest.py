"""What of these tests is collected: a real Slurm takes a minute, so `make slurm` asks for it."""

from __future__ import annotations

import os

collect_ignore = [] if "SLURM" in os.environ else ["test_slurm.py"]
