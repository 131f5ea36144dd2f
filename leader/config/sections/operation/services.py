"""The section of the services around a run: where each is, and what it is told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, quote, urlsplit

from pydantic import AfterValidator, Field, field_validator

from leader.config.reference import ALIAS, NAME
from leader.config.sections.base import Section
from leader.config.sections.operation.kafka import KafkaConfig
from utils.errors import ConfigError
from utils.wire.rpc import is_loopback

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(NAME)
_SECRET = re.compile(r"password|secret|token", re.IGNORECASE)


def _is_variable(text: str) -> bool:
    return not text or _VARIABLE.fullmatch(text) is not None


def _secretless(url: str) -> str:
    """The URL; raises ValueError if a secret is written out in it, for it goes into every checkpoint."""
    user, _, rest = url.partition("://")[2].rpartition("@")
    options = parse_qsl(rest.partition("?")[2])
    password = user.partition(":")[2]
    if not _is_variable(password) or any(
        _SECRET.search(key) and not _is_variable(text) for key, text in options
    ):
        raise ValueError(
            "there is a password in it, which config.yaml would keep; write ${NAME} in its place and set NAME in "
            "the environment"
        )
    return url


def _mongodb_url(url: str) -> str:
    if _is_variable(url):
        return url
    scheme, _, rest = _secretless(url).partition("://")
    hosts, _, options = rest.rpartition("@")[2].partition("?")
    asked = {key.lower(): value.lower() for key, value in parse_qsl(options)}
    if scheme not in ("mongodb", "mongodb+srv") or not hosts.partition("/")[0]:
        raise ValueError("it must be mongodb://HOST:PORT/DATABASE")
    tls = asked.get("tls", asked.get("ssl", "true" if scheme == "mongodb+srv" else "false")) == "true"
    if not tls and not all(_is_here(host) for host in hosts.partition("/")[0].split(",")):
        raise ValueError(
            "it leaves this machine unencrypted; add tls=true, as in mongodb://HOST/DATABASE?tls=true"
        )
    return url


def _redis_url(url: str) -> str:
    if _is_variable(url):
        return url
    place = urlsplit(_secretless(url))  # as the client does
    if place.scheme not in ("redis", "rediss") or not place.hostname:
        raise ValueError("it must be redis://HOST:PORT or rediss://HOST:PORT")
    proven = dict(parse_qsl(place.query)).get("ssl_cert_reqs", "required") == "required"
    if not (place.scheme == "rediss" and proven) and not is_loopback(f"{place.hostname}:0"):
        raise ValueError(
            "it leaves this machine unencrypted, or to whoever answers; write rediss://HOST:PORT, with "
            "?ssl_ca_certs=FILE where its CA is one of your own"
        )
    return url


def _is_here(host: str) -> bool:
    has_port = host.rpartition(":")[2].isdigit()
    return host.lower().endswith(".sock") or is_loopback(host if has_port else f"{host}:0")


def _http_url(url: str) -> str:
    if _is_variable(url):
        return url
    scheme, _, host = url.partition("://")
    if scheme not in ("http", "https") or not host:
        raise ValueError("it must be http://HOST:PORT or https://HOST")
    return _secretless(url)


def _plain_name(name: str) -> str:
    if name and not _NAME.fullmatch(name):
        raise ValueError(
            "it must be 1 to 64 of letters, digits, '.', '_' and '-', and begin with one of the first two"
        )
    return name


_NotShown = Field(json_schema_extra={"format": "password"})
Name = Annotated[str, AfterValidator(_plain_name)]
MongodbUrl = Annotated[str, AfterValidator(_mongodb_url), _NotShown]
HttpUrl = Annotated[str, AfterValidator(_http_url), _NotShown]
RedisUrl = Annotated[str, AfterValidator(_redis_url), _NotShown]


class MongodbConfig(Section):
    """MongoDB: the record of all runs in one database."""

    url: MongodbUrl = Field("", description="mongodb://HOST:PORT/DATABASE; ${NAME} is from the environment")
    retention_days: int = Field(
        0, ge=0, le=36_500, description="days after which MongoDB forgets a round; 0 = never"
    )


class PublishConfig(Section):
    """Which of a run's models is registered, and as what."""

    model: Name = Field("", description="name in the registry that the run's model gets a version of")
    register_: Literal["best", "last", "never"] = Field(
        "best", alias="register", description="which model becomes that version"
    )
    alias: str = Field("champion", description="alias that the best version has, by evaluation.metric")

    @field_validator("alias")
    @classmethod
    def _is_alias(cls, alias: str) -> str:
        if not re.fullmatch(ALIAS, alias):
            raise ValueError("it must be 1 to 64 of letters, digits, '_' and '-', and no number of a version")
        return alias

    @property
    def wanted(self) -> bool:
        """Whether a model is registered."""
        return bool(self.model) and self.register_ != "never"


class MlflowConfig(PublishConfig):
    """MLflow: runs to compare, and the registry of models."""

    url: HttpUrl = Field("", description="http(s)://HOST:PORT of an MLflow server")
    experiment: str = Field("flockstep", description="experiment that the run belongs to")


class RegistryConfig(PublishConfig):
    """The registry of models in a folder, which needs no server."""

    dir: Path = Field(Path("registry"), description="its folder, which runs share")


class RedisConfig(Section):
    """Redis: models and broken uploads that the edges of a run share; down, it is as if nothing were there."""

    url: RedisUrl = Field(
        "", description="rediss://HOST:PORT; ${NAME} is from the environment; edges have --redis-url"
    )
    ttl_s: int = Field(
        3600, ge=1, le=604_800, description="seconds after which Redis forgets a model version"
    )


class ServicesConfig(Section):
    """Services around a run; one that is down holds nothing up."""

    tensorboard: bool = Field(False, description="write what TensorBoard reads to the run's folder tb")
    mongodb: MongodbConfig = MongodbConfig()
    mlflow: MlflowConfig = MlflowConfig()
    registry: RegistryConfig = RegistryConfig()
    kafka: KafkaConfig = KafkaConfig()
    redis: RedisConfig = RedisConfig()


#: What a URL must be, by the service that its key names; http(s) for all others.
_RULES: Mapping[str, Callable[[str], str]] = {"mongodb": _mongodb_url, "redis": _redis_url}


def filled(key: str, url: str, environ: Mapping[str, str] = os.environ) -> str:
    """The URL that config key `key` holds, each ${NAME} replaced from the environment.

    What stands before @ is escaped as URLs want it. Raises ConfigError if a name is not set there, or the URL
    that comes out would not be allowed.
    """
    if missing := [name for name in _VARIABLE.findall(url) if name not in environ]:
        raise ConfigError(f"{key}: ${{{missing[0]}}} is not set in the environment; export {missing[0]}")
    user, at, rest = url.rpartition("@")
    made = _VARIABLE.sub(lambda found: quote(environ[found[1]], safe=""), user) + at
    made += _VARIABLE.sub(lambda found: environ[found[1]], rest)
    try:
        next((rule for name, rule in _RULES.items() if name in key), _http_url)(_without_secrets(made))
    except ValueError as error:
        raise ConfigError(f"{key}, as the environment completes it: {error}") from None
    return made


def _without_secrets(url: str) -> str:
    """The same place, with nothing that proves who calls."""
    scheme, mark, rest = url.partition("://")
    place, question, options = rest.rpartition("@")[2].partition("?")
    kept = [option for option in options.split("&") if not _SECRET.search(option.partition("=")[0])]
    return scheme + mark + place + question + "&".join(kept)
