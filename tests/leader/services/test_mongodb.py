"""How MongoDB is called, without a server: the contract with one is in tests/integration."""

from __future__ import annotations

from contextlib import closing

import pytest

from leader.services.mongodb import open_database


@pytest.mark.parametrize(
    ("query", "timeouts_s", "name"),
    [
        ("", (8.0, 2.0, 2.0), "flockstep"),
        ("?tls=true", (8.0, 2.0, 2.0), "flockstep"),
        ("?timeoutMS=30000&appName=mine", (30.0, 2.0, 2.0), "mine"),
        ("?serverselectiontimeoutms=500;connectTimeoutMS=700", (8.0, 0.5, 0.7), "flockstep"),
    ],
)
def test_what_the_url_says_counts_and_ours_counts_where_it_says_nothing(
    query: str, timeouts_s: tuple[float, ...], name: str
) -> None:
    client, database = open_database(f"mongodb://ann:secret@h:1,g:2/runs{query}")
    with closing(client):
        options = client.options
        pool = options.pool_options
        found = options.timeout, options.server_selection_timeout, pool.connect_timeout
        assert found == pytest.approx(timeouts_s)
        assert pool.metadata["application"] == {"name": name}
        assert database.name == "runs"
