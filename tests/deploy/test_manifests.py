"""What stands in deploy/: held to the tools of each format, in which a typo is refused, and to our own programs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from leader import cli
from leader.trust.cli import PROGRAM
from leader.trust.cli import make_parser as trust_parser
from learner import options
from scripts.command import WORDS
from scripts.health import make_parser as health_parser
from tests.integration.harness import ROOT, cluster_in, succeed
from tests.tools.needs import need_commands
from tests.tools.ports import closed_address
from utils.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ForbiddenError,
    PrivacyError,
    TooFewLearnersError,
)

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "flockstep"
UNITS = ("flockstep-leader.service", "flockstep-learner@.service")
SCRIPTS = ("deploy/slurm/flockstep.sbatch", "deploy/ray/submit.sh", ".ci/run", ".ci/services")
#: Values that reach every branch of the templates.
VALUES: Sequence[Mapping[str, Any]] = (
    {},
    {"trust": {"enabled": False}, "web": {"enabled": False}, "networkPolicy": {"enabled": False}},
    {
        "trust": {"passphraseSecret": "passphrase"},
        "leader": {
            "env": [
                {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "mongodb", "key": "password"}}}
            ],
            "flags": ["--rounds", "40"],
            "storage": {"existingClaim": "runs"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
        },
        "learner": {
            "dataClaim": "photos",
            "flags": ["--tags", "a"],
            "resources": {"limits": {"nvidia.com/gpu": 1}},
            "nodeSelector": {"gpu": "yes"},
        },
        "networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "monitoring": [{"podSelector": {}}]},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    {"learner": {"replicas": 0}, "leader": {"storage": {"storageClassName": "fast"}}},
)
each_values = pytest.mark.parametrize("number", range(len(VALUES)))

Object = dict[str, Any]  # of Kubernetes


def run(*command: str | Path) -> tuple[int, str]:
    """The exit code and the output of a tool that .ci/services brings; errors after the rest."""
    need_commands(str(command[0]), install=".ci/services")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


def changed(file: Path, before: str, after: str, folder: Path) -> Path:
    """A copy of a file with something else in it."""
    text = file.read_text()
    assert before in text
    copy = folder / file.name
    copy.write_text(text.replace(before, after))
    return copy


def test_the_dockerfile_is_clean(tmp_path: Path) -> None:
    file = DEPLOY / "Dockerfile"
    assert run("hadolint", file) == (0, "")
    assert run("hadolint", changed(file, "HEALTHCHECK", "HEALTHCHEK", tmp_path))[0] == 1


def test_an_image_is_built_from_the_packages_and_what_their_wheel_needs() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    files = {"setup.py", "pyproject.toml", "README.md", "LICENSE"}
    assert sent == {"leader", "learner", "model", "protos", "scripts", "utils", "deploy/edge.txt"} | files


def test_the_compose_file_fits_the_specification(tmp_path: Path) -> None:
    check = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    file = DEPLOY / "compose.yaml"
    assert run(*check, file)[0] == 0
    code, said = run(*check, changed(file, "stop_grace_period", "stop_grace_perod", tmp_path))
    assert code == 1
    assert "stop_grace_perod" in said


@pytest.mark.parametrize("script", SCRIPTS)
def test_shell_scripts_are_clean(script: str, tmp_path: Path) -> None:
    assert run("shellcheck", ROOT / script) == (0, "")
    unquoted = tmp_path / "script"
    unquoted.write_text((ROOT / script).read_text() + "rm $UNSET\n")
    assert run("shellcheck", unquoted)[0] == 1


def installed(unit: str, folder: Path, before: str = "", after: str = "") -> Path:
    """A unit as on a machine that has our command, with one word changed."""
    command = folder / "flockstep"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    text = (DEPLOY / "systemd" / unit).read_text().replace("/opt/flockstep/bin/flockstep", str(command))
    assert before in text
    copy = folder / unit.replace("@", "@a")
    copy.write_text(text.replace(before, after))
    return copy


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_units_and_their_sandbox_is_tight(unit: str, tmp_path: Path) -> None:
    copy = installed(unit, tmp_path)
    assert run("systemd-analyze", "verify", copy) == (0, "")
    code, said = run("systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", copy)
    assert code == 0, said
    _, said = run("systemd-analyze", "verify", installed(unit, tmp_path, "RestartPrevent", "RestartPrevnt"))
    assert "Unknown key 'RestartPrevntExitStatus'" in said


def helm(chart: Path, values: Mapping[str, Any]) -> Any:
    """What Helm's lint finds, and what the templates make."""
    code, said = run("helm-python", ROOT / "tests" / "tools" / "helm.py", chart, json.dumps(values))
    assert code == 0, said
    return json.loads(said.splitlines()[0])  # Helm's warnings come after it


