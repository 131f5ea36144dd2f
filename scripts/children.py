"""Child processes that live and die together: one main program and its companions."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from asyncio.subprocess import Process
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LEAVE_S = 60.0  # for the companions to end by themselves once the main program has
STOP_S = 20.0  # from the polite signal to the other one
TAIL_LINES = 20


@dataclass(frozen=True)
class Program:
    """What to start: a name for messages, a command line, and the file that its output goes to."""

    name: str
    command: tuple[str, ...]
    log: Path | None = None  # None: it shares this terminal


class ProgramFailedError(Exception):
    """A program ended badly; the message says how and shows the end of its log."""

    def __init__(self, program: Program, what: str) -> None:
        shown = f"; the end of {program.log}:\n{tail(program.log)}" if program.log else ""
        super().__init__(f"{program.name} {what}{shown}")


class StoppedError(Exception):
    """SIGINT, SIGTERM or SIGHUP came; all programs have been ended."""


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of `log`."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def run_together(main: Program, companions: Sequence[Program]) -> None:
    """Run all programs until `main` and then the companions have ended with exit code 0.

    Each runs in a process group of its own, so that Ctrl-C reaches this process only and each
    program is told once. However this returns, none of the programs is left running.

    Raises ProgramFailedError as soon as one of them fails, and StoppedError on a signal.
    """
    try:
        asyncio.run(_run(main, companions))
    except asyncio.CancelledError:
        raise StoppedError("stopped by a signal") from None


async def _run(main: Program, companions: Sequence[Program]) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    running: dict[Program, Process] = {}
    try:
        for program in (main, *companions):
            running[program] = await _start(program)
        await _watch(main, running)
    finally:
        await _end(running.values())


async def _start(program: Program) -> Process:
    if program.log is None:
        return await asyncio.create_subprocess_exec(
            *program.command, stdin=subprocess.DEVNULL, process_group=0
        )
    with program.log.open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *program.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


async def _watch(main: Program, running: dict[Program, Process]) -> None:
    waits = {asyncio.create_task(process.wait()): program for program, process in running.items()}
    pending, patience = set(waits), None
    while pending:
        done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.result() != 0:
                raise ProgramFailedError(waits[task], _how(task.result()))
        if not done:
            raise ProgramFailedError(
                waits[pending.pop()], f"still ran {LEAVE_S:g} s after {main.name} had ended"
            )
        if running[main].returncode is not None:
            patience = LEAVE_S


def _how(code: int) -> str:
    return f"failed with exit code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"


async def _end(processes: Iterable[Process]) -> None:
    left = [process for process in processes if process.returncode is None]
    for process in left:
        process.terminate()
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await asyncio.gather(*(process.wait() for process in left))
    finally:
        # Also when a second signal cuts the wait short.
        for process in left:
            if process.returncode is None:
                process.kill()
