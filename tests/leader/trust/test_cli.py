from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from leader.config import TrustConfig
from leader.trust.cli import PROGRAM, main, make_parser
from leader.trust.identities.authority import Authority
from leader.trust.identities.state import TokenEntry
from protos import trust_pb2
from tests.leader.trust.leaders import leader_in
from utils.errors import ConfigError, ForbiddenError, PayloadError, UnreachableError
from utils.trust.pki import from_pem, identity_of, key_from_pem, make_csr, new_key
from utils.trust.token import JoinToken

Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def authority() -> Authority:
    """The CA that the commands made."""
    return Authority(Path("trust"), TrustConfig(), make=False)


def join(token: JoinToken, name: str = "") -> str:
    """The name that somebody new gets with a token."""
    csr = make_csr(new_key())
    proof = token.prove(csr)
    request = trust_pb2.EnrolRequest(csr=csr, name=name, token_id=token.token_id, proof=proof)
    return authority().enrol(request).name


def made(capsys: Printed, *flags: str) -> JoinToken:
    """The token that the command prints."""
    assert main(["token", *flags]) == 0
    return JoinToken.parse(capsys.readouterr().out)


def test_token_prints_its_text_alone_and_the_rest_beside_it(capsys: Printed) -> None:
    assert main(["token"]) == 0
    out, err = capsys.readouterr()
    token = JoinToken.parse(out)
    assert out == token.text + "\n"
    assert token.text not in err
    assert err.startswith(
        f"made a new CA, {authority().fleet}, in trust/\ntoken {token.token_id} for learner"
    )
    assert "python -m learner --leader HOST:PORT --join TOKEN" in err
    assert main(["token"]) == 0
    assert "made a new CA" not in capsys.readouterr().err


def test_the_flags_of_a_token_are_in_it(capsys: Printed) -> None:
    flags = ["--name", "clinic-a", "--role", "operator", "--uses", "3", "--hours", "2", "--replace"]
    token = entry_of(made(capsys, *flags))
    assert (token.name, token.role, token.uses, token.replace) == ("clinic-a", "operator", 3, True)
    plain = entry_of(made(capsys))
    assert (plain.name, plain.role, plain.uses, plain.replace) == ("", "learner", 1, False)
    assert plain.until - token.until == pytest.approx(70 * 3600, abs=60)


def entry_of(token: JoinToken) -> TokenEntry:
    """What is on record of a token."""
    return authority().state.read().tokens[token.token_id]


def test_a_learner_is_listed_revoked_and_forgotten(capsys: Printed) -> None:
    token = made(capsys, "--uses", "0")
    join(token, "clinic-a")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["clinic-a", "learner", "until"]
    assert lines[1].startswith(
        f"token {token.token_id} for learner of any name, used 1 of any number of times"
    )

    assert main(["revoke", "clinic-a", "--why", "its disk was stolen"]) == 0
    out, err = capsys.readouterr()
    assert out == "clinic-a is revoked\n"
    assert (
        err == f"its token lets others in: python -m leader.trust revoke-token {token.token_id} ends that\n"
    )
    assert main(["list"]) == 0
    assert "revoked: its disk was stolen; token " in capsys.readouterr().out
    with pytest.raises(ForbiddenError, match="clinic-a was revoked"):
        join(token, "clinic-a")

    assert main(["forget", "clinic-a"]) == 0
    assert join(token, "clinic-a") == "clinic-a"
    capsys.readouterr()
    assert main(["revoke-token", token.token_id]) == 0
    with pytest.raises(ForbiddenError, match="no such token"):
        join(token, "clinic-b")
    assert main(["list"]) == 0
    assert "token" not in capsys.readouterr().out.splitlines()[-1].split()[0]


def test_a_name_that_nobody_has_yet_can_be_revoked(capsys: Printed) -> None:
    made(capsys)
    assert main(["revoke", "ann"]) == 0
    assert capsys.readouterr().out == "ann is revoked; nobody has joined under that name yet\n"
    assert main(["list"]) == 0
    assert "revoked: no reason given; never joined" in capsys.readouterr().out


