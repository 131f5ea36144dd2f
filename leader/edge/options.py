"""The options of edges, and what aggregators share of them: flags over environment over defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from leader.config.sections.operation.services import RedisUrl
from utils.settings.fields import LogFormat, LogLevel, address, address_or_empty, is_address, matching
from utils.settings.flags import FlagParser, options_of, parser_of
from utils.settings.schema import Schema

_DESCRIPTION = """\
Take updates in the leader's place: learners send theirs here, this program checks and adds them, and gives the \
leader one sum a round. What comes out has the bits of a run without edges.

  python -m leader --set edges.listen=127.0.0.1:50060 --data synthetic --learners 4
  python -m leader.edge --leader 127.0.0.1:50060 --listen 127.0.0.1:50061"""
_ENVIRONMENT = """\
Each flag may also be given as an environment variable, such as FLOCKSTEP_EDGE_LEADER for --leader."""
METAVARS = {
    "leader": "HOST:PORT",
    "join": "TOKEN",
    "join_leader": "HOST:PORT",
    "identity": "DIR",
    "listen": "HOST:PORT",
    "advertise": "HOST:PORT",
    "edges_listen": "HOST:PORT",
    "http_listen": "HOST:PORT",
    "http_advertise": "HOST:PORT",
    "redis_url": "URL",
}


def _listening(text: str) -> str:
    if text and not is_address(text):
        raise ValueError("allowed: HOST:PORT with a port from 0 to 65535")
    return text


class JoinOptions(BaseModel):
    """Whom an edge or an aggregator works for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    leader: Annotated[str, AfterValidator(address)] = Field(
        description="where the leader listens for edges (edges.listen), or the edge above (--edges-listen)"
    )
    name: Annotated[str, matching(r"[A-Za-z0-9._-]{0,64}", "1 to 64 letters, digits, '.', '_' or '-'")] = (
        Field("", description="name, for people; if not given, the host's")
    )
    join: SecretStr = Field(
        SecretStr(""),
        description="the leader's join token, of role aggregator, @FILE or - (input); needed once",
    )
    join_leader: Annotated[str, AfterValidator(address_or_empty)] = Field(
        "",
        description="where the leader itself listens, to join and be renewed there, for an edge below another; "
        "if not given, at --leader",
    )
    identity: Path | None = Field(
        None, description="folder of the identity; if not given, a free one at home"
    )
    ca: Path | None = Field(None, description="PEM file: whom to trust, where no join token tells it")
    certificate: Path | None = Field(
        None, description="PEM file: this program's certificate, of role aggregator"
    )
    key: Path | None = Field(None, description="PEM file: the certificate's key")
    insecure: bool = Field(False, description="neither encrypt nor prove who is who")
    kafka_properties: Path | None = Field(
        None, description="file of librdkafka's properties, for a run with services.kafka.brokers"
    )
    connect_timeout_s: Annotated[float, Field(gt=0)] = Field(
        60.0, description="seconds to reach the leader in before giving up"
    )
    reconnect_timeout_s: Annotated[float, Field(gt=0)] = Field(
        600.0, description="seconds to find a lost leader again before giving up"
    )
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        given = (self.ca, self.certificate, self.key)
        if any(given) and not all(given):
            raise ValueError("certificate, key and ca go together; give all three")
        if self.insecure + bool(self.certificate) + bool(self.join or self.identity) > 1:
            raise ValueError("choose one of join or identity, certificate, and insecure")
        return self


class EdgeOptions(JoinOptions):
    """One edge: where learners and other edges reach it."""

    listen: Annotated[str, AfterValidator(_listening)] = Field(
        "127.0.0.1:0", description="where learners reach this edge; port 0 = a free one"
    )
    advertise: Annotated[str, AfterValidator(address_or_empty)] = Field(
        "", description="address that learners are told, where it is another one than --listen"
    )
    edges_listen: Annotated[str, AfterValidator(_listening)] = Field(
        "", description="where edges below this one reach it; if not given, there are none"
    )
    http_listen: Annotated[str, AfterValidator(_listening)] = Field(
        "", description="where learners without gRPC reach it (docs/http.md); if not given, they don't"
    )
    http_advertise: Annotated[str, AfterValidator(address_or_empty)] = Field(
        "", description="address that those are told, where it is another one than --http-listen"
    )
    redis_url: RedisUrl = Field(
        "",
        description="rediss://HOST:PORT where edges share models and broken uploads; ${NAME} is from the environment",
    )


SCHEMA = Schema(EdgeOptions, prefix="FLOCKSTEP_EDGE_")


def parse(argv: list[str], environ: Mapping[str, str]) -> EdgeOptions:
    """The options that `argv` (without the program's name) and the environment give.

    Raises ConfigError with one line for each problem; `--help` and `--version` raise SystemExit.
    """
    return options_of(SCHEMA, make_parser(), argv, environ)


def make_parser() -> FlagParser:
    """The edge's flags."""
    return parser_of(SCHEMA, "python -m leader.edge", _DESCRIPTION, _ENVIRONMENT, METAVARS)
