"""The public queries and procedures at the socket (protocol F): shapes, errors, limits. Against a whole relay."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from tests.api.support import request_bytes, wait_until
from tests.hosts.fake_pds import FakePds, event, upgrade
from tests.net.fake_http import FakeHttp, Request, reply, reply_json
from tests.state.support import (
    ACTIVE,
    CID_B,
    DEACTIVATED,
    DELETED,
    TAKENDOWN,
    delta,
    did,
    rev,
)
from zlay._fast import verdicts
from zlay.api.router import PROCEDURES_AT_ONCE
from zlay.api.xrpc import cid_text
from zlay.state.interface import NewHost

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.api.support import Answer, Client
    from tests.live import LiveRelay

SYNC = "/xrpc/com.atproto.sync."
HEAD = cid_text(CID_B)
SUSPENDED, DESYNCHRONIZED, THROTTLED, INACTIVE = (
    verdicts.STATUSES.index(name) for name in ("suspended", "desynchronized", "throttled", "inactive")
)
# Accounts by number: (upstream status, local status, what it is called, the error that getRepo gives)
ACCOUNTS = {
    1: (ACTIVE, ACTIVE, None, None),
    2: (DEACTIVATED, ACTIVE, "deactivated", "RepoDeactivated"),
    3: (ACTIVE, TAKENDOWN, "takendown", "RepoTakendown"),
    4: (DELETED, ACTIVE, "deleted", "RepoDeleted"),
    5: (SUSPENDED, ACTIVE, "suspended", "RepoSuspended"),
    6: (INACTIVE, ACTIVE, None, "RepoInactive"),
    7: (THROTTLED, ACTIVE, "throttled", None),
    8: (DEACTIVATED, TAKENDOWN, "takendown", "RepoTakendown"),
}
ACTIVE_ONES = (1, 7, 9)
BROKEN_CHAIN, NO_COMMIT, NO_HOST = 9, 10, 11
HOST_NAME = "localhost:1"  # nobody listens there


@pytest.fixture(scope="module", autouse=True)
def _accounts(live: LiveRelay) -> None:
    """The accounts of ACCOUNTS, one with a broken chain, one without a commit, one of a host that is not known."""
    host = live.relay.registry.add([NewHost(HOST_NAME, "admin", no_tls=True)])[0].id
    deltas = [
        delta(n, seq=n, rev=rev(n), host_id=host, status=upstream, local=local)
        for n, (upstream, local, _, _) in ACCOUNTS.items()
    ]
    deltas.append(delta(BROKEN_CHAIN, seq=9, rev=rev(9), host_id=host, desynchronized=True))
    deltas.append(delta(NO_COMMIT, seq=10, rev=None, host_id=host))
    deltas.append(delta(NO_HOST, seq=11, rev=rev(11), host_id=9999))
    live.relay.store.apply(deltas, [], 0, None)


def ask(client: Client, name: str, query: str = "") -> Answer:
    """A query of com.atproto.sync."""
    return client.request("GET", f"{SYNC}{name}?{query}")


def refused(told: Answer, status: int, error: str) -> bool:
    """Whether an answer is this error, in the error form."""
    return (told.status, told.json["error"], set(told.json)) == (status, error, {"error", "message"})


# --- accounts ---


@pytest.mark.parametrize("n", ACCOUNTS)
def test_get_repo_status(public: Client, n: int) -> None:
    """getRepoStatus: active, a status unless it is plainly active or has no reason, a rev when active (F6, E8)."""
    _, _, status, error = ACCOUNTS[n]
    wanted = {"did": did(n), "active": error is None}
    wanted |= {} if status is None else {"status": status}
    wanted |= {} if error else {"rev": rev(n)}
    assert ask(public, "getRepoStatus", f"did={did(n)}").json == wanted


def test_get_repo_status_of_a_broken_chain(public: Client) -> None:
    """An account whose chain broke is active and desynchronized (E14)."""
    told = ask(public, "getRepoStatus", f"did={did(BROKEN_CHAIN)}").json
    assert told == {"did": did(9), "active": True, "status": "desynchronized", "rev": rev(9)}


def test_get_repo_status_before_the_first_commit(public: Client) -> None:
    """An account without a commit is active and has no rev."""
    assert ask(public, "getRepoStatus", f"did={did(NO_COMMIT)}").json == {"did": did(10), "active": True}


@pytest.mark.parametrize("n", ACCOUNTS)
def test_get_latest_commit_and_get_repo(public: Client, n: int) -> None:
    """getLatestCommit gives cid and rev, getRepo the way to the PDS; inactive accounts are 403 with their error."""
    *_, error = ACCOUNTS[n]
    commit, repo = (ask(public, name, f"did={did(n)}") for name in ("getLatestCommit", "getRepo"))
    if error is None:
        assert commit.json == {"cid": HEAD, "rev": rev(n)}
        assert repo.status == 302
    else:
        assert refused(commit, 403, error)
        assert refused(repo, 403, error)


def test_get_latest_commit_before_the_first(public: Client) -> None:
    """getLatestCommit of an account without a commit is 404 RepoNotSynchronized (F7)."""
    assert refused(ask(public, "getLatestCommit", f"did={did(NO_COMMIT)}"), 404, "RepoNotSynchronized")


def test_get_repo_keeps_the_query(public: Client) -> None:
    """getRepo's redirect keeps did and since; a since that is no TID is 400 (F8)."""
    told = ask(public, "getRepo", f"since={rev(1)}&did={did(1)}")
    assert told.headers["location"] == f"http://{HOST_NAME}{SYNC}getRepo?did={did(1)}&since={rev(1)}"
    assert told.body == b""
    for since in ("", "3jqf%26x", "x" * 13, rev(1) + "a", "3JQF" + rev(1)[4:]):
        assert refused(ask(public, "getRepo", f"did={did(1)}&since={since}"), 400, "InvalidRequest")
    assert refused(ask(public, "getRepo", f"did={did(NO_HOST)}"), 404, "RepoNotFound")


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("listHosts", ""),
        ("listRepos", ""),
        ("getHostStatus", f"hostname={HOST_NAME}"),
        ("getRepoStatus", f"did={did(1)}"),
        ("getLatestCommit", f"did={did(1)}"),
        ("getRepo", f"did={did(1)}"),
    ],
)
def test_parameters_that_are_not_of_the_query(public: Client, name: str, query: str) -> None:
    """A parameter that a query does not have, or one given twice, is 400 InvalidRequest (F)."""
    assert ask(public, name, query).status in (200, 302)
    twice = query or "limit=5"
    for wrong in (f"{query}&other=z", f"{query}&=", f"{twice}&{twice}", f"{query}&LIMIT=5"):
        assert refused(ask(public, name, wrong), 400, "InvalidRequest")