@cache
def rendered(number: int) -> list[Object]:
    """The objects of the chart with VALUES[number]."""
    made = helm(CHART, VALUES[number])
    assert made["problems"] == []
    return objects(made)


def objects(made: Any) -> list[Object]:
    texts = [text for name, text in made["rendered"].items() if name.endswith(".yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def validated(found: Sequence[Object], folder: Path) -> tuple[int, str]:
    """What the published schemas of Kubernetes say; there is none of a ServiceMonitor."""
    file = folder / "objects.yaml"
    file.write_text(yaml.safe_dump_all([one for one in found if one["kind"] != "ServiceMonitor"]))
    return run("kubernetes-validate", "--strict", file)


@each_values
def test_kubernetes_takes_what_the_chart_makes(number: int, tmp_path: Path) -> None:
    found = rendered(number)
    code, said = validated(found, tmp_path)
    assert code == 0, said
    assert all(one["kind"] != "Secret" for one in found)  # they are made by hand, and named


@pytest.mark.parametrize(
    "values", [{"learner": {"replica": 3}}, {"leader": {"backoffLimit": "many"}}, {"web": 1}]
)
def test_helm_refuses_a_value_that_the_chart_does_not_have(values: Mapping[str, Any]) -> None:
    assert helm(CHART, values)["problems"] != []


def test_a_typo_in_a_template_is_refused(tmp_path: Path) -> None:
    chart = tmp_path / "flockstep"
    shutil.copytree(CHART, chart)
    template = chart / "templates" / "leader.yaml"
    changed(template, "terminationGracePeriodSeconds", "terminationGracePeriodSecnds", template.parent)
    code, said = validated(objects(helm(chart, {})), tmp_path)
    assert code != 0
    assert "terminationGracePeriodSecnds" in said


def containers(number: int) -> Iterator[Object]:
    for one in rendered(number):
        pod = one.get("spec", {}).get("template", {}).get("spec", {})
        yield from [*pod.get("initContainers", []), *pod.get("containers", [])]


def commands_of_chart(number: int) -> Iterator[list[str]]:
    for container in containers(number):
        yield container["args"]
        probes = [container[key] for key in container if key.endswith("Probe")]
        yield from (probe["exec"]["command"][1:] for probe in probes if "exec" in probe)


def commands_of_compose() -> Iterator[list[str]]:
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        if "entrypoint" in service:
            (script,) = service["command"]
            yield from (shlex.split(line.partition(" > ")[0])[1:] for line in script.splitlines())
        elif not service.get("profiles"):
            yield service["command"]


def commands_of_units() -> Iterator[list[str]]:
    for unit in UNITS:
        (command,) = re.findall(
            r"^ExecStart=\S+ (.*)$", (DEPLOY / "systemd" / unit).read_text(), re.MULTILINE
        )
        yield command.replace("%l-%i", "node7-a").split()


def command_of_dockerfile() -> list[str]:
    (text,) = re.findall(r"exec flockstep (.*?) \\\"", (DEPLOY / "Dockerfile").read_text())
    return str(text).split()


def parse(word: str, arguments: list[str], config: Path) -> None:
    """Have the program read its flags; raises ConfigError where it refuses them."""
    arguments = [text.replace("/etc/flockstep/run.yaml", str(config)) for text in arguments]
    if word == "leader":
        cli.parse(arguments, {})
    elif word == "learner":
        options.parse(arguments, {"FLOCKSTEP_LEARNER_LEADER": "leader:50051"})
    elif word == "trust":
        assert arguments[0] in PROGRAM.verbs
        trust_parser(arguments[0]).parse_or_raise(arguments[1:], {})
    else:
        assert word == "health"
        health_parser().parse_or_raise(arguments, {})


def test_our_programs_take_the_commands_of_dockerfile_compose_file_and_units(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    config.write_text(compose["configs"]["run"]["content"])
    asked = {"MONGODB_URL:-": "mongodb://127.0.0.1:27017/flockstep", "MLFLOW_URL:-": "http://mlflow:5000"}
    for urls in (asked, dict.fromkeys(asked, "")):
        environ = compose["services"]["leader"]["environment"].items()
        cli.parse([], {key: urls.get(value.strip("${}"), value) for key, value in environ})
    commands = [*commands_of_compose(), *commands_of_units(), command_of_dockerfile()]
    assert [command[0] for command in commands] == [
        *("trust", "trust", "leader", "learner", "learner"),
        *("leader", "learner"),
        "health",
    ]
    for word, *arguments in commands:
        parse(word, arguments, config)


@each_values
def test_our_programs_take_the_commands_and_the_config_of_the_chart(number: int, tmp_path: Path) -> None:
    (config,) = (one["data"]["run.yaml"] for one in rendered(number) if one["kind"] == "ConfigMap")
    file = tmp_path / "run.yaml"
    file.write_text(config)
    for word, *arguments in commands_of_chart(number):
        parse(word, arguments, file)


def test_a_service_manager_gives_up_where_nothing_gets_better_by_itself() -> None:
    final = {error.exit_code for error in (ConfigError, DataError, TooFewLearnersError, PrivacyError)}
    assert final == {2, 3, 6, 8}
    unit, of_learner = ((DEPLOY / "systemd" / name).read_text() for name in UNITS)
    assert "RestartPreventExitStatus=2 3 6 8\n" in unit
    assert (ForbiddenError.exit_code, CheckpointError.exit_code) == (7, 4)  # a full disk may be freed
    assert "RestartPreventExitStatus=2 3 7\n" in of_learner
    assert "values: [2, 3, 6, 8]" in (CHART / "templates" / "leader.yaml").read_text()


def here(command: Sequence[str], folder: Path, address: str) -> list[str]:
    """A command of the chart as it runs on this machine: its files in `folder`, its leader at `address`."""
    places = {
        "/etc/flockstep": str(folder),
        "0.0.0.0:50051": address,
        "127.0.0.1:50051": address,
        "blue-leader:50051": address,
        "0.0.0.0:8051": "127.0.0.1:0",
        "/data": str(folder),
        "/join": str(folder / "join"),
    }
    word, *rest = (
        re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], text) for text in command
    )
    return [WORDS[word].module.removesuffix(".__main__").removesuffix(".cli"), *rest]


def test_what_the_pods_run_fits_together(tmp_path: Path) -> None:
    address = closed_address()
    by_word = {f"{command[0]}": command for command in commands_of_chart(0)}
    commands = {word: here(command, tmp_path, address) for word, command in by_word.items()}
    token = here(["trust", "token", "--uses=0", "--dir=/data/trust"], tmp_path, address)
    config = "{source: synthetic, train_examples: 32, test_examples: 20}"
    (tmp_path / "run.yaml").write_text(
        f"learners: 1\nrounds: 1\nmodel: {{name: resnet9-w8}}\ndata: {config}\n"
    )
    with cluster_in(tmp_path) as cluster:
        cluster.program("issue", commands["trust"]).succeed()
        leader = cluster.program("leader", [*commands["leader"], "--log-format", "json"])
        leader.event("RunStarted", address=address)
        probe = cluster.program("probe", commands["health"])
        made = cluster.program("token", token)
        succeed(probe, made)
        assert f"{address} serves" in probe.output
        (text,) = (line for line in made.output.splitlines() if line.startswith("flk1_"))
        (tmp_path / "join").mkdir()
        (tmp_path / "join" / "token").write_text(f"{text}\n")
        succeed(cluster.program("learner", [*commands["learner"], "--device", "cpu"]), leader)
    assert (tmp_path / "run" / "model.safetensors").exists()
