"""What is answered while the database fails. Against a whole relay, whose database the test breaks and mends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.live import LiveRelay
from tests.state.support import did
from zlay.state.interface import NewHost

if TYPE_CHECKING:
    from pathlib import Path

    from tests.state.databases import Database

HOST_NAME = "localhost:1"
SYNC = "/xrpc/com.atproto.sync."


def test_a_database_that_fails_is_told(tmp_path: Path, database: Database) -> None:
    """While the database does not answer, queries that need it are 503, the others and health go on."""
    with LiveRelay(tmp_path / "data", DATABASE_URL=database.url) as live, live.client() as client:
        live.relay.registry.add([NewHost(HOST_NAME, "admin", no_tls=True)])
        database.run("ALTER TABLE account RENAME TO account_gone")
        try:
            for name, query in (("listRepos", ""), ("getRepoStatus", f"did={did(1)}"), ("getRepo", f"did={did(1)}")):
                told = client.request("GET", f"{SYNC}{name}?{query}")
                assert (told.status, told.json["error"]) == (503, "ServiceUnavailable")
            assert client.request("GET", f"{SYNC}getHostStatus?hostname={HOST_NAME}").status == 200
            assert client.request("GET", "/_health").status == 200
        finally:
            database.run("ALTER TABLE account_gone RENAME TO account")
        assert client.request("GET", f"{SYNC}listRepos").json == {"repos": []}
