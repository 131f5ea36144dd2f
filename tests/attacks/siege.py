"""A siege: an attack on a real leader while real learners train, and what they and the leader were seen to bear."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from grpc import aio
from h2.exceptions import H2Error

from tests.attacks.honest import DOWN, TOOK, TRAINING_S, UNARY, UP
from tests.integration.harness import Cluster, Entry, Leader, Program, cluster_in
from tests.leader.trust.fleet import Fleet
from utils.trust.credentials import Credentials
from utils.trust.names import TLS_NAME

HONEST = "tests.attacks.honest"
PLAIN, INSECURE, SECURE = (
    "plain",
    "insecure",
    "secure",
)  # how a leader is run; what "insecure" is: beyond loopback
WARM_ROUNDS = 5  # committed before the attack begins
INSIDER_S = 1.5  # that an attacker trains which is a learner itself
NOTHING = "nothing"  # as the name of an attack
_BETWEEN_S = 0.1  # of a round, beside training
_LOOK_S = 0.1
_REFUSED_S = 0.05  # pause of an attacker
_LATEST = 3.0  # times as long as wanted, and a minute: then the run is ended

#: The model that users begin with (ResNet-9, 1.7 MB); each learner has a shard of the leader's data.
SETTINGS: Mapping[str, object] = {
    "seed": 7,
    "exchange": "delta",
    "data.source": "synthetic",
    "data.train_examples": 64,
    "data.test_examples": 10,
    "evaluation.every": 4,  # what the first one takes is taken before the attack
    "train.local_steps": 1,
}


@dataclass(frozen=True)
class Victim:
    """What an attacker knows: where the leader is, and in a secure run what it was enrolled with."""

    address: str
    held: Credentials | None = None


#: Attacks until it is cancelled.
Attacker = Callable[[Victim], Coroutine[Any, Any, None]]


#: Attacks by the session token and the open work of a learner; begun anew with each order, else like an attacker.
Insider = Callable[..., Coroutine[Any, Any, object]]  # (victim, *, token, work_id)

#: What a call of an attacker may fail with: it is refused, or its connection is.
REFUSED = (aio.AioRpcError, aio.UsageError, OSError, EOFError, H2Error)


#: How often `again` has done what in this process, and how often it was refused with what.
DEEDS: Counter[str] = Counter()


async def tell_deeds() -> None:
    """Write DEEDS once a second, for ever."""
    while True:
        await asyncio.sleep(1)
        print(json.dumps({"event": "Deeds", "deeds": dict(DEEDS.most_common(5))}), flush=True)


def _words(error: Exception) -> str:
    return str(error.details()) if isinstance(error, aio.AioRpcError) else str(error)


def again(once: Callable[[Victim], Awaitable[object]], at_once: int = 1, pause_s: float = 0.0) -> Attacker:
    """An attacker that does this over and over, some at once, whatever it is refused with."""

    async def one(victim: Victim) -> None:
        while True:
            try:
                await once(victim)
                DEEDS["done"] += 1
            except REFUSED as error:
                DEEDS[f"{type(error).__name__}: {_words(error)[:100]}"] += 1
                await asyncio.sleep(_REFUSED_S)
            await asyncio.sleep(pause_s)

    async def attack(victim: Victim) -> None:
        await asyncio.gather(*(one(victim) for _ in range(at_once)))

    return attack


@dataclass(frozen=True)
class Attack:
    """One row of what a leader must bear."""

    name: str
    says: str  # what it does
    bound: str  # what bounds it, with the keys that say how much
    test: str  # the file in tests/ that shows it
    attacker: Attacker | None = None
    insider: Insider | None = (
        None  # of a third learner; None twice: nothing could go on for a minute, see the test
    )
    modes: tuple[str, ...] = (PLAIN, SECURE)
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def lasts(self) -> bool:
        """Whether it can be kept up."""
        return self.attacker is not None or self.insider is not None

    def scene(self, mode: str) -> str:
        """What an undisturbed run must have in common with this to be compared with it."""
        return f"{mode} {self.insider is not None} {sorted(self.settings.items())}"


@dataclass(frozen=True)
class Borne:
    """What was seen in one run, from the attack's beginning to the run's end; all of both learners."""

    unary_s: float  # the slowest; infinite if there was none
    download_s: float
    upload_s: float
    usual_download_s: float  # the median, of use in a run without an attack
    usual_upload_s: float
    newcomer_s: float  # until a learner that came in the middle was registered
    grown_bytes: int  # the leader's resident set at its largest, to that before
    run_s: float
    committed: int  # rounds
    sha256: str  # of the model; "" where the run did not end
    trouble: str  # what else is wrong
    deeds: Mapping[str, int] = field(default_factory=dict)  # of the attacker, as far as it counts them

    def missed(self, quiet: Borne) -> list[str]:
        """Which of the targets it misses, against an undisturbed run."""
        checks = {
            f"a unary call took {self.unary_s:.2f} s": self.unary_s <= UNARY_S,
            f"a download took {self.download_s:.2f} s": self.download_s <= allowed(quiet.usual_download_s),
            f"an upload took {self.upload_s:.2f} s": self.upload_s <= allowed(quiet.usual_upload_s),
            f"the leader grew by {self.grown_bytes / MIB:.0f} MiB": self.grown_bytes <= GROWN_BYTES,
            "the run did not end": bool(self.sha256),
            "other bits": self.sha256 in ("", quiet.sha256),
            self.trouble: not self.trouble,
        }
        return [what for what, holds in checks.items() if not holds]


MIB = 1 << 20
UNARY_S, GROWN_BYTES = 0.5, 256 * MIB


def allowed(usual_s: float) -> float:
    """Seconds that a transfer may take under attack."""
    return 3 * usual_s + 1


def besiege(attack: Attack, mode: str, seconds: float, folder: Path, *, quiet: bool = False) -> Borne:
    """A run of about so many seconds under this attack, or the same in `quiet`."""
    rounds = WARM_ROUNDS + math.ceil(seconds / (_BETWEEN_S + (INSIDER_S if attack.insider else TRAINING_S)))
    with cluster_in(folder) as cluster:
        scene = Scene(cluster, attack, mode, rounds)
        crew = [scene.learner("a"), scene.learner("b")]
        storm = None
        if attack.insider:
            storm = scene.eve(NOTHING if quiet else attack.name)
        scene.leader.event("RoundCommitted", round=WARM_ROUNDS)
        before, began, clock = _resident(scene.leader), time.time(), time.monotonic()
        if attack.attacker and not quiet:
            storm = scene.storm()
        scene.learner("newcomer")
        peak = _watch(scene.leader, _LATEST * seconds + 60)
        run_s = time.monotonic() - clock
        trouble = _trouble(scene.leader, storm)
        cluster.end()
        return _borne(scene.leader, crew, storm, began, peak - before, run_s, trouble)


class Scene:
    """A leader and who comes to it."""

    def __init__(self, cluster: Cluster, attack: Attack, mode: str, rounds: int) -> None:
        self._cluster, self._attack, self._secure = cluster, attack, mode == SECURE
        settings = {**SETTINGS, "rounds": rounds, "learners": 3 if attack.insider else 2, **attack.settings}
        if mode == INSECURE:
            settings["trust.mode"] = "off"
        listen = "0.0.0.0:0" if mode == INSECURE else "127.0.0.1:0"
        self.leader = cluster.leader(settings, listen, secure=self._secure)
        self._address = self.leader.address.replace("0.0.0.0", "127.0.0.1")

    def learner(self, name: str) -> Program:
        """An honest one."""
        if self._secure:
            return self._cluster.join(self.leader, name, module=HONEST)
        return self._cluster.learner(self._address, "--name", name, module=HONEST)

    def storm(self) -> Program:
        """The attacker."""
        held = ["--held", str(self._enrolled())] if self._secure else []
        command = ["tests.attacks.attacker", self._attack.name, self._address, *held]
        return self._cluster.program("attacker", command)

    def eve(self, attack: str) -> Program:
        """The third learner, and what it does beside its work."""
        who = ["--name", "eve"]
        if self._secure:
            held = self._enrolled()
            files = {"key": "key", "certificate": "certificate", "ca": "roots"}
            who = [part for flag, name in files.items() for part in (f"--{flag}", f"{held}.{name}")]
            who += ["--server-name", TLS_NAME]
        flags = ["--leader", self._address, "--device", "cpu", "--threads", "1", "--log-format", "json"]
        return self._cluster.program("eve", ["tests.attacks.insider", attack, *flags, *who])

    def _enrolled(self) -> Path:
        """Where the attacker's identity lies: a prefix of files."""
        held, eve = self._cluster.folder / "eve", Fleet(self._cluster.trust).admit("eve")
        for name, pem in (("key", eve.key), ("certificate", eve.certificate), ("roots", eve.roots)):
            held.with_suffix(f".{name}").write_bytes(pem)
        return held


