"""`python -m leader.trust VERB`: its flags, and each verb done here or at a leader elsewhere."""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import aio

from leader.config import TrustConfig
from leader.config.yaml_file import SCHEMA, read_config
from leader.trust.audit.chain import Audit
from leader.trust.audit.check import report
from leader.trust.gateway import Gateway, key_in, make_gateway
from leader.trust.identities.authority import Applicant, Authority
from leader.trust.identities.manager import LOCAL, MANAGED, MOST_HOURS, Manager
from protos import trust_pb2
from utils.console import say
from utils.errors import ConfigError, UnreachableError, program
from utils.files import replace_file
from utils.settings.flags import number, whole
from utils.settings.verbs import Flag, Verb, Verbs
from utils.trust import contract, pki
from utils.trust.credentials import Credentials
from utils.trust.names import EDGE, TLS_NAME, TOKEN_ROLES
from utils.trust.token import JoinToken, door_credentials
from utils.wire.contract import Method
from utils.wire.rpc import channel_options
from utils.wire.status import failures_told

_HOURS = number(lambda hours: 0 < hours <= MOST_HOURS, f"above 0, at most {MOST_HOURS:.0f}")
_CALL_S = 30.0  # for a leader elsewhere to answer
_GATEWAY_H = 8760.0  # nothing renews it, but it may be revoked
_ISSUE_H = 0.25  # life of the token by which a leader elsewhere issues a certificate
_DESCRIPTION = """\
Say who may take part in the runs of a leader: in its folder of trust, also while it runs, or from elsewhere with \
--leader HOST:PORT --identity DIR. Each verb has flags of its own, see for example \
python -m leader.trust token --help.

"""
_FLAGS: Mapping[str, Flag] = {
    "--name": ("NAME", str, "", "the only name that may join with it [any]"),
    "--role": ("", TOKEN_ROLES, "learner", "what they may do [learner]"),
    "--uses": ("N", whole(0, 2**32 - 1), 1, "how many may join with it; 0 = any number [1]"),
    "--hours": ("H", _HOURS, None, "how long it counts [a token 72, a certificate 720, a gateway 8760]"),
    "--replace": ("", None, False, "the name may be another key's by now"),
    "--why": ("TEXT", str, "", "the reason, which is listed"),
    "--out": ("DIR", Path, ..., "folder to write to"),
    "--csr": ("FILE", Path, None, "certificate request of a key that stays where it is (PEM or DER)"),
    "--head": ("N:HASH", str, [], "a line that was kept elsewhere and must be there; may be given often"),
    "--run": ("DIR", Path, [], "run folder that keeps such lines; may be given often"),
    "--dns": ("NAME", str, [], "a name or address of the gateway's own; may be given often"),
    "--listen": ("HOST:PORT", str, "0.0.0.0:443", "where the gateway listens [0.0.0.0:443]"),
    "--config": ("FILE", Path, None, "config of the run, for its limits and JWTs [the defaults]"),
    "--leader": ("HOST:PORT", str, "", "ask the leader there, not --dir; of a gateway, the one behind it"),
    "--edge": ("HOST:PORT", str, [], "an edge behind the gateway, not the leader; may be given often"),
    "--origin": ("URL", str, [], "a site whose pages may call by grpc-web, with a JWT; may be given often"),
    "--identity": ("DIR", Path, None, "with --leader: who you are there, a folder that `issue` wrote"),
    "--dir": ("DIR", Path, Path("trust"), "the leader's folder [trust]"),
}
_PROG = "python -m leader.trust"
_WHERE = ("--leader", "--identity", "--dir")


def _token(options: Namespace) -> None:
    request = trust_pb2.TokenRequest(name=options.name, role=options.role, uses=options.uses)
    request.hours, request.replace = options.hours or 72, options.replace
    token = _ask(options, contract.MAKE_TOKEN, request)
    say(token.text)
    program = "leader.edge" if token.role == EDGE else "learner"
    _say(f"token {_described(token)}; there, once: python -m {program} --leader HOST:PORT --join TOKEN")


def _list(options: Namespace) -> None:
    for one in _ask(options, contract.LIST_IDENTITIES, trust_pb2.ListRequest()).identities:
        state = f"revoked: {one.revoked}" if one.revoked else f"until {_day(one.until)}"
        say(f"{one.name:<24} {one.role or '-':<10} {state}; {one.how or 'never joined'}")
    for token in _ask(options, contract.LIST_TOKENS, trust_pb2.ListRequest()).tokens:
        say(f"token {_described(token)}")


