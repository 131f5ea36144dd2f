"""`python -m tests.attacks [--seconds N] [--only NAME] [--mode MODE]`: attack real leaders; what do they bear?"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.machine import describe_machine, in_words
from benchmarks.result import PUBLISHED
from tests.attacks.registry import ATTACKS
from tests.attacks.report import figures, load, markdown, publish, shown, store
from tests.attacks.siege import INSECURE, PLAIN, SECURE, Attack, Borne, besiege

USUAL = Path("runs/siege")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    names = [attack.name for attack in ATTACKS if attack.lasts]
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long an undisturbed run takes; 60")
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}"
    )
    parser.add_argument(
        "--mode",
        action="append",
        choices=[PLAIN, INSECURE, SECURE],
        help="how leaders run; all that an attack is for",
    )
    parser.add_argument("--out", type=Path, default=USUAL, help=f"folder of the results; {USUAL}")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write what --out holds into docs/benchmarks and docs/reliability.md, and measure nothing",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the attacks asked for and show the table; the exit code is 1 when a target was missed."""
    options, console = parse(argv), Console(width=200)
    results = load(options.out)
    if options.publish:
        store(PUBLISHED, results)
        publish(markdown(ATTACKS, results["attacks"]))
        return 0
    wanted = [attack for attack in ATTACKS if attack.lasts and attack.name in (options.only or [attack.name])]
    quiet: dict[str, Borne] = {}
    missed = 0
    for attack in wanted:
        for mode in attack.modes if options.mode is None else [m for m in attack.modes if m in options.mode]:
            key = attack.scene(mode)
            if key not in quiet:
                quiet[key] = _run(attack, mode, options.seconds, quiet=True)
            borne = _run(attack, mode, options.seconds)
            results["attacks"].setdefault(attack.name, {})[mode] = figures(borne, quiet[key], options.seconds)
            results["machine"] = in_words(describe_machine())
            store(options.out, results)
            problems = borne.missed(quiet[key])
            missed += bool(problems)
            console.print(f"{attack.name}, {mode}: {'; '.join(problems) or 'holds'}", highlight=False)
    console.print(shown(tuple(wanted), results["attacks"]))
    return 1 if missed else 0


def _run(attack: Attack, mode: str, seconds: float, *, quiet: bool = False) -> Borne:
    with tempfile.TemporaryDirectory(prefix="flockstep-siege-") as folder:
        return besiege(attack, mode, seconds, Path(folder), quiet=quiet)


if __name__ == "__main__":
    raise SystemExit(main())
