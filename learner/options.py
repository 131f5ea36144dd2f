"""The learner's options: flags over environment over defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from utils.settings.fields import LogFormat, LogLevel, address, address_or_empty, matching
from utils.settings.flags import FlagParser, options_of, parser_of
from utils.settings.schema import Schema
from utils.wire.rpc import WINDOW_BYTES

Seconds = Annotated[float, Field(gt=0)]


class LearnerOptions(BaseModel):
    """One learner: whom it works for, with what, and for how long it tries."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    leader: Annotated[str, AfterValidator(address)] = Field(description="where the leader listens")
    data: Path | None = Field(
        None,
        description="own data, which is never sent: a folder, or a .safetensors file of scripts.partition; "
        "if not given, the leader sends a shard",
    )
    task: Annotated[str, matching(r"|[\w.]+:\w+", "package.module:Name")] = Field(
        "", description="a task of your own, as package.module:Name; if not given, what the leader names"
    )
    state_dir: Path | None = Field(
        None,
        description="folder for what stays here between rounds (control variates, local layers, personal model); "
        "if not given, it is lost when this program ends",
    )
    device: Annotated[str, matching(r"auto|cpu|mps|cuda(:\d{1,3})?", "auto, cpu, cuda, cuda:N, mps")] = Field(
        "auto", description="where to train; auto = the first accelerator, else the CPU"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0 = torch's default, all cores")
    network_addr: Annotated[str, AfterValidator(address_or_empty)] = Field(
        "", description="where the leader can call this learner; if not given, only the learner calls"
    )
    name: Annotated[str, matching(r"[A-Za-z0-9._-]{0,64}", "1 to 64 letters, digits, '.', '_' or '-'")] = (
        Field("", description="stable name, under which a learner that comes back gets its shard again")
    )
    tags: Annotated[
        str,
        matching(
            r"([A-Za-z0-9._-]{1,32}(,[A-Za-z0-9._-]{1,32}){0,15})?",
            "at most 16, comma-separated, each of 1 to 32 letters, digits, '.', '_' or '-'",
        ),
    ] = Field("", description="words that a leader may ask for (cohort.require), such as site-a,night")
    join: SecretStr = Field(
        SecretStr(""), description="the leader's join token, @FILE or - (input); needed once"
    )
    identity: Path | None = Field(
        None, description="folder of the identity; if not given, a free one at home"
    )
    ca: Path | None = Field(None, description="PEM file: whom to trust, where no join token tells it")
    certificate: Path | None = Field(None, description="PEM file: certificate of a PKI of your own")
    key: Path | None = Field(None, description="PEM file: the certificate's key")
    server_name: str = Field("", description="name in the leader's certificate, if it is not the usual one")
    jwt_file: Path | None = Field(None, description="file with a JWT to join with, read anew each time")
    jwt_leader: Annotated[str, AfterValidator(address_or_empty)] = Field(
        "", description="where the leader takes JWTs; if not given, at --leader"
    )
    secagg: Literal["allow", "require", "signed"] = Field(
        "allow",
        description="require: take part only where updates are masked (secure aggregation); signed: only where "
        "the others' keys are signed too",
    )
    peers: Path | None = Field(
        None,
        description="file of those that this learner masks with, a line each: NAME, or NAME and KEY; if not given, "
        "whom the leader's CA certifies",
    )
    least_learners: int = Field(
        3, ge=2, le=10_000, description="fewest updates in a masked sum that this learner's may be in"
    )
    dp_budget: float = Field(
        0.0,
        ge=0,
        description="epsilon of each own example over all runs (dp.mode=examples, with --state-dir): once it is "
        "spent, this learner takes part no more; 0 = what each run says",
    )
    require_dp: float = Field(
        0.0,
        ge=0,
        description="largest epsilon that a run may promise for this learner to take part: none without differential "
        "privacy (dp.mode); 0 = any run",
    )
    insecure: bool = Field(False, description="neither encrypt nor prove who is who")
    compile: bool = Field(False, description="compile the model with torch.compile, on CUDA with CUDA graphs")
    channels_last: bool = Field(
        True, description="keep images channels-last, which is faster for most convolutions"
    )
    window_bytes: int = Field(
        WINDOW_BYTES,
        ge=64 << 10,
        le=1 << 30,
        description="bytes of each stream that arrive before this learner reads them; "
        "a download takes no more in one round trip",
    )
    connect_timeout_s: Seconds = Field(60.0, description="seconds to reach the leader in before giving up")
    reconnect_timeout_s: Seconds = Field(
        600.0, description="seconds to find a lost leader again before giving up"
    )
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.certificate and not (self.key and self.ca):
            raise ValueError("certificate, key and ca go together; give all three")
        if self.certificate and self.network_addr:
            raise ValueError("network_addr is for learners that joined; leave it or certificate out")
        if self.peers and self.secagg != "signed":
            raise ValueError("peers are known by what they sign; add --secagg signed, or leave peers out")
        if self.secagg == "signed" and (self.insecure or self.certificate):
            raise ValueError(
                "secagg signed needs an identity that joined; leave insecure and certificate out"
            )
        return self


SCHEMA = Schema(LearnerOptions, prefix="FLOCKSTEP_LEARNER_")

METAVARS = {
    "leader": "HOST:PORT",
    "data": "DIR",
    "task": "MODULE:NAME",
    "state_dir": "DIR",
    "device": "auto|cpu|cuda|cuda:N|mps",
    "network_addr": "HOST:PORT",
    "name": "NAME",
    "tags": "TAG,TAG",
    "join": "TOKEN",
    "identity": "DIR",
    "peers": "FILE",
    "ca": "FILE",
    "certificate": "FILE",
    "key": "FILE",
    "server_name": "NAME",
    "jwt_file": "FILE",
    "jwt_leader": "HOST:PORT",
    "dp_budget": "EPSILON",
    "require_dp": "EPSILON",
    "window_bytes": "BYTES",
    "connect_timeout_s": "SECONDS",
    "reconnect_timeout_s": "SECONDS",
}

_DESCRIPTION = """\
Take part in a training run: get the model from the leader, train on a shard of data or on this machine's \
own, and send back gradients or weight deltas.

  python -m learner --leader 127.0.0.1:50051
  python -m learner --leader 10.0.0.1:50051 --join flk1_... --data photos"""

_ENVIRONMENT = """\
Each of these can also be an environment variable: FLOCKSTEP_LEARNER_ and the flag's name in capitals. A \
flag counts before its variable.

  FLOCKSTEP_LEARNER_LEADER=10.0.0.1:50051 python -m learner"""


def parse(argv: list[str], environ: Mapping[str, str]) -> LearnerOptions:
    """The options that `argv` (without the program's name) and the environment give.

    Raises ConfigError with one line for each problem; `--help` and `--version` raise SystemExit.
    """
    return options_of(SCHEMA, make_parser(), argv, environ)


def make_parser() -> FlagParser:
    """The learner's flags."""
    return parser_of(SCHEMA, "python -m learner", _DESCRIPTION, _ENVIRONMENT, METAVARS)