def _revoke(options: Namespace) -> None:
    tokens = _ask(options, contract.LIST_TOKENS, trust_pb2.ListRequest()).tokens
    one = _ask(options, contract.REVOKE, trust_pb2.RevokeRequest(name=options.what, why=options.why))
    say(f"{one.name} is revoked" + ("" if one.role else "; nobody has joined under that name yet"))
    for token in tokens:
        if one.how == f"token {token.id}" and token.until > time.time() and token.uses != token.used:
            _say(f"its token lets others in: {_PROG} revoke-token {token.id} ends that")


def _forget(options: Namespace) -> None:
    _ask(options, contract.FORGET, trust_pb2.ForgetRequest(name=options.what))
    say(f"{options.what} is forgotten; a new token may give the name again")


def _revoke_token(options: Namespace) -> None:
    _ask(options, contract.REVOKE_TOKEN, trust_pb2.TokenId(id=options.what))
    say(f"token {options.what} lets nobody in any more; who came with it stays, see list")


def _issue(options: Namespace) -> None:
    key = None if options.csr else pki.new_key()
    csr = pki.make_csr(key) if key else _read_csr(options.csr)
    issued = _issued_there if options.leader else _issued_here
    credential = issued(options, csr)
    certificate = x509.load_der_x509_certificate(credential.certificate)
    roots = [x509.load_der_x509_certificate(root) for root in credential.roots]
    files = {"ca.pem": b"".join(map(pki.to_pem, roots)), "cert.pem": pki.to_pem(certificate)}
    if key:
        files["key.pem"] = pki.key_to_pem(key)
    write_secrets(options.out, files)
    until = _day(pki.ends_at(certificate))
    say(f"{options.out}: {', '.join(files)} of {credential.name}, {credential.role}, until {until}")


def _issued_here(options: Namespace, csr: bytes) -> trust_pb2.Credential:
    key, by, hours = pki.key_of_csr(csr), f"issued by {LOCAL.name}", options.hours or 0.0
    applicant = Applicant(options.what, options.role, key, by, True, options.replace, hours)
    with opened(options.dir) as authority:
        return authority.issue(applicant)


def _issued_there(options: Namespace, csr: bytes) -> trust_pb2.Credential:
    """Join the leader at --leader for somebody else, with a token that is made for this alone."""
    if options.hours:
        raise ConfigError("--hours: a leader elsewhere issues for its own trust.cert_hours; leave it out")
    request = trust_pb2.TokenRequest(name=options.what, role=options.role, uses=1, hours=_ISSUE_H)
    request.replace = options.replace
    token = JoinToken.parse(_ask(options, contract.MAKE_TOKEN, request).text)
    certificate, key = door_credentials(token.door)
    root = pki.to_pem(pki.anchor(token.ca_public_key()))
    door = Credentials(pki.key_to_pem(key), pki.to_pem(certificate), root)
    enrol = trust_pb2.EnrolRequest(csr=csr, token_id=token.token_id, proof=token.prove(csr), serves=True)
    credential: trust_pb2.Credential = asyncio.run(_call(options.leader, door, contract.ENROL, enrol))
    return credential


def _gateway(options: Namespace) -> None:
    behind = (options.leader, options.dns, options.edge, options.origin)
    gateway = Gateway(options.what, options.listen, *behind)
    config = SCHEMA.build(read_config(options.config) if options.config else {})
    hours = options.hours or _GATEWAY_H
    with opened(options.dir) as authority:
        made = make_gateway(authority, config, gateway, key_in(options.out), hours, options.replace)
    write_secrets(options.out, made)
    until = _day(time.time() + 3600 * hours)
    say(f"{options.out}: {', '.join(made)} of {options.what}, gateway, until {until}")
    _say(f"to start it: cd {options.out} && envoy -c envoy.yaml")


def _audit(options: Namespace) -> int:
    text, code = report(options.dir, options.head, options.run)
    say(*text.split("\n"))
    return code


