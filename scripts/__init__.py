"""Programs around a run, started with `flockstep NAME` or `python -m scripts.NAME`."""

import sys
from pathlib import Path

# While Python looks for what `python -m` names; the working directory comes first then.
if sys.argv[:1] == ["-m"]:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from utils.shadowing import refuse_shadows

    sys.path.pop(0)
    refuse_shadows("leader", "learner", "model", "protos", "utils")
