"""A folder in the working directory that hides one of our packages from `python -m`: noticed, and told."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

from utils.console import say
from utils.errors import ConfigError

_OURS = Path(__file__).parents[1]


def refuse_shadows(*packages: str) -> None:
    """End the program, as for a wrong flag, where one of our `packages` would be imported from elsewhere."""
    for name in packages:
        spec = PathFinder.find_spec(name)
        found = (
            [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
            if spec
            else []
        )
        if found and not any(Path(place).is_relative_to(_OURS) for place in found):
            say(
                f"error: {found[0]} hides Flockstep's own package {name!r}; start in another folder, rename it, "
                "or use the command flockstep, which it does not get in the way of",
                file=sys.stderr,
            )
            raise SystemExit(ConfigError.exit_code)
