"""Where the services are: no secret is kept, nothing leaves the machine unencrypted, and errors say what to set."""

from __future__ import annotations

from pathlib import Path

import pytest

from leader.cli import parse
from leader.config import RunConfig
from leader.config.sections.operation.services import filled
from leader.config.yaml_file import SCHEMA, dump_config, read_config
from utils.errors import ConfigError

SECRET = "there is a password in it"
UNENCRYPTED = "it leaves this machine unencrypted; add tls=true"


def refusal(key: str, value: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(["--set", f"{key}={value}"], {})
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("services.mongodb.url", "mongodb://ann:hunter2@127.0.0.1/runs", SECRET),
        ("services.mongodb.url", "mongodb://ann:hun/ter2@127.0.0.1/runs", SECRET),
        ("services.mongodb.url", "mongodb://ann:${PW}hunter2@127.0.0.1/runs", SECRET),
        ("services.mongodb.url", "mongodb://127.0.0.1/?tlsCertificateKeyFilePassword=hunter2", SECRET),
        ("services.mlflow.url", "https://ann:hunter2@mlflow.corp", SECRET),
        ("services.mongodb.url", "mongodb://db.corp/runs", UNENCRYPTED),
        ("services.mongodb.url", "mongodb://127.0.0.1,db.corp:27017/runs?tls=false", UNENCRYPTED),
        ("services.mongodb.url", "mongodb+srv://db.corp/runs?ssl=false", UNENCRYPTED),
        ("services.mongodb.url", "mongodb://${HOST}/runs", UNENCRYPTED),
        ("services.mongodb.url", "http://127.0.0.1", "it must be mongodb://HOST:PORT/DATABASE"),
        ("services.mongodb.url", "mongodb://", "it must be mongodb://HOST:PORT/DATABASE"),
        ("services.redis.url", "rediss://ann:hunter2@redis.corp", SECRET),
        ("services.redis.url", "rediss://redis.corp?ssl_password=hunter2", SECRET),
        ("services.redis.url", "redis://redis.corp:6379", "write rediss://HOST:PORT"),
        ("services.redis.url", "redis://${HOST}", "write rediss://HOST:PORT"),
        ("services.redis.url", "redis://redis.sock", "write rediss://HOST:PORT"),
        ("services.redis.url", "redis://redis.corp/?client_name=@127.0.0.1", "write rediss://HOST:PORT"),
        ("services.redis.url", "rediss://redis.corp?ssl_cert_reqs=none", "or to whoever answers"),
        ("services.redis.url", "http://127.0.0.1", "it must be redis://HOST:PORT or rediss"),
        ("services.redis.url", "redis://", "it must be redis://HOST:PORT or rediss"),
        ("services.redis.url", "redis://127.0.0.1", "edges.listen is empty, and edges alone use Redis"),
        ("services.mlflow.url", "mlflow.corp:5000", "it must be http://HOST:PORT or https://HOST"),
        ("services.mlflow.model", "a/b", "it must be 1 to 64 of letters"),
        ("services.kafka.brokers", "kafka.corp", "it must be HOST:PORT, or several"),
        ("services.kafka.brokers", "a:9092,b", "it must be HOST:PORT, or several"),
        ("services.kafka.topic", "a/b", "it must be at most 128 of letters"),
        ("services.kafka.events", "a b", "it must be at most 128 of letters"),
    ],
)
def test_a_url_that_would_tell_a_secret_or_go_nowhere_is_refused_without_being_shown(
    key: str, value: str, why: str
) -> None:
    said = refusal(key, value)
    assert said.startswith(f"--set: {key} is ")
    assert why in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "services.redpanda.url",
            "unknown key; services has tensorboard, mongodb, mlflow, registry, kafka, redis",
        ),
        (
            "services.redpanda",
            "unknown key; services has tensorboard, mongodb, mlflow, registry, kafka, redis",
        ),
        ("services.kafka.broker", "unknown key; did you mean services.kafka.brokers?"),
        ("services.mongodb.urk", "unknown key; did you mean services.mongodb.url?"),
    ],
)
def test_an_unknown_service_or_key_is_named(key: str, said: str) -> None:
    assert refusal(key, "x") == f"--set: {key}: {said}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "${MONGO_URL}",
        "mongodb://127.0.0.1:27017",
        "mongodb://[::1]:27017,localhost/runs",
        "mongodb://ann:${PW}@db.corp/runs?tls=true&tlsCAFile=ca.pem",
        "mongodb+srv://ann:${PW}@db.corp/runs",
    ],
)
def test_other_urls_are_kept_as_they_are_written_and_read_back(url: str, tmp_path: Path) -> None:
    config = parse(
        ["--set", f"services.mongodb.url={url}", "--set", "services.mlflow.register=last"], {}
    ).config
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    read = SCHEMA.build(read_config(path))
    assert read == config
    assert (read.services.mongodb.url, read.services.mlflow.register_) == (url, "last")


@pytest.mark.parametrize(
    "url",
    [
        "${REDIS_URL}",
        "redis://[::1]:6379/3",
        "redis://localhost",
        "rediss://ann:${PW}@redis.corp?ssl_ca_certs=ca.pem",
    ],
)
def test_a_redis_url_goes_with_edges(url: str) -> None:
    given = ["--set", f"services.redis.url={url}", "--set", "edges.listen=127.0.0.1:0"]
    assert parse(given, {}).config.services.redis.url == url
    whole = {"REDIS_URL": "rediss://ann:pw@redis.corp", "PW": "p/w"}
    assert filled("--redis-url", url, whole) == (
        {"${REDIS_URL}": whole["REDIS_URL"]}.get(url) or url.replace("${PW}", "p%2Fw")
    )
    with pytest.raises(ConfigError, match="--redis-url, as the environment completes it: it leaves"):
        filled("--redis-url", "${REDIS_URL}", {"REDIS_URL": "redis://ann:hunter2@redis.corp"})


def test_all_of_it_is_off_unless_asked_for() -> None:
    services = RunConfig().services
    assert (services.tensorboard, services.mongodb.url, services.mlflow.url) == (False, "", "")


def test_names_are_filled_in_from_the_environment_and_escaped_before_the_host_alone() -> None:
    url = "mongodb://ann:${PW}@db.corp/runs?tls=true&tlsCAFile=${FOLDER}/ca.pem"
    assert filled("services.mongodb.url", url, {"PW": "a@b/c", "FOLDER": "/etc/x"}) == (
        "mongodb://ann:a%40b%2Fc@db.corp/runs?tls=true&tlsCAFile=/etc/x/ca.pem"
    )
    whole = "mongodb://ann:pw@127.0.0.1/runs"
    assert filled("services.mongodb.url", "${URL}", {"URL": whole}) == whole


def test_a_name_that_is_not_set_and_a_url_that_comes_out_wrong_are_told_without_the_secret() -> None:
    with pytest.raises(ConfigError, match=r"services.mongodb.url: \$\{PW\} is not set in the environment"):
        filled("services.mongodb.url", "mongodb://ann:${PW}@127.0.0.1", {})
    with pytest.raises(ConfigError, match=UNENCRYPTED) as caught:
        filled("services.mongodb.url", "${URL}", {"URL": "mongodb://ann:hunter2@db.corp/runs"})
    assert "hunter2" not in str(caught.value)
