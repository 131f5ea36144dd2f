"""The audit of a real run: all that happened is in it, by whomever it was written, and no change passes the check."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from leader.trust.audit.chain import Audit
from protos import leader_pb2, trust_pb2
from tests.integration.audits import records, told
from tests.integration.harness import Cluster, Leader, Program, Settings, assert_same_bits, succeed
from tests.leader.trust.fleet import connect
from utils.errors import ForbiddenError
from utils.trust import contract, pki
from utils.trust.credentials import Credentials
from utils.wire import contract as wire
from utils.wire.status import failures_told

TIMEOUT_S = 20.0
TORN = b'{"n":99,"t":17958'
#: All kinds of lines that an audit has.
KINDS = {
    *("start", "registered", "left", "refused", "committed", "stop", "repaired"),
    *("token made", "token revoked", "enrolled", "renewed", "issued", "revoked", "forgotten"),
}


class Run(NamedTuple):
    """A run that is over, and all that keeps a head of its audit."""

    cluster: Cluster
    leader: Leader
    operators: list[Program]

    @property
    def kept(self) -> list[Path]:
        """The run's folder, and what its learners have kept."""
        return [self.leader.run_dir, *sorted(self.cluster.home.glob("identities/*/*/witness.json"))]


async def renew_ask_too_much_and_leave(leader: Leader, held: Path) -> None:
    """What somebody does with the files that were issued to it."""
    who = Credentials(*((held / name).read_bytes() for name in ("key.pem", "cert.pem", "ca.pem")))
    async with connect(leader.address, who) as channel:
        request = trust_pb2.RenewRequest(csr=pki.make_csr(pki.key_from_pem(who.key)))
        await contract.RENEW.ask(channel, request, TIMEOUT_S)
        with pytest.raises(ForbiddenError), failures_told():
            await contract.LIST_TOKENS.ask(channel, trust_pb2.ListRequest(), TIMEOUT_S)
        info = leader_pb2.LearnerInfo(control=leader_pb2.CONTROL_SESSION)
        ack = await wire.REGISTER.ask(channel, info, TIMEOUT_S)
        session = wire.SESSION.open(channel)
        await session.write(leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=ack.token)))
        await session.write(leader_pb2.LearnerMessage(goodbye=leader_pb2.Goodbye(reason="enough")))
        await asyncio.to_thread(leader.event, "LearnerLeft", name="eve")


@pytest.fixture(scope="module")
def run(tiny: Settings, lasting: Cluster) -> Run:
    """A run whose leader was killed in the middle of a line, and into whose audit six others wrote meanwhile."""
    leader = lasting.leader(tiny, secure=True, faults="kill@leader.collected:3")
    lasting.operate("issue", "eve", "--out", str(lasting.folder / "eve"))
    asyncio.run(renew_ask_too_much_and_leave(leader, lasting.folder / "eve"))
    crew = [lasting.join(leader, name) for name in "ab"]
    assert leader.wait() == -signal.SIGKILL
    with (lasting.trust / "audit.jsonl").open("ab") as audit:
        audit.write(TORN)
    resumed = lasting.resumed(leader)
    lasting.token("--name", "dan")
    (unused,) = [line.split()[1] for line in lasting.operate("list") if "dan" in line]
    wishes = [("revoke-token", unused), ("revoke", "eve"), *(("token", "--name", n) for n in "wxyz")]
    trust = ("--dir", str(lasting.trust))
    operators = [lasting.program("operator", ["leader.trust", *words, *trust]) for words in wishes]
    succeed(*operators, resumed, *crew)
    lasting.operate("forget", "eve")
    return Run(lasting, resumed, operators)


