"""The public queries and procedures of com.atproto.sync (protocol F), one function each.

Each takes the relay and a request and gives a response, or raises XrpcError with the lexicon's error name. Handler
threads; nothing here waits for the network but requestCrawl.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from zlay._fast import verdicts
from zlay.api.arguments import account, known_host, page_of, required, revision, text_field
from zlay.api.message import Request, Response, XrpcError, json_response
from zlay.errors import HostRefused, StateError
from zlay.firehose.dag_json import cid_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from zlay.api.interface import HostView, RelayView
    from zlay.pipeline.types import AccountRow

__all__ = ["PROCEDURES", "QUERIES"]

LIST_HOSTS_DEFAULT, LIST_HOSTS_MOST = 200, 1000  # F3
LIST_REPOS_DEFAULT, LIST_REPOS_MOST = 500, 1000  # F5
LIST_REPOS_READS = 20  # of the table for one page: where most accounts are inactive a page may have less than its limit

_ACTIVE = {"active", "desynchronized", "throttled"}  # E8: statuses that go with active = true
_REFUSALS = {  # F7: what an inactive account's status is called as an error
    "takendown": ("RepoTakendown", "the account has been taken down"),
    "suspended": ("RepoSuspended", "the account is suspended"),
    "deactivated": ("RepoDeactivated", "the account is deactivated"),
    "deleted": ("RepoDeleted", "the account is deleted"),
}


# --- hosts ---


def _host_json(host: HostView) -> dict[str, Any]:
    out: dict[str, Any] = {"hostname": host.hostname}
    if host.last_seq is not None:
        out["seq"] = host.last_seq
    out["accountCount"] = host.account_count
    out["status"] = host.status
    return out


def list_hosts(relay: RelayView, request: Request) -> Response:
    """F3: hosts that have sent something, oldest first; the cursor is the last one's id."""
    limit, after = page_of(request, LIST_HOSTS_DEFAULT, LIST_HOSTS_MOST)
    found = [host for host in relay.hosts() if host.id > after and host.last_seq is not None]
    out: dict[str, Any] = {"hosts": [_host_json(host) for host in found[:limit]]}
    if len(found) > limit:
        out["cursor"] = str(found[limit - 1].id)
    return json_response(out)


def get_host_status(relay: RelayView, request: Request) -> Response:
    """F4."""
    return json_response(_host_json(known_host(relay, required(request.parameters("hostname"), "hostname"))))


def request_crawl(relay: RelayView, request: Request) -> Response:
    """F2, E15: adds a host after checking it, or wakes an idle one."""
    hostname = text_field(request.json_object(), "hostname")
    try:
        relay.request_crawl(hostname, request.address)
    except HostRefused as exc:
        raise XrpcError(exc.status, exc.error, str(exc)) from None
    return json_response({})


# --- accounts ---


def effective_status(upstream: int, local: int) -> str:
    """The one status of an account (E8): ours when it is not active, else its host's."""
    names = verdicts.STATUSES
    return names[local] if names[local] not in _ACTIVE else names[upstream]


def _status_json(did: str, upstream: int, local: int, *, desynchronized: bool, rev: str | None) -> dict[str, Any]:
    status = effective_status(upstream, local)
    active = status in _ACTIVE
    out: dict[str, Any] = {"did": did, "active": active}
    if status == "active" and desynchronized:
        status = "desynchronized"
    if status not in ("active", "inactive", "unknown"):
        out["status"] = status
    if active and rev is not None:
        out["rev"] = rev
    return out


def _did(request: Request) -> str:
    return account(required(request.parameters("did"), "did"))


def _read[T](query: Callable[[], T]) -> T:
    """What the database says. Raises XrpcError while it says nothing."""
    try:
        return query()
    except StateError:
        raise XrpcError(503, "ServiceUnavailable", "the database does not answer just now") from None


def _account(relay: RelayView, did: str) -> AccountRow:
    row = _read(partial(relay.store.account, did))
    if row is None or row.host_id == 0:
        raise XrpcError(404, "RepoNotFound", "this relay does not know the account")
    return row


def _active_account(relay: RelayView, did: str) -> AccountRow:
    row = _account(relay, did)
    status = effective_status(row.upstream_status, row.local_status)
    if status not in _ACTIVE:
        error, message = _REFUSALS.get(status, ("RepoInactive", "the account is not active"))
        raise XrpcError(403, error, message)
    return row


def list_repos(relay: RelayView, request: Request) -> Response:
    """F5: active accounts whose repository state is known, in the order first seen; the cursor is a row's number."""
    limit, after = page_of(request, LIST_REPOS_DEFAULT, LIST_REPOS_MOST)
    repos: list[dict[str, Any]] = []
    more = True
    for _ in range(LIST_REPOS_READS):
        rows = _read(partial(relay.store.list_repos, after, limit))
        more = len(rows) == limit
        for row in rows:
            if len(repos) == limit:
                more = True
                break
            after = row.uid
            status = _status_json(
                row.did, row.upstream_status, row.local_status, desynchronized=row.desynchronized, rev=row.rev
            )
            if status["active"]:
                repos.append({"did": row.did, "head": cid_text(row.head), "rev": row.rev} | status)
        if not more or len(repos) == limit:
            break
    out: dict[str, Any] = {"repos": repos}
    if more:
        out["cursor"] = str(after)
    return json_response(out)


def get_repo_status(relay: RelayView, request: Request) -> Response:
    """F6."""
    did = _did(request)
    row = _account(relay, did)
    return json_response(
        _status_json(did, row.upstream_status, row.local_status, desynchronized=row.desynchronized, rev=row.rev)
    )


def get_latest_commit(relay: RelayView, request: Request) -> Response:
    """F7."""
    row = _active_account(relay, _did(request))
    if row.rev is None or row.head is None:
        raise XrpcError(404, "RepoNotSynchronized", "this relay has seen no commit of the account yet")
    return json_response({"cid": cid_text(row.head), "rev": row.rev})


def get_repo(relay: RelayView, request: Request) -> Response:
    """F8: sends the asker to the account's PDS, with its own query; inactive accounts are errors."""
    parameters = request.parameters("did", "since")
    did = account(required(parameters, "did"))
    since = revision(parameters, "since")
    row = _active_account(relay, did)
    host = relay.host_name(row.host_id)
    if host is None:
        raise XrpcError(404, "RepoNotFound", "the account's host is not known any more")
    name, no_tls = host
    query = f"did={quote(did, safe=':')}" + (f"&since={since}" if since else "")
    scheme = "http" if no_tls else "https"
    location = f"{scheme}://{name}/xrpc/com.atproto.sync.getRepo?{query}"
    return Response(302, b"", "text/plain; charset=utf-8", (("Location", location),))


QUERIES = {
    "com.atproto.sync.listHosts": list_hosts,
    "com.atproto.sync.getHostStatus": get_host_status,
    "com.atproto.sync.listRepos": list_repos,
    "com.atproto.sync.getRepoStatus": get_repo_status,
    "com.atproto.sync.getLatestCommit": get_latest_commit,
    "com.atproto.sync.getRepo": get_repo,
}
PROCEDURES = {
    "com.atproto.sync.requestCrawl": request_crawl,
    # Deprecated, and what it asks is the same: older hosts say so that they have something new (F2).
    "com.atproto.sync.notifyOfUpdate": request_crawl,
}
