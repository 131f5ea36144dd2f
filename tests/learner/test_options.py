"""The learner's options: who wins, what is refused with which words, what help shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from learner.options import SCHEMA, LearnerOptions, parse
from utils.errors import ConfigError


def refusal(argv: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(argv.split(), environ)
    return str(caught.value)


def test_only_the_leader_must_be_given() -> None:
    options = parse(["--leader", "h:50051"], {})
    assert options == LearnerOptions(leader="h:50051")
    assert (options.data, options.device, options.threads, options.name) == (None, "auto", 0, "")
    assert (options.task, options.state_dir) == ("", None)
    assert (options.compile, options.channels_last) == (False, True)
    assert (options.connect_timeout_s, options.reconnect_timeout_s) == (60.0, 600.0)
    assert refusal("") == "--leader (or FLOCKSTEP_LEARNER_LEADER) is required: where the leader listens"


def test_every_flag_sets_its_option() -> None:
    argv = (
        "--leader [::1]:1 --data d --task my.tasks:Digits --state-dir s "
        "--device cuda:1 --threads 2 --network-addr h:2 --name 007 --tags a,b.c --compile "
        "--join flk1_x --identity i --secagg require --least-learners 5 --require-dp 4.5 "
        "--ca ca --server-name n --jwt-file j --jwt-leader h:3 --insecure "
        "--no-channels-last --window-bytes 70000 --connect-timeout-s 3 --reconnect-timeout-s 4.5 "
        "--log-format json --log-level debug"
    )
    assert parse(argv.split(), {}) == LearnerOptions(
        leader="[::1]:1",
        data=Path("d"),
        task="my.tasks:Digits",
        state_dir=Path("s"),
        device="cuda:1",
        threads=2,
        network_addr="h:2",
        name="007",
        tags="a,b.c",
        join=SecretStr("flk1_x"),
        identity=Path("i"),
        secagg="require",
        least_learners=5,
        require_dp=4.5,
        ca=Path("ca"),
        server_name="n",
        jwt_file=Path("j"),
        jwt_leader="h:3",
        insecure=True,
        compile=True,
        channels_last=False,
        window_bytes=70_000,
        connect_timeout_s=3.0,
        reconnect_timeout_s=4.5,
        log_format="json",
        log_level="debug",
    )


def test_flag_beats_environment_beats_default() -> None:
    environ = {
        "FLOCKSTEP_LEARNER_LEADER": "env:1",
        "FLOCKSTEP_LEARNER_COMPILE": "yes",
        "FLOCKSTEP_LEARNER_DATA": "",
        "FLOCKSTEP_ROUNDS": "the leader's business",
    }
    assert parse(["--no-compile"], environ) == LearnerOptions(leader="env:1")
    assert parse(["--leader", "flag:2"], environ) == LearnerOptions(leader="flag:2", compile=True)


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:15"])
def test_devices_that_torch_knows_are_taken(device: str) -> None:
    assert parse(["--leader", "h:1", "--device", device], {}).device == device


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "CPU", "cpu\n", "cuda:٣"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=r"^--device: device is .*; allowed: auto, cpu, cuda, cuda:N, mps$"):
        parse(["--leader", "h:1", "--device", device], {})


@pytest.mark.parametrize("address", ["h", "h:", ":1", "h:0", "h:65536", "h:1x", "h:²"])
def test_addresses_without_host_or_port_are_refused(address: str) -> None:
    why = f"{address!r}; allowed: HOST:PORT with a port from 1 to 65535"
    assert refusal(f"--leader {address}") == f"--leader: leader is {why}"
    assert refusal(f"--leader h:1 --network-addr {address}") == f"--network-addr: network_addr is {why}"


@pytest.mark.parametrize("name", ["a/b", "a b", "é", "x" * 65])
def test_names_that_could_not_be_file_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^--name: name is .*; allowed: 1 to 64 letters, digits"):
        parse(["--leader", "h:1", "--name", name], {})
    assert parse(["--leader", "h:1", "--name", "x" * 64], {}).name == "x" * 64


@pytest.mark.parametrize("task", ["digits", "a:b.c", "a b:C", ":C", "a:", "a:C\n"])
def test_tasks_that_are_not_a_module_and_a_name_are_refused(task: str) -> None:
    with pytest.raises(ConfigError, match=r"^--task: task is .*; allowed: package\.module:Name$"):
        parse(["--leader", "h:1", "--task", task], {})


@pytest.mark.parametrize("tags", ["a,", ",a", "a,,b", "a b", "é", "x" * 33, ",".join("abcdefghijklmnopq")])
def test_tags_that_a_leader_would_refuse_are_refused(tags: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^--tags: tags is .*; allowed: at most 16, comma-separated, each of 1"
    ):
        parse(["--leader", "h:1", "--tags", tags], {})
    most = ",".join(letter * 32 for letter in "abcdefghijklmnop")
    assert parse(["--leader", "h:1", "--tags", most], {}).tags == most


def test_who_asks_for_signatures_may_list_its_peers_and_must_be_able_to_sign() -> None:
    options = parse(["--leader", "h:1", "--secagg", "signed", "--peers", "hospitals"], {})
    assert (options.secagg, options.peers) == ("signed", Path("hospitals"))
    unsigned = "peers are known by what they sign; add --secagg signed, or leave peers out"
    assert unsigned in refusal("--leader h:1 --secagg require --peers hospitals")
    unknown = "secagg signed needs an identity that joined; leave insecure and certificate out"
    assert unknown in refusal("--leader h:1 --secagg signed --insecure")
    assert unknown in refusal("--leader h:1 --secagg signed --certificate c --key k --ca ca")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--leder h:1", "--leder: unknown flag; did you mean --leader?"),
        ("--no-compil", "--no-compil: unknown flag; did you mean --no-compile?"),
        ("--leader", "--leader: expected one argument; see --help"),
        ("--leader h:1 x", "unexpected argument 'x'; settings are given by flags, see --help"),
        ("--leader h:1 --threads -1", "--threads: threads is -1; allowed: whole number from 0 to 1024"),
        (
            "--leader h:1 --connect-timeout-s 0",
            "--connect-timeout-s: connect_timeout_s is 0; allowed: number above 0",
        ),
        (
            "--leader h:1 --log-level loud",
            "--log-level: log_level is 'loud'; allowed: debug, info, warning, error",
        ),
    ],
)
def test_wrong_flags_are_refused(argv: str, message: str) -> None:
    assert refusal(argv) == message


def test_wrong_variables_are_refused() -> None:
    message = "FLOCKSTEP_LEARNER_THREDS: unknown variable; did you mean FLOCKSTEP_LEARNER_THREADS?"
    assert refusal("--leader h:1", FLOCKSTEP_LEARNER_THREDS="1") == message
    message = "FLOCKSTEP_LEARNER_COMPILE: compile is 'maybe'; allowed: true, false"
    assert refusal("--leader h:1", FLOCKSTEP_LEARNER_COMPILE="maybe") == message


def test_a_join_token_is_in_no_error_and_no_repr() -> None:
    for argv, environ in (
        ("--leader h:1 --join flk1_secret", {}),
        ("--leader h:1", {"FLOCKSTEP_LEARNER_JOIN": "flk1_secret"}),
    ):
        options = parse(argv.split(), environ)
        assert options.join.get_secret_value() == "flk1_secret"
        assert "secret" not in repr(options)
    assert refusal("--leader h:1 --join flk1_secret\udcff") == "--join: join is not shown; " + (
        "allowed: text, in quotes if it looks like something else"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--certificate c --key k", "certificate, key and ca go together; give all three"),
        ("--certificate c --ca k", "certificate, key and ca go together; give all three"),
        (
            "--certificate c --ca a --key k --network-addr h:2",
            "network_addr is for learners that joined; leave it or certificate out",
        ),
    ],
)
def test_files_of_ones_own_pki_come_together(argv: str, message: str) -> None:
    assert refusal(f"--leader h:1 {argv}").endswith(f": {message}")
    parse(["--leader", "h:1", "--certificate", "c", "--ca", "a", "--key", "k"], {})


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal_and_shows_every_option(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"], {})
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert max(map(len, text.splitlines())) < columns
    assert {f"--{name.replace('_', '-')}" for name in SCHEMA.keys} <= set(text.split())
    assert "--leader HOST:PORT        where the leader listens [required]" in text
