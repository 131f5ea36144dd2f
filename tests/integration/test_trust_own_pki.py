"""A PKI of one's own in a run of processes: all its files are replaced in mid-run, its CA too, and the run goes on."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.integration.harness import Cluster, Leader, Program, Settings, assert_same_bits, succeed
from tests.leader.trust.corporate import SERVER_NAME, Corporation
from utils.trust.names import name_of

RULES = """\
spiffe://corp/ns/fl/sa/trainer-* = learner
CN=hospital-* = learner
CN=ops@corp = operator
"""
URIS = {"hospital-a": (), "trainer-b": ("spiffe://corp/ns/fl/sa/trainer-b",)}


def write(corporation: Corporation, folder: Path) -> None:
    """New files for the leader and both learners, whose CA is this one from now on."""
    corporation.write(folder, "leader", dns=(SERVER_NAME,))
    for name, uris in URIS.items():
        corporation.write(folder, name, uris)


def start(cluster: Cluster, leader: Leader, folder: Path, name: str, faults: str = "") -> Program:
    files = {"--ca": "ca.pem", "--certificate": f"{name}.pem", "--key": f"{name}.key"}
    flags = [word for flag, file in files.items() for word in (flag, str(folder / file))]
    return cluster.learner(leader, *flags, "--server-name", SERVER_NAME, faults=faults)


def test_a_run_goes_on_under_another_ca_by_other_rules(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    folder = cluster.folder / "pki"
    write(Corporation("Old CA"), folder)
    (folder / "roles").write_text(RULES)
    files = {"certificate": "leader.pem", "key": "leader.key", "client_ca": "ca.pem", "roles": "roles"}
    settings = {f"trust.{key}": folder / name for key, name in files.items()}
    leader = cluster.leader({**tiny, **settings}, secure=True)
    stays = start(cluster, leader, folder, "hospital-a")
    waits = start(cluster, leader, folder, "trainer-b", faults="stop@learner.training:3")
    waits.frozen()
    leader.signal(signal.SIGSTOP)  # it is to see all new files at once
    after = Corporation("New CA")
    write(after, folder)
    after.write(folder, "hospital-b")
    (folder / "roles").write_text(RULES.replace("hospital-*", "hospital-a"))
    leader.signal(signal.SIGCONT)
    leader.event("log", message="listening with other certificates; whoever was connected comes again")
    assert "no rule of trust.roles fits CN=hospital-b" in start(cluster, leader, folder, "hospital-b").fail(7)
    waits.signal(signal.SIGCONT)
    succeed(leader, stays, waits)
    joined = [event["name"] for event in leader.events("LearnerJoined")]
    assert set(joined) == {"hospital-a", name_of(URIS["trainer-b"][0])}
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