_OF_TOKEN = ("--name", "--role", "--uses", "--hours", "--replace")
_OF_GATEWAY = (
    "--listen",
    "--leader",
    "--edge",
    "--origin",
    "--dns",
    "--out",
    "--hours",
    "--replace",
    "--config",
    "--dir",
)
_OF_CERTIFICATE = ("--role", "--hours", "--replace", "--out", "--csr")
PROGRAM = Verbs[Callable[[Namespace], int | None]](  # gives the exit code, None = 0
    _PROG,
    _DESCRIPTION,
    _FLAGS,
    {
        "token": Verb("make a join token, which alone is printed to stdout", _token, (*_OF_TOKEN, *_WHERE)),
        "list": Verb("who was admitted or revoked, and the tokens", _list, _WHERE),
        "revoke": Verb(
            "refuse a name at once, also where it is connected", _revoke, ("--why", *_WHERE), "NAME"
        ),
        "forget": Verb("free a name, revoked or not, for somebody new", _forget, _WHERE, "NAME"),
        "revoke-token": Verb("let nobody join with a token any more", _revoke_token, _WHERE, "ID"),
        "issue": Verb(
            "make files for people and foreign learners", _issue, (*_OF_CERTIFICATE, *_WHERE), "NAME"
        ),
        "gateway": Verb("make an Envoy's config and certificates", _gateway, _OF_GATEWAY, "NAME"),
        "audit": Verb(
            "check that nothing of the audit was changed", _audit, ("--head", "--run", "--dir"), "verify"
        ),
    },
)
make_parser = PROGRAM.parser


@contextmanager
def opened(folder: Path, *, make: bool = True) -> Iterator[Authority]:
    """The CA in a folder, whose audit tells what is done; says so if the CA was made."""
    authority = Authority(folder, TrustConfig(dir=folder), make=make)
    if authority.made:
        _say(f"made a new CA, {authority.fleet}, in {folder}/")
    with closing(Audit(folder)) as audit:
        authority.record = audit.record
        yield authority


def write_secrets(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files that their owner alone can read; raises ConfigError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            replace_file(folder / name, content, mode=0o600)
    except OSError as error:
        raise ConfigError(f"--out {folder} can't be written: {error.strerror}") from error


def _ask(options: Namespace, method: Method[Any, Any], request: Any) -> Any:
    """The answer of a method that manages, here or at the leader of --leader."""
    if options.leader:
        return asyncio.run(_call(options.leader, identity_in(options.identity), method, request))
    with opened(options.dir, make=method is contract.MAKE_TOKEN) as authority:
        return MANAGED[method](Manager(authority), request)


async def _call(leader: str, shown: Credentials, method: Method[Any, Any], request: Any) -> Any:
    options = [*channel_options(), ("grpc.ssl_target_name_override", TLS_NAME)]
    async with aio.secure_channel(leader, shown.for_channel(), options) as channel:
        try:
            with failures_told():
                return await method.ask(channel, request, _CALL_S)
        except UnreachableError as error:
            raise UnreachableError(f"--leader {leader}: {error}") from error


def identity_in(folder: Path | None) -> Credentials:
    """What somebody whose files `issue` wrote shows and trusts; raises ConfigError."""
    if folder is None:
        raise ConfigError("--leader: say who you are with --identity DIR, a folder that `issue` wrote there")
    try:
        return Credentials(*((folder / name).read_bytes() for name in ("key.pem", "cert.pem", "ca.pem")))
    except OSError as error:
        raise ConfigError(f"--identity: {error.filename} can't be read: {error.strerror}") from error


def _read_csr(path: Path) -> bytes:
    try:
        text = path.read_bytes()
        load = x509.load_pem_x509_csr if text.startswith(b"-----") else x509.load_der_x509_csr
        return load(text).public_bytes(Encoding.DER)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--csr {path} can't be read: {error}") from error


def _described(token: trust_pb2.Token) -> str:
    uses = f"used {token.used} of {token.uses or 'any number of'} times"
    state = f"until {_day(token.until)}" if token.until > time.time() else "ended"
    return f"{token.id} for {token.role} {token.name or 'of any name'}, {uses}, {state}"


def _day(unix_s: float) -> str:
    return time.strftime("%a %d %b %Y %H:%M UTC", time.gmtime(unix_s))


def _say(text: str) -> None:
    say(text, file=sys.stderr)


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that the first argument names, else the command line's; returns the exit code."""
    run, options = PROGRAM.parse(sys.argv[1:] if argv is None else argv)
    return run(options) or 0
