"""The round with curl and jq of docs/http.md, as it stands there."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import numpy as np

from scripts.cluster import Cluster
from tests.clusters import TINY, play
from tests.docs.blocks import ROOT, SHELL, blocks_of
from tests.tools.needs import need_commands


def test_the_round_of_the_document_counts(tmp_path: Path) -> None:
    need_commands("curl", "jq", install="apt-get install curl jq")
    (block,) = [
        b for b in blocks_of(ROOT / "docs" / "http.md") if b.language == SHELL and "test_http" in b.why_not
    ]

    async def scenario(cluster: Cluster) -> None:
        before = cluster.vector.copy()
        address = (cluster.run_dir / "http").read_text(encoding="utf-8").removeprefix("http://")
        commands = "set -e\n" + block.text.replace("localhost:8080", address)
        shell = await asyncio.create_subprocess_exec(
            "bash", "-c", commands, cwd=tmp_path, stdout=PIPE, stderr=STDOUT
        )
        output, _ = await shell.communicate()
        assert json.loads(output) == {"success": True, "message": "counted"}
        await cluster.committed(1)
        np.testing.assert_array_equal(cluster.vector, before * np.float32(0.5))

    play(scenario, {**TINY, "learners": 1, "rounds": 1, "http.listen": "127.0.0.1:0"})
