"""The stubs of the wire contract: generated from protos/*.proto, or checked against it.

python -m tests.tools.stubs            writes protos/*_pb2.py, *_pb2.pyi and *_pb2_grpc.py
python -m tests.tools.stubs --check    changes nothing; fails when the stubs are stale
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

STUB_PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")


class ProtocError(Exception):
    """protoc refused the contract; it has already said why on standard error."""


def generate(root: Path, out: Path) -> None:
    """Write the stubs of `root`/protos/*.proto to `out`/protos.

    Raises ProtocError when the contract does not compile.
    """
    from grpc_tools import protoc

    sources = sorted(path.relative_to(root).as_posix() for path in (root / "protos").glob("*.proto"))
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    # The folder protos/ is part of each name, so that stubs import `from protos import leader_pb2`.
    include = [f"-I{root}", f"-I{files('grpc_tools') / '_proto'}"]
    if protoc.main(["protoc", *include, *outputs, *sources]):
        raise ProtocError(f"protoc failed on {', '.join(sources)}")


def stubs_of(root: Path) -> dict[str, bytes]:
    """The stubs in `root`/protos, by file name."""
    found = (path for pattern in STUB_PATTERNS for path in (root / "protos").glob(pattern))
    return {path.name: path.read_bytes() for path in sorted(found)}


def stale_stubs(root: Path) -> list[str]:
    """Names of the stubs in `root` that `generate` would write differently, add or no longer write."""
    with tempfile.TemporaryDirectory(prefix="flockstep-proto-") as scratch:
        generate(root, Path(scratch))
        fresh, kept = stubs_of(Path(scratch)), stubs_of(root)
    return sorted(name for name in fresh.keys() | kept.keys() if fresh.get(name) != kept.get(name))


def replace_stubs(root: Path) -> None:
    """Write the stubs into `root`/protos and remove those whose .proto is gone."""
    with tempfile.TemporaryDirectory(prefix="flockstep-proto-") as scratch:
        generate(root, Path(scratch))
        fresh = stubs_of(Path(scratch))
    for name in stubs_of(root).keys() - fresh.keys():
        (root / "protos" / name).unlink()
    for name, content in fresh.items():
        (root / "protos" / name).write_bytes(content)


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the stubs of this checkout; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.stubs", description="Generate the stubs in protos/."
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the stubs are stale")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).parents[2], help="folder that protos/ is in"
    )
    args = parser.parse_args(argv)
    try:
        if not args.check:
            replace_stubs(args.root)
        elif stale := stale_stubs(args.root):
            print(f"stubs are stale: run make proto ({', '.join(stale)})", file=sys.stderr)
            return 1
    except ProtocError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
