"""`python -m benchmarks.gpu [NAME ...]`: the tests marked gpu, and figures of training on a device, in 8 minutes.

Each runs in a process of its own with a budget of seconds, so that one that fails loses no other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.gpu.job import read_result
from benchmarks.machine import describe_machine
from benchmarks.result import Result, document, table

ROOT = Path(__file__).parents[2]
USUAL = Path("runs/gpu")
FILE = "gpu.json"
TESTS = "tests"
#: Seconds that each may take; they and the end of one that is stopped are below 8 minutes.
BUDGETS = {TESTS: 50, "agreement": 40, "step": 90, "images": 40, "clients": 55, "accuracy": 180}
_END_S = 22.0  # from the polite signal, on which a figure ends its own programs, to the other one


@dataclass
class Report:
    """What has come of it so far."""

    failed: dict[str, str] = field(default_factory=dict)  # why, by name
    left_out: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def write(
        self, path: Path, results: Sequence[Result], machine: Mapping[str, object], *, quick: bool
    ) -> None:
        """Leave it in one JSON file, with the results as `document` has them."""
        entries = [json.loads(document(result, machine, quick)) for result in results]
        content = {"entries": entries, **asdict(self)}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="what is measured: cuda, cuda:N, cpu; cuda")
    parser.add_argument("--quick", action="store_true", help="a look at everything, with tiny models")
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10; without, images are drawn")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=USUAL, help=f"folder for results and logs; {USUAL}"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BUDGETS)}; default: all")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.names) - set(BUDGETS)):
        parser.error(f"no figure {', '.join(unknown)}; there are {', '.join(BUDGETS)}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code is 1 when something failed or a target is missed, 2 without the device."""
    options = parse(argv)
    if lacks := _lacks(options.device):
        print(f"error: {lacks}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    options.out.mkdir(parents=True, exist_ok=True)
    console, report, results = Console(), Report(), list[Result]()
    machine = describe_machine() | describe_device(options.device)
    console.print(f"measuring on {machine} ...", highlight=False)
    first = time.monotonic()
    for name in options.names or BUDGETS:
        began = time.monotonic()
        said = _measure(
            name, options, min(BUDGETS[name], sum(BUDGETS.values()) - (began - first)), report, results
        )
        report.seconds[name] = round(time.monotonic() - began, 1)
        print(f"{name}, {report.seconds[name]:.0f} s: {said}", flush=True)
        report.write(options.out / FILE, results, machine, quick=options.quick)
    console.print(table(results))
    console.print(f"results are in {options.out / FILE}", highlight=False)
    missed = not all(target.met for result in results for target in result.targets)
    return 1 if report.failed or missed else 0


def _lacks(device: str) -> str:
    """What this machine lacks, and what to do; "" if nothing."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        how = "the same on the CPU, with tiny models: make gpu QUICK=1 ARGS='--device cpu'"
        return f"PyTorch {torch.__version__} finds no CUDA device here; {how}"
    try:
        import_module("protos.leader_pb2_grpc")
    except Exception as error:  # RuntimeError and protobuf's own: they say which release is wanted
        return f"grpcio or protobuf is missing or too old: {' '.join(str(error).split())}"
    return ""


def describe_device(name: str) -> dict[str, object]:
    """The device, and what drives it."""
    if not name.startswith("cuda"):
        return {"device": f"{name} ({platform.machine()})"}
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    card = torch.cuda.get_device_properties(torch.device(name))
    memory = {"device_memory_gib": round(card.total_memory / 2**30, 1)}
    return {
        "device": card.name,
        **memory,
        "cuda": torch.version.cuda,
        "cudnn": cudnn,
    }


def _measure(
    name: str, options: argparse.Namespace, budget_s: float, report: Report, results: list[Result]
) -> str:
    """Run a figure, or the tests, within its budget, and note what comes of it; returns that in words."""
    log, outcome = options.out / f"{name}.log", (options.out / f"{name}.outcome").resolve()
    outcome.unlink(missing_ok=True)
    # On a CPU, threads that wait for each other on a busy core would be most of what is measured.
    threads = {"OMP_NUM_THREADS": "1"} if options.device == "cpu" else {}
    code = _run(_command(name, options, outcome), log, budget_s, threads)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if code != 0:
        why = f"took longer than {budget_s:.0f} s" if code is None else f"failed with exit code {code}"
        report.failed[name] = "\n".join([f"{why}; the end of {log}:", *lines[-20:]])
        return report.failed[name]
    if name == TESTS:
        return str(lines[-1])
    found = json.loads(outcome.read_text(encoding="utf-8"))
    outcome.unlink()
    if isinstance(found, str):
        report.left_out[name] = found
        return f"left out: {found}"
    results.append(read_result(found))
    return "measured"


def _command(name: str, options: argparse.Namespace, outcome: Path) -> list[str]:
    if name == TESTS:
        # Without pyproject.toml, whose settings are of plugins that may not be here.
        flags = (
            "-c",
            os.devnull,
            "--rootdir",
            str(ROOT),
            "--import-mode=importlib",
            "-p",
            "no:cacheprovider",
        )
        quiet = ("-q", "-rs", "-W", "ignore::pytest.PytestUnknownMarkWarning")
        return ["-m", "pytest", *flags, *quiet, "-m", "gpu", *_marked()]
    data = ("--data", str(options.data.resolve())) if options.data else ()
    quick = ("--quick",) if options.quick else ()
    flags = ("--device", options.device, "--outcome", str(outcome), *data, *quick)
    return ["-m", "benchmarks.gpu.job", name, *flags]


def _marked() -> Iterator[str]:
    """The test files with the marker: to load all others takes longer, and more packages."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "@pytest.mark.gpu" in path.read_text(encoding="utf-8"):
            yield str(path)


def _run(arguments: Sequence[str], log: Path, budget_s: float, variables: Mapping[str, str]) -> int | None:
    """Run Python with these, by stand-ins for what is missing; its exit code, or None when its time is up."""
    paths = [str(ROOT), str(ROOT / "benchmarks" / "gpu" / "bare"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        **variables,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )
    try:
        return process.wait(max(budget_s, 0))
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