@pytest.mark.parametrize("name", ["getRepoStatus", "getLatestCommit", "getRepo"])
def test_accounts_that_are_none(public: Client, name: str) -> None:
    """An account nobody has seen is 404 RepoNotFound; no DID, or what is none, is 400 InvalidRequest."""
    assert refused(ask(public, name, f"did={did(999)}"), 404, "RepoNotFound")
    for query in ("", "did=", "did=alice.example.com", "did=did:plc:short", "did=did:web:a/b", "did=" + "x" * 5000):
        assert refused(ask(public, name, query), 400, "InvalidRequest")


def test_list_repos_in_pages(public: Client) -> None:
    """listRepos: every active account with a commit, once, in the order first seen, whatever the page (F5)."""
    whole = ask(public, "listRepos").json
    assert "cursor" not in whole
    assert [one["did"] for one in whole["repos"]] == [did(n) for n in (*ACTIVE_ONES, NO_HOST)]
    assert whole["repos"][0] == {"did": did(1), "head": HEAD, "rev": rev(1), "active": True}
    by_did = {one["did"]: one for one in whole["repos"]}
    assert by_did[did(BROKEN_CHAIN)]["status"] == "desynchronized"
    for limit in (*range(1, 13), 1000):
        pages, cursor = [], ""
        while True:
            page = ask(public, "listRepos", f"limit={limit}{cursor}").json
            assert len(page["repos"]) <= limit
            pages += page["repos"]
            if "cursor" not in page:
                break
            cursor = f"&cursor={page['cursor']}"
        assert pages == whole["repos"]
    assert ask(public, "listRepos", "cursor=999999999").json == {"repos": []}


