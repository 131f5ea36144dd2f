"""Each run event in one line of words, for log and terminal."""

from __future__ import annotations

import logging
import time

from leader import events, metric_names
from leader.trust.admission import Invitation
from utils.wire.rpc import is_any, own_host

_DEBUG = (
    events.StepApplied,
    events.LearnerProgress,
    events.UpdateAccepted,
    events.RoundStarted,
    events.EvaluationSkipped,
)
_WARNING = (
    events.CallRefused,
    events.EdgeLeft,
    events.LearnerOverdue,
    events.RoundAbandoned,
    events.UpdatesLost,
)


def level_of(event: events.Event) -> int:
    """How severe `event` is, as a logging level; what happens many times a round is DEBUG."""
    if isinstance(event, _DEBUG):
        return logging.DEBUG
    return logging.WARNING if isinstance(event, _WARNING) else logging.INFO


def learner_command(started: events.RunStarted, proof: str | None = None) -> str:
    """What to run on another machine to join the leader of this run; `proof` in place of the event's."""
    host, _, port = started.address.rpartition(":")
    host = own_host() if is_any(host) else host
    proof = started.proof if proof is None else proof
    flags = (f"--leader {host}:{port}", proof, "--data DIR" if started.own_data else "")
    return " ".join(["python -m learner", *filter(None, flags)])


def invitation_lines(started: events.RunStarted, invitation: Invitation, join: str) -> list[str]:
    """How learners come into a secure run: the first time with `join`, a token or where it is, then without."""
    until = time.strftime("%a %d %b %H:%M UTC", time.gmtime(invitation.until))
    folder = f"{invitation.folder}/{' (made now)' if invitation.made else ''}"
    return [
        f"secure: CA {invitation.fleet} in {folder}; on each learner, once, until {until}:",
        f"  {learner_command(started, f'--join {join}')}",
        f"from then on: {learner_command(started, '')}",
    ]


def size(count: float) -> str:
    """`count` bytes with a decimal unit, such as 3.2 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def number_of(count: int, noun: str) -> str:
    """Such as `1 learner`, `2 learners`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def describe(event: events.Event, rounds: int, join: str = "") -> str:
    """`event` of a run of `rounds` rounds in one line; `join` is the command that a learner joins with."""
    match event:
        case events.RunStarted():
            resumed = f", resumed after round {event.resumed_round}" if event.resumed_round else ""
            return (
                f"run {event.run_id}: {event.model} ({event.parameters:,} parameters) on {event.dataset}, "
                f"{event.exchange} exchange, {number_of(event.rounds, 'round')}{resumed}; "
                f"listening on {event.address}, results in {event.run_dir}"
            )
        case events.WaitingForLearners():
            return f"waiting for learners: {event.have} of {event.need}; on each run: {join}"
        case events.EdgeServes():
            return f"edge {event.name} takes updates at {', '.join(event.addresses)}"
        case events.EdgeLeft():
            return f"edge {event.name} left"
        case events.UpdatesLost():
            lost = number_of(len(event.parts), "update")
            return f"{lost} were lost with an edge, and are asked for again"
        case _:
            return _describe_learners(event) or _describe_round(event, rounds)


def describe_spent(event: events.RoundCommitted) -> str:
    """What a round of a private run has left of its learners' privacy, such as `eps 3.2 of 8`."""
    return f"eps {event.epsilon:.2g} of {event.budget:g}"


def _moved(part: str, to: str, name: str) -> str:
    """What becomes of a part of `name` that is overdue."""
    if not to:
        return f"{part} is left out"
    return f"{part} stays, nobody else is here" if to == name else f"{part} moves from {name} to {to}"


def describe_spread(scored: tuple[str, events.Spread]) -> str:
    """A metric's name and its spread over the learners, such as `accuracy 61.00%, worst 10% 40.00%`."""
    name, spread = scored
    told = f"{name} {metric_names.show(name, spread['mean'])}"
    if "worst_decile" in spread:
        told += f", worst 10% {metric_names.show(name, spread['worst_decile'])}"
    return told


def _describe_learners(event: events.Event) -> str:
    """What learners do and are refused; "" for any other event."""
    match event:
        case events.LearnerJoined():
            own = "" if event.own_examples is None else f", {event.own_examples:,} examples of its own"
            return f"learner {event.learner_id} {event.name} joined: {event.device}{own}"
        case events.LearnerLeft():
            return f"learner {event.learner_id} {event.name} left: {event.reason}"
        case events.LearnersCounted():
            joined = number_of(event.joined, "more learner")
            return f"{joined} joined and {event.left:,} left in {event.seconds:.0f} s"
        case events.LearnerOverdue():
            moved = [_moved(part, to, event.name) for part, to in event.moved.items()]
            return (
                f"learner {event.learner_id} {event.name} sent no update within {event.waited_s:.3g} s: "
                f"{', '.join(moved)}; for {event.behind_s:.3g} s others are given work first"
            )
        case events.LearnerProgress():
            return (
                f"learner {event.learner_id} is at step {event.done}/{event.total} "
                f"of round {event.round}, {event.images_per_s:.0f} images/s"
            )
        case events.UpdateAccepted():
            return (
                f"round {event.round} step {event.step + 1}: update of learner {event.learner_id} accepted: "
                f"loss {event.loss:.4f}, {event.examples:,} examples, {size(event.bytes)}"
            )
        case events.CallRefused():
            who = "an unknown caller" if event.learner_id is None else f"learner {event.learner_id}"
            more = f" (and {event.suppressed:,} more like it)" if event.suppressed else ""
            return f"refused {event.method or 'a call'} of {who}: {event.reason}{more}"
        case _:
            return ""


def _describe_round(event: events.Event, rounds: int) -> str:
    match event:
        case events.RoundStarted():
            counts = f"{number_of(event.learners, 'learner')}, {number_of(event.steps, 'step')}"
            return f"round {event.round}/{rounds} started: {counts}"
        case events.StepApplied():
            return f"round {event.round}/{rounds} step {event.step + 1}/{event.steps}: loss {event.loss:.4f}"
        case events.RoundAbandoned():
            return f"round {event.round}/{rounds} abandoned, it is tried again: {event.reason}"
        case events.RoundCommitted():
            told = f"loss {event.loss:.4f}" if event.epsilon is None else describe_spent(event)
            return (
                f"round {event.round}/{rounds} committed: {told}, {event.seconds:.1f} s, "
                f"{number_of(event.learners, 'learner')}, "
                f"up {size(event.bytes_up)}, down {size(event.bytes_down)}"
            )
        case events.Evaluated():
            scores = [
                f"test {name} {metric_names.show(name, value)}" for name, value in event.metrics.items()
            ]
            return f"round {event.round}/{rounds} evaluated: {', '.join(scores)}"
        case events.FederatedEvaluated():
            model = f"round {event.round}/{rounds}" if event.round else "initial weights"
            return f"{model} scored by learners: {'; '.join(map(describe_spread, event.scores.items()))}"
        case events.EvaluationSkipped():
            return f"round {event.round}/{rounds} not evaluated: a newer model was ready"
        case events.RunFinished(reason=""):
            early = f"; {event.stopped_early}" if event.stopped_early else ""
            return f"run finished after round {event.round}/{rounds}: {event.seconds:.1f} s{early}"
        case events.RunFinished():
            return f"run stopped after round {event.round}/{rounds}: {event.reason}"
        case _:
            return type(event).__name__