def test_issue_writes_what_a_learner_in_another_language_needs(tmp_path: Path, capsys: Printed) -> None:
    assert main(["issue", "clinic-a", "--out", "files/clinic-a", "--hours", "48"]) == 0
    folder = tmp_path / "files" / "clinic-a"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys(
        ("ca.pem", "cert.pem", "key.pem"), 0o600
    )
    ca, certificate = (from_pem((folder / name).read_bytes()) for name in ("ca.pem", "cert.pem"))
    assert ca == authority().ca
    identity = identity_of(certificate, ca)
    assert (identity.name, identity.role) == ("clinic-a", "learner")
    assert certificate.public_key() == key_from_pem((folder / "key.pem").read_bytes()).public_key()
    authority().state.read().check_shown("clinic-a", "learner", certificate.serial_number)
    assert authority().state.read().identities["clinic-a"].by == f"issued by uid {os.getuid()}"
    assert capsys.readouterr().out.startswith(
        "files/clinic-a: ca.pem, cert.pem, key.pem of clinic-a, learner,"
    )

    assert main(["issue", "clinic-a", "--out", "other"]) == ForbiddenError.exit_code
    assert not Path("other").exists()
    assert main(["issue", "clinic-a", "--out", "other", "--replace"]) == 0


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_issue_certifies_a_key_that_stays_where_it_is(encoding: Encoding) -> None:
    key = new_key()
    Path("csr").write_bytes(x509.load_der_x509_csr(make_csr(key)).public_bytes(encoding))
    assert main(["issue", "ann", "--role", "operator", "--csr", "csr", "--out", "ann"]) == 0
    assert sorted(path.name for path in Path("ann").iterdir()) == ["ca.pem", "cert.pem"]
    assert from_pem(Path("ann/cert.pem").read_bytes()).public_key() == key.public_key()


def test_a_request_for_another_kind_of_key_is_refused(capsys: Printed) -> None:
    wrong = x509.CertificateSigningRequestBuilder(x509.Name([]))
    Path("csr").write_bytes(
        wrong.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()).public_bytes(Encoding.PEM)
    )
    assert main(["issue", "ann", "--csr", "csr", "--out", "ann"]) == ForbiddenError.exit_code
    assert "P-256" in capsys.readouterr().err


def test_what_is_done_is_in_the_audit_and_the_audit_is_checked(capsys: Printed) -> None:
    made(capsys)
    assert main(["issue", "ann", "--role", "operator", "--out", "ann"]) == 0
    assert main(["revoke", "ann"]) == 0
    path = Path("trust/audit.jsonl")
    assert [json.loads(line)["what"] for line in path.read_text().splitlines()] == [
        "token made",
        "issued",
        "revoked",
    ]
    capsys.readouterr()
    assert main(["audit", "verify"]) == 0
    out = capsys.readouterr().out
    head = out.split()[-1]
    assert out.startswith("trust/audit.jsonl: 3 lines are right")
    assert head.startswith("3:")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert main(["audit", "verify"]) == 0
    assert main(["audit", "verify", "--head", head]) == 1
    assert "line 3 is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ("", ConfigError, "give a verb, one of token, list, revoke, "),
        ("revok", ConfigError, "did you mean revoke?"),
        ("xyzzy", ConfigError, "give a verb, one of "),
        ("--verison", ConfigError, "--verison: unknown flag; did you mean --version?"),
        ("token --nam x", ConfigError, "--nam: unknown flag; did you mean --name?"),
        ("token --why x", ConfigError, "--why: unknown flag"),
        ("token --hours 0", ConfigError, "--hours: '0' is no number above 0"),
        ("token --uses -1", ConfigError, "--uses: "),
        ("token --role leader", ConfigError, "--role: invalid choice: 'leader'"),
        ("token --replace", PayloadError, "needs that name"),
        ("token --name a/b", PayloadError, "name 'a/b' is not 1 to 64 of letters"),
        ("revoke", ConfigError, "NAME"),
        ("revoke a b", ConfigError, "unexpected argument 'b'"),
        ("issue ann", ConfigError, "--out"),
        ("issue ann --out o --csr nowhere", ConfigError, "--csr nowhere can't be read"),
        ("audit check", ConfigError, "invalid choice: 'check'"),
        (
            "list --dir nowhere",
            ConfigError,
            "nowhere/ca.key: No such file or directory; is this the leader's folder",
        ),
        ("list --leader 127.0.0.1:1", ConfigError, "--leader: say who you are with --identity DIR"),
        ("list --leader 127.0.0.1:1 --identity no", ConfigError, "no/key.pem can't be read"),
        ("forget nobody", PayloadError, "nobody is named 'nobody'; see list"),
        ("revoke-token 0123456789", PayloadError, "there is no token '0123456789'; see list"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    argv: str, code: type[ConfigError | PayloadError], words: str, capsys: Printed
) -> None:
    authority_made = Authority(Path("trust"), TrustConfig())
    assert main(argv.split()) == code.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert len(err.splitlines()) == 1
    records = authority_made.state.read()
    assert (records.tokens, records.identities, records.revoked) == ({}, {}, {})