def test_every_kind_of_event_is_in_it_with_who_did_it(run: Run, undisturbed: Leader) -> None:
    trust = run.cluster.trust
    lines = records(trust)
    assert {line["what"] for line in lines} == KINDS
    assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    audit = told(trust)
    assert audit["enrolled", "a"] == audit["enrolled", "b"] == audit["renewed", "eve"] == 1
    assert audit["registered", "a"] == audit["registered", "b"] == audit["start", ""] == 2
    assert audit["refused", "eve"] == audit["issued", "eve"] == audit["left", "eve"] == 1
    by_operators = [line for line in lines if line["what"] in ("token made", "token revoked", "revoked")]
    assert len(by_operators) == 2 + 1 + len(run.operators)  # two leaders' own tokens, and that for dan
    commits = [line for line in lines if line["what"] == "committed"]
    assert [(line["round"], line["learners"]) for line in commits] == [(n, ["a", "b"]) for n in range(1, 8)]
    summary = run.leader.summary
    assert commits[-1]["weights_sha256"] == summary["model_sha256"]
    (repaired,) = [line for line in lines if line["what"] == "repaired"]
    assert repaired["bytes"] == len(TORN)
    assert lines.index(repaired) < lines.index(commits[2])
    assert_same_bits(run.leader.run_dir, undisturbed.run_dir)


def check(run: Run, folder: Path, *flags: str) -> Program:
    """`audit verify`, with what was kept at the leader and at the learners."""
    return run.cluster.program("auditor", ["leader.trust", "audit", "verify", "--dir", str(folder), *flags])


def kept(run: Run) -> list[str]:
    return [word for path in run.kept for word in ("--run", str(path))]


def test_what_leader_and_learners_have_kept_is_in_it(run: Run) -> None:
    trust = run.cluster.trust
    assert len(run.kept) == 3
    summary = run.leader.summary
    by_all, by_one = check(run, trust, *kept(run)), check(run, trust, "--head", summary["audit_head"])
    number, digest = summary["audit_head"].split(":")
    wrong = check(run, trust, "--head", f"{int(number) - 1}:{digest}")
    for auditor, heads in ((by_all, "kept heads in it: "), (by_one, "kept heads in it: 1")):
        auditor.succeed()
        assert f"{len(records(trust))} lines are right; {heads}" in auditor.output
    assert wrong.wait() == 1
    assert f"line {int(number) - 1} is not the line that was kept as a head" in wrong.output


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "audit.jsonl").read_bytes().splitlines(keepends=True)


def write(folder: Path, lines: list[bytes]) -> None:
    (folder / "audit.jsonl").write_bytes(b"".join(lines))


def edit(folder: Path) -> None:
    write(folder, [line.replace(b'"who":"eve"', b'"who":"ann"') for line in lines_of(folder)])


def cut(folder: Path) -> None:
    lines = lines_of(folder)
    write(folder, lines[: max(n for n, line in enumerate(lines) if b'"what":"committed"' in line)])


def reorder(folder: Path) -> None:
    lines = lines_of(folder)
    write(folder, [*lines[:5], lines[6], lines[5], *lines[7:]])


def restamp(folder: Path) -> None:
    """Write everything anew, signed by a key of one's own."""
    entries = records(folder)
    for path in folder.glob("audit.*"):
        path.unlink()
    audit = Audit(folder)
    for entry in entries:
        audit.record(**{name: entry[name] for name in entry if name not in ("n", "t", "prev", "sig")})
    audit.close()


def test_whatever_is_changed_afterwards_is_found_by_the_command(run: Run, tmp_path: Path) -> None:
    auditors = {}
    for change in (edit, cut, reorder, restamp):
        folder = tmp_path / change.__name__
        shutil.copytree(run.cluster.trust, folder)
        change(folder)
        auditors[change.__name__] = check(run, folder, *kept(run))
    auditors["chain alone"] = check(run, tmp_path / "restamp")
    assert {how: auditor.wait() for how, auditor in auditors.items()} == {
        **dict.fromkeys(("edit", "cut", "reorder", "restamp"), 1),
        "chain alone": 0,  # its own key has signed it: only what was kept elsewhere can tell
    }
    assert "line 6 is numbered 7" in auditors["reorder"].output
    assert "lines were cut from the end" in auditors["cut"].output
    assert "the audit was written anew" in auditors["restamp"].output
    lines = lines_of(run.cluster.trust)
    first = next(n for n, line in enumerate(lines, 1) if b'"who":"eve"' in line)
    assert f"line {first} is not signed by the key of audit.pub" in auditors["edit"].output