def _resident(leader: Leader) -> int:
    return int(psutil.Process(leader.process.pid).memory_info().rss)


def _watch(leader: Leader, latest_s: float) -> int:
    """Wait until the run is over, or `latest_s` have passed; the leader's largest resident set, bytes."""
    peak, deadline = 0, time.monotonic() + latest_s
    while leader.process.poll() is None and time.monotonic() < deadline:
        try:
            peak = max(peak, _resident(leader))
        except psutil.NoSuchProcess:
            break
        time.sleep(_LOOK_S)
    return peak


def _trouble(leader: Leader, storm: Program | None) -> str:
    """What is wrong beside figures; empty if nothing is."""
    code = leader.process.poll()
    if storm is not None and code is None and storm.process.poll() is not None:
        return f"the attacker ended: {storm.output.splitlines()[-1:]}"
    if code not in (None, 0):
        return f"the leader ended with exit code {code}: {leader.output.splitlines()[-1:]}"
    if "Traceback" in leader.output:
        return "the leader's log has a traceback"
    return ""


def _borne(
    leader: Leader,
    crew: list[Program],
    storm: Program | None,
    began: float,
    grown: int,
    run_s: float,
    trouble: str,
) -> Borne:
    leader.wait()
    took: dict[str, list[float]] = {UNARY: [], DOWN: [], UP: []}
    for program in crew:
        program.wait()
        for entry in program.events(TOOK):
            if entry["time"] >= began:
                took[entry["what"]].append(entry["seconds"])
    commits = leader.events("RoundCommitted")
    model = leader.run_dir / "model.safetensors"
    ended = bool(leader.events("RunFinished")) and model.exists()
    return Borne(
        unary_s=max(took[UNARY], default=math.inf),
        download_s=max(took[DOWN], default=math.inf),
        upload_s=max(took[UP], default=math.inf),
        usual_download_s=median(took[DOWN]) if took[DOWN] else math.inf,
        usual_upload_s=median(took[UP]) if took[UP] else math.inf,
        newcomer_s=_joined(leader.events("LearnerJoined"), began),
        grown_bytes=grown,
        run_s=run_s,
        committed=max((entry["round"] for entry in commits), default=0),
        sha256=hashlib.sha256(model.read_bytes()).hexdigest() if ended else "",
        trouble=trouble,
        deeds=dict(storm.events("Deeds")[-1:][0]["deeds"]) if storm and storm.events("Deeds") else {},
    )


def _joined(entries: list[Entry], began: float) -> float:
    times = [entry["time"] - began for entry in entries if entry["name"] == "newcomer"]
    return min(times, default=math.inf)
