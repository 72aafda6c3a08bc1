"""Both ports answer as docs/openapi.json says, to schemathesis: relays of their own, with real accounts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.oracle.describing import DOCUMENT, PASSWORD, SHUTDOWN, Described, ask, relays, validity, with_examples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = "3"  # of each operation, besides those at the edges of each field; the module's command takes more
SOME_ADMIN = ("/admin/hosts", "/admin/repo/ban", SHUTDOWN)  # the password is asked for in one place
SOME_PUBLIC = ("/_health", "/openapi.json", *(f"/xrpc/com.atproto.sync.{one}" for one in ("getRepo", "requestCrawl")))


@pytest.fixture(scope="module")
def about(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    """The relays."""
    with relays(tmp_path_factory.mktemp("described")) as running:
        yield running


@pytest.fixture
def document(about: Described, tmp_path: Path) -> Path:
    """The document, with examples of what is there."""
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(with_examples(read(), about)))
    return path


def read() -> dict[str, Any]:
    """docs/openapi.json."""
    parsed: dict[str, Any] = json.loads(DOCUMENT.read_text())
    return parsed


def only(paths: Iterable[str]) -> list[str]:
    """Flags that leave the others out."""
    return [f"--include-path={path}" for path in paths]


def test_the_document_is_valid() -> None:
    """It is OpenAPI 3.1, to a validator that knows nothing of us."""
    assert validity(DOCUMENT) == ""


def test_what_is_there_is_answered(about: Described, document: Path) -> None:
    """Of accounts, hosts and consumers that are there every operation gives what the document promises."""
    flags = ["--phases", "examples", "--exclude-path", SHUTDOWN, "--exclude-operation-id", "subscribeRepos"]
    assert ask(document, about.relay.metrics_port, *flags, *PASSWORD, meant=True) == ""


def test_an_operator_may_ask_anything(about: Described, document: Path) -> None:
    """With the password, nothing that can be asked on the metrics port is answered otherwise than the document says."""
    flags = ["--phases", "coverage,fuzzing", "-n", EXAMPLES, "--exclude-path", SHUTDOWN]
    assert ask(document, about.relay.metrics_port, *flags, *PASSWORD) == ""


def test_without_the_password(about: Described, document: Path) -> None:
    """Without the password admin is refused in the document's words, shutdown included."""
    flags = ["--phases", "coverage", *only(SOME_ADMIN)]
    assert ask(document, about.relay.metrics_port, *flags) == ""


def test_where_there_is_no_password(about: Described, document: Path) -> None:
    """Where no password is set admin is closed, with any password, in the document's words."""
    flags = ["--phases", "coverage", *only(SOME_ADMIN)]
    assert ask(document, about.closed.metrics_port, *flags, *PASSWORD) == ""


def test_strangers(about: Described, document: Path) -> None:
    """On the public port strangers are answered as the document says."""
    assert ask(document, about.relay.port, "--phases", "coverage", *only(SOME_PUBLIC)) == ""


def test_a_lie_is_found(about: Described, tmp_path: Path) -> None:
    """What the relay does not keep to is found: a field too few, a status that is not there, a limit that is not."""
    lying = read()
    health = lying["components"]["schemas"]["Health"]
    del health["properties"]["status"]
    health["required"].remove("status")
    del lying["paths"]["/_readyz"]["get"]["responses"]["200"]
    del lying["paths"]["/_readyz"]["get"]["responses"]["503"]
    limit = lying["paths"]["/xrpc/com.atproto.sync.listHosts"]["get"]["parameters"][0]
    limit["schema"]["maximum"] = 10
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(lying))
    lies = ("/_health", "/_readyz", "/xrpc/com.atproto.sync.listHosts")
    found = ask(path, about.relay.port, "--phases", "coverage", *only(lies))
    for operation in (f"GET {one}" for one in lies):
        assert f"_ {operation} _" in found, found
