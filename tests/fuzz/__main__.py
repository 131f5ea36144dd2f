"""`python -m tests.fuzz [--count N] [--seed S] [NAME ...]`: feed N mutated inputs to each target."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from tests.fuzz.suite import SUITE


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs for each target; 1,000,000")
    parser.add_argument("--seed", type=int, default=0, help="seed of all inputs; 0")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(SUITE)}; default: all")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.names) - set(SUITE)):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(SUITE)}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz the targets asked for, a line each; the exit code is 1 when one of them failed."""
    options = parse(argv)
    failed = 0
    for name in options.names or SUITE:
        try:
            tally = SUITE[name](options.count, options.seed)
        except Exception:
            traceback.print_exc()
            failed += 1
            continue
        print(tally, flush=True)
        if problem := tally.problem:
            print(f"error: {name}: {problem}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
