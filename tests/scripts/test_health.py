"""What a probe is told: of real leaders in this process, and of what is none."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from leader.trust.cli import write_secrets
from scripts.cluster import Cluster
from scripts.health import main
from tests.clusters import TINY, play
from tests.leader.trust.fleet import Fleet
from tests.tools.grpc_server import started
from tests.tools.ports import closed_address
from utils.trust.credentials import Credentials


def kept(folder: Path, shown: Credentials) -> str:
    """Files as `python -m leader.trust issue` writes them."""
    write_secrets(folder, {"key.pem": shown.key, "cert.pem": shown.certificate, "ca.pem": shown.roots})
    return str(folder)


def test_a_leader_that_serves_is_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(cluster: Cluster) -> None:
        assert await asyncio.to_thread(main, [cluster.address]) == 0
        assert capsys.readouterr().out == f"{cluster.address} serves\n"

    play(scenario)


def test_a_secure_leader_tells_who_proves_an_identity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(cluster: Cluster) -> None:
        async def asked(*flags: str) -> tuple[int, str]:
            code = await asyncio.to_thread(main, [cluster.address, *flags])
            return code, "".join(capsys.readouterr())

        fleet = Fleet(tmp_path / "trust")
        probe = kept(tmp_path / "probe", fleet.admit("probe", "observer"))
        assert await asked("--identity", probe) == (0, f"{cluster.address} serves\n")
        code, said = await asked()
        assert (code, said.splitlines()) == (
            1,
            [
                f"{cluster.address} does not serve: it asks who is there: --identity DIR "
                "(python -m leader.trust issue NAME --role observer --out DIR)"
            ],
        )
        stranger = kept(tmp_path / "other", Fleet(tmp_path / "elsewhere").admit("probe", "observer"))
        code, said = await asked("--identity", stranger)
        assert (code, said) == (
            1,
            f"{cluster.address} does not serve: {cluster.address} is not the leader of this identity: "
            "wrong address, or somebody is in between\n",
        )
        fleet.revoke("probe")
        code, said = await asked("--identity", probe)
        assert code == 1
        assert "revoked" in said

    play(scenario, {**TINY, "trust.mode": "on", "trust.dir": tmp_path / "trust"})


def test_where_nobody_listens_or_nobody_answers_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    address = closed_address()
    assert main([address]) == 1
    assert capsys.readouterr().err.startswith(f"{address} does not serve: ")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert main([address, "--timeout-s", "0.3"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_server_that_is_about_to_stop_does_not_serve(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> int:
        server, status = aio.server(), health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(status, server)
        await status.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        async with started(server) as address:
            return await asyncio.to_thread(main, [address])

    assert asyncio.run(scenario()) == 1
    assert capsys.readouterr().err.endswith("does not serve: it is about to stop\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: HOST:PORT; see --help"),
        (["leader"], "HOST:PORT: leader is 'leader'; allowed: HOST:PORT with a port from 1 to 65535"),
        (["h:1", "--idenity", "x"], "--idenity: unknown flag; did you mean --identity?"),
        (
            ["h:1", "--identity", "no/such"],
            "--identity: no/such/key.pem can't be read: No such file or directory",
        ),
    ],
)
def test_wrong_flags_are_another_exit_code(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