@pytest.mark.parametrize("word", ["", *PROGRAM.verbs])
def test_every_verb_has_help(word: str, capsys: Printed) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*word.split(), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m leader.trust ")
    for flag in PROGRAM.verbs[word].flags if word else ():
        assert f"  {flag}" in text
    for name, verb in PROGRAM.verbs.items() if not word else ():
        assert f"  {name} {verb.what}".rstrip() in text
        assert verb.about in text


def test_shells_can_complete_every_flag() -> None:
    known = {flag for action in make_parser()._actions for flag in action.option_strings}
    assert known >= {flag for verb in PROGRAM.verbs.values() for flag in verb.flags}


async def use_from_elsewhere(tmp_path: Path, capsys: Printed) -> None:
    """Every verb, at a leader that is asked over TLS."""

    async def there(line: str, leader: str, who: str = "bob") -> tuple[int, str, str]:
        argv = [*line.split(), "--leader", leader, "--identity", who]
        code = await asyncio.to_thread(main, argv)
        return code, *capsys.readouterr()

    assert main(["issue", "bob", "--role", "admin", "--out", "bob"]) == 0
    assert main(["issue", "ann", "--role", "operator", "--out", "ann"]) == 0
    capsys.readouterr()
    async with leader_in(tmp_path / "trust") as leader:
        code, out, err = await there("token --name clinic-a", leader.address)
        assert code == 0
        assert JoinToken.parse(out).token_id in err
        join(JoinToken.parse(out))
        assert (await there("list", leader.address))[1].splitlines()[2].startswith("clinic-a ")
        assert (await there("revoke clinic-a", leader.address, "ann"))[:2] == (0, "clinic-a is revoked\n")
        code, _, err = await there("forget bob", leader.address, "ann")
        assert (code, err) == (7, "error: operator may not do this for admin; ask an admin\n")
        assert (await there("forget clinic-a", leader.address))[0] == 0

        code, out, _ = await there("issue carol --role operator --out carol", leader.address)
        assert code == 0
        assert out.startswith("carol: ca.pem, cert.pem, key.pem of carol, operator, until ")
        assert (await there("list", leader.address, "carol"))[0] == 0
        assert (await there("issue eve --role admin --out eve", leader.address, "carol"))[0] == 7
        code, _, err = await there("issue eve --hours 1 --out eve", leader.address)
        assert (code, err.partition(";")[0]) == (
            ConfigError.exit_code,
            "error: --hours: a leader elsewhere issues for its own trust.cert_hours",
        )
        assert (await there("revoke bob", leader.address))[0] == 0
        code, _, err = await there("list", leader.address)
        assert (code, err) == (7, "error: bob was revoked; ask the leader's operator\n")
        address = leader.address
    code, _, err = await there("list", address)
    assert code == UnreachableError.exit_code
    assert err.startswith(f"error: --leader {address}: ")


def test_the_same_verbs_at_a_leader_elsewhere(tmp_path: Path, capsys: Printed) -> None:
    asyncio.run(use_from_elsewhere(tmp_path, capsys))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ann", "bob", "carol", "trust"]


def test_the_module_is_a_program() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "leader.trust", "token"], capture_output=True, text=True, check=True
    )
    assert JoinToken.parse(found.stdout).text + "\n" == found.stdout
    wrong = subprocess.run([sys.executable, "-m", "leader.trust", "tokn"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (ConfigError.exit_code, "")