@pytest.mark.parametrize("name", ["listRepos", "listHosts"])
@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=%D9%A1",
        "limit=" + "9" * 5000,
        "cursor=x",
        "cursor=-1",
        "cursor=" + "9" * 5000,
        "limit=%FF",
    ],
)
def test_bad_limits_and_cursors(public: Client, name: str, query: str) -> None:
    """A limit out of range, or a cursor that is not ours, is 400 InvalidRequest; never an error of ours."""
    assert refused(ask(public, name, query), 400, "InvalidRequest")


# --- hosts ---


@pytest.fixture
def pds() -> Iterator[FakePds]:
    """A host that sends five events and then stays."""
    done = threading.Event()

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        sock.sendall(b"".join(event(seq) for seq in (41, 42, 43, 44, 45)))
        done.wait(30)

    one = FakePds(script)
    yield one
    done.set()
    one.close()


def test_hosts_that_have_sent_something(live: LiveRelay, public: Client, pds: FakePds) -> None:
    """listHosts names hosts with a seq, getHostStatus any known one in any case; pages go by cursor (F3, F4)."""
    live.relay.registry.add([NewHost(pds.hostname, "admin", no_tls=True)])
    wait_until(lambda: (live.relay.host(pds.hostname) or pytest.fail("gone")).last_seq == 45, "all has come")
    told = ask(public, "getHostStatus", f"hostname={pds.hostname.upper()}").json
    assert told == {"hostname": pds.hostname, "seq": 45, "accountCount": 0, "status": "active"}
    assert ask(public, "listHosts").json == {"hosts": [told]}
    assert ask(public, "listHosts", "limit=1").json == {"hosts": [told]}
    silent = ask(public, "getHostStatus", f"hostname={HOST_NAME}").json
    assert "seq" not in silent
    assert silent["status"] in ("idle", "offline")
    assert ask(public, "getHostStatus", f"hostname=http://{HOST_NAME}").json == silent
    assert refused(ask(public, "getHostStatus", "hostname=other.example.com"), 404, "HostNotFound")
    for bad in ("a%20b", "a/b", "ftp://a.example.com", "", "a" * 400):
        assert refused(ask(public, "getHostStatus", f"hostname={bad}"), 400, "InvalidRequest")
    assert refused(ask(public, "getHostStatus"), 400, "InvalidRequest")


# --- requestCrawl ---


def crawl(client: Client, hostname: object, name: str = "requestCrawl") -> Answer:
    """requestCrawl of a host."""
    body = json.dumps({"hostname": hostname}).encode()
    return client.request("POST", SYNC + name, {"Content-Type": "application/json"}, body)


def describe(request: Request, _connection: socket.socket) -> bytes:
    """A PDS's describeServer, and nothing else."""
    if request.path == "/xrpc/com.atproto.server.describeServer":
        return reply_json({"did": "did:web:localhost", "availableUserDomains": []})
    return reply(404)


def test_request_crawl_adds_a_host_that_answers(live: LiveRelay, public: Client) -> None:
    """A host that describes itself is added, asking again is a no-op, notifyOfUpdate does the same (E15, F2)."""
    with FakeHttp(describe) as host:
        name = f"localhost:{host.port}"
        told = crawl(public, name)
        assert (told.status, told.body) == (200, b"{}")
        assert crawl(public, name).status == 200
        assert crawl(public, name, "notifyOfUpdate").status == 200
        assert sum(one.path.endswith("describeServer") for one in host.requests) == 1
        view = live.relay.host(name)
        assert view is not None
        assert view.no_tls


