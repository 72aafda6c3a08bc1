"""The description that the relay serves: whole, about this version, and of no other routes than it has."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from tests.fixtures import ROOT
from zlay import __version__
from zlay.api.connection import ERRORS
from zlay.api.interface import HostView
from zlay.api.router import OPENAPI
from zlay.firehose.consumers import ConsumerStats
from zlay.hosts.limits import Given, Limits

if TYPE_CHECKING:
    from tests.api.support import Client
    from tests.live import LiveRelay

DOCUMENT: dict[str, Any] = json.loads(OPENAPI)
SCHEMAS = DOCUMENT["components"]["schemas"]
OURS = {"admin", "figures"}  # tags of what only the metrics port offers


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    """(method, path) of each operation described, with what is said of it."""
    return {
        (method.upper(), path): said for path, methods in DOCUMENT["paths"].items() for method, said in methods.items()
    }


def test_it_is_the_document_of_the_docs(public: Client, internal: Client) -> None:
    """Both ports serve docs/openapi.json, which is about this version."""
    for client in (public, internal):
        told = client.request("GET", "/openapi.json")
        assert told.headers["content-type"].startswith("application/json")
        assert told.body == (ROOT / "docs" / "openapi.json").read_bytes()
    assert DOCUMENT["info"]["version"] == __version__


def test_routes(live: LiveRelay) -> None:
    """Every route of each port stands in the document, and the reverse."""
    router = live.relay._router
    described = operations()
    assert router.routes(is_internal=True) == set(described)
    public = {route for route, said in described.items() if not set(said["tags"]) & OURS}
    assert router.routes(is_internal=False) == public


def test_routes_are_answered(live: LiveRelay) -> None:
    """Nothing that is described is 404 NotFound, 405 or 501 on the ports it is described for, shutdown left alone."""
    for internal in (False, True):
        for method, path in live.relay._router.routes(is_internal=internal) - {("POST", "/admin/shutdown")}:
            with live.client(internal=internal) as client:
                told = client.request(method, path, body=b"" if method == "POST" else None)
                assert told.status not in (405, 501), path
                assert told.status != 404 or told.json["error"] != "NotFound", path


def test_what_wants_the_password() -> None:
    """Exactly the operations under /admin say that they want it, and that 401 and 403 are their answers without it."""
    for (_, path), said in operations().items():
        assert ("security" in said) == path.startswith("/admin/"), path
        if "security" in said:
            assert {"401", "403"} <= said["responses"].keys()


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        (SCHEMAS["Host"], {item.name for item in fields(HostView)}),
        (SCHEMAS["Host"]["properties"]["limits"], {item.name for item in fields(Limits)}),
        (SCHEMAS["Host"]["properties"]["limits_given"], {item.name for item in fields(Given)}),
        (SCHEMAS["Consumer"], {item.name for item in fields(ConsumerStats)}),
    ],
)
def test_shapes(schema: dict[str, Any], names: set[str]) -> None:
    """What is listed of hosts and consumers is described field by field."""
    assert set(schema["properties"]) == names
    assert schema["additionalProperties"] is False


def test_error_names() -> None:
    """The names of errors in the document are those in the code, no more and no fewer."""
    sources = [*(ROOT / "zlay" / "api").glob("*.py"), *(ROOT / "zlay" / "hosts").glob("*.py")]
    text = "\n".join(path.read_text() for path in [*sources, ROOT / "zlay" / "relay.py"])
    raised = r"(?:XrpcError|error_response)\(\s*[^\"]*?\b[1-5]\d\d[^\"]*?, \"([A-Z]\w+)\""
    coded = set(re.findall(raised, text)) | set(re.findall(r"HostRefused\(\s*\"([A-Z]\w+)\"", text))
    coded |= set(re.findall(r"\(\"(Repo[A-Z]\w+)\", \"", text))
    coded |= set(ERRORS.values())  # of what is no request that could be described
    assert coded == set(SCHEMAS["Error"]["properties"]["error"]["enum"])