def test_request_crawl_refuses_and_keeps_nothing(live: LiveRelay, public: Client) -> None:
    """A name that is none, a host that does not answer, and a relay are refused by name, and not added (E15, E16)."""
    for bad in ("", None, 5, ["a"]):
        assert refused(crawl(public, bad), 400, "InvalidRequest")
    for bad in ("a b", "https://a.example.com/path", "ftp://a.example.com", "a" * 400, "user@host.example.com"):
        assert refused(crawl(public, bad), 400, "BadRequest")
    assert refused(public.request("POST", SYNC + "requestCrawl", body=b"x"), 400, "InvalidRequest")
    # Not localhost: these ports may be those of hosts that other tests have added by that name.
    with FakeHttp(lambda *_: reply(500)) as broken:
        assert refused(crawl(public, f"127.0.0.1:{broken.port}"), 400, "HostNotFound")
    assert refused(crawl(public, f"127.0.0.1:{broken.port}"), 400, "HostNotFound")  # nobody listens any more
    with FakeHttp(lambda *_: reply_json({"did": "did:web:x"}, Server="indigo (atproto-relay)")) as relay:
        assert refused(crawl(public, f"127.0.0.1:{relay.port}"), 400, "BadRequest")
    for port in (broken.port, relay.port):
        assert live.relay.host(f"127.0.0.1:{port}") is None


def test_request_crawl_of_a_banned_domain(live: LiveRelay, public: Client) -> None:
    """A host under a banned domain is refused as HostBanned, before anybody asks it."""
    live.relay.registry.ban_domain("banned.localhost", banned=True)
    assert refused(crawl(public, "a.banned.localhost:1"), 400, "HostBanned")


def test_request_crawl_has_a_limit_by_address(live: LiveRelay) -> None:
    """So many calls of one address at once, then 429 with Retry-After; queries and the metrics port go on."""
    with live.client() as client:
        for _ in range(PROCEDURES_AT_ONCE + 1):
            told = crawl(client, "a b")
            if told.status == 429:
                break
            assert refused(told, 400, "BadRequest")
        assert refused(told, 429, "RateLimitExceeded")
        assert 1 <= int(told.headers["retry-after"]) <= 5
        assert ask(client, "listHosts").status == 200
    with live.client(internal=True) as client:
        assert refused(crawl(client, "a b"), 400, "BadRequest")


def test_requests_wait_for_no_slow_host(live: LiveRelay, public: Client) -> None:
    """While strangers' hosts are asked and do not answer, everything else is answered; too many at once is 429."""
    release = threading.Event()

    def stall(_request: Request, _connection: socket.socket) -> None:
        release.wait(20)

    live.relay._router._procedures._full_at.clear()
    clients = [live.client() for _ in range(9)]
    with FakeHttp(stall) as host:
        try:
            for client in clients:
                body = json.dumps({"hostname": f"localhost:{host.port}"}).encode()
                head = {"Content-Type": "application/json"}
                client.send(request_bytes("POST", SYNC + "requestCrawl", head, body))
            told = [client for client in clients if _has_answer(client)]
            assert len(told) == 1  # eight may ask at a time
            assert refused(told[0].answer(), 429, "RateLimitExceeded")
            assert ask(public, "listHosts").status == 200
        finally:
            release.set()
        for client in clients:
            if client not in told:
                assert refused(client.answer(), 400, "HostNotFound")
            client.sock.close()


def _has_answer(client: Client) -> bool:
    client.sock.settimeout(0.5)
    try:
        client.received += client.sock.recv(65536)
    except TimeoutError:
        return False
    finally:
        client.sock.settimeout(10.0)
    return True
