"""What each URL of the simulated network answers: the directory, a PDS, the upstream relay, the control port."""

from __future__ import annotations

import base64
import json
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from zlay.sim.faults import EVENT_FAULTS, GROUPS, STREAM_FAULTS
from zlay.sim.http import Request, Response, error_response, json_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from zlay.sim.actors import Account, Host
    from zlay.sim.directory import Directory
    from zlay.sim.network import Network
    from zlay.sim.sources import LiveSource
    from zlay.sim.subscriber import Source

__all__ = ["ControlSite", "DirectorySite", "PdsSite", "Site", "Steering", "UpstreamSite", "cid_text"]

PLC_MODES = ("ok", "slow", "down", "error", "garbage", "missing")
EXPORT_DEFAULT = 1000  # lines (G6)
LIST_REPOS_DEFAULT, LIST_REPOS_MAX = 500, 1000  # F5
LIST_HOSTS_DEFAULT, LIST_HOSTS_MAX = 200, 1000  # F3
PROFILES_AT_ONCE = 20_000
_XRPC = "/xrpc/com.atproto."


class Site(Protocol):
    """What listens on one address. `source` is None where there is nothing to subscribe to."""

    source: Source | None

    def answer(self, request: Request) -> Response:
        """The answer to a request that is no upgrade."""


def cid_text(digest: bytes) -> str:
    """A DRISL CID as text (C11), from the SHA-256 of its block."""
    return "b" + base64.b32encode(b"\x01\x71\x12\x20" + digest).decode("ascii").lower().rstrip("=")


def _page(request: Request, default: int, largest: int) -> tuple[int, int]:
    """Limit and start of a page; ValueError for what is no number or out of range."""
    limit = int(request.query.get("limit", default))
    start = int(request.query.get("cursor", 0))
    if not 1 <= limit <= largest or start < 0:
        raise ValueError
    return limit, start


class DirectorySite:
    """The PLC directory (G2, G6). `mode` and `slow_s` say how it fails; `dids`, unless empty, for which DIDs."""

    source: Source | None = None

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.mode = "ok"
        self.slow_s = 0.0
        self.dids: frozenset[str] = frozenset()
        self.requests = 0

    def answer(self, request: Request) -> Response:
        """/{did}, /{did}/data, /{did}/log, /{did}/log/audit, /{did}/log/last, /export, /_health."""
        self.requests += 1
        parts = request.path.strip("/").split("/")
        if self.mode != "ok" and (not self.dids or parts[0] in self.dids):
            failure = self._failure(request)
            if failure is not None:
                return failure
        response = self._answer(request, parts)
        if self.mode == "slow" and (not self.dids or parts[0] in self.dids):
            response.delay_s = self.slow_s
        return response

    def _failure(self, request: Request) -> Response | None:
        if self.mode == "down":
            return Response(503, b"", hang_up=True)
        if self.mode == "error":
            return error_response(500, "InternalServerError", "ordered by the test")
        if self.mode == "garbage":
            return Response(200, b'{"id": "did:plc:garbage", "service": [')
        if self.mode == "missing":
            return json_response({"message": f"DID not registered: {request.path[1:]}"}, 404)
        return None

    def _answer(self, request: Request, parts: list[str]) -> Response:
        if parts == ["export"]:
            try:
                count = int(request.query.get("count", EXPORT_DEFAULT))
            except ValueError:
                return json_response({"message": "count is no number"}, 400)
            lines = self.directory.export(count, request.query.get("after"))
            return Response(200, lines.encode(), "application/jsonlines")
        if parts == ["_health"]:
            return json_response({"version": "zlay-sim"})
        did, what = parts[0], "/".join(parts[1:])
        document = self.directory.document(did)
        if document is None:
            return json_response({"message": f"DID not registered: {did}"}, 404)
        if what == "":
            response = json_response(document)
            response.content_type = "application/did+ld+json"
            return response
        if what == "data":
            return json_response(self.directory.data(did))
        operations = self.directory.operations(did)
        if what == "log":
            return json_response([entry.operation for entry in operations])
        if what == "log/audit":
            return json_response([entry.line(False) for entry in operations])
        if what == "log/last":
            return json_response(operations[-1].operation)
        return json_response({"message": "Not Found"}, 404)


class PdsSite:
    """One PDS: the queries a relay or a consumer asks (section F)."""

    def __init__(self, host: Host, network: Network, source: LiveSource) -> None:
        self.host = host
        self.network = network
        self.source: Source | None = source
        self.requests = 0  # those that are no subscriptions
        self._routes: dict[str, Callable[[Request], Response]] = {
            f"{_XRPC}server.describeServer": self._describe_server,
            f"{_XRPC}sync.listRepos": self._list_repos,
            f"{_XRPC}sync.getRepo": self._get_repo,
            f"{_XRPC}sync.getLatestCommit": self._get_latest_commit,
            f"{_XRPC}sync.getRepoStatus": self._get_repo_status,
            "/xrpc/_health": lambda request: json_response({"version": "zlay-sim"}),
        }

    def answer(self, request: Request) -> Response:
        """Answers a query."""
        self.requests += 1
        route = self._routes.get(request.path)
        if route is None:
            return error_response(501, "MethodNotImplemented", request.path)
        return route(request)

    def _describe_server(self, request: Request) -> Response:
        name = self.host.name.replace(":", "%3A")
        return json_response(
            {"did": f"did:web:{name}", "availableUserDomains": [".test"], "inviteCodeRequired": False, "links": {}}
        )

    def _list_repos(self, request: Request) -> Response:
        try:
            limit, start = _page(request, LIST_REPOS_DEFAULT, LIST_REPOS_MAX)
        except ValueError:
            return error_response(400, "InvalidRequest", "limit or cursor")
        repos = [
            {
                "did": account.did,
                "head": cid_text(account.repo.head_digest),
                "rev": account.repo.rev_text,
                "active": account.active,
                **({"status": account.status} if account.status else {}),
            }
            for account in self.host.accounts[start : start + limit]
        ]
        more = {"cursor": str(start + limit)} if start + limit < len(self.host.accounts) else {}
        return json_response({**more, "repos": repos})

    def _account(self, request: Request) -> Account | Response:
        did = request.query.get("did")
        if did is None:
            return error_response(400, "InvalidRequest", "did is missing")
        account = self.network.by_did.get(did)
        if account is None or account.host is not self.host or account.status == "deleted":
            return error_response(400, "RepoNotFound", f"Could not find repo for DID: {did}")
        return account

    def _active_account(self, request: Request) -> Account | Response:
        account = self._account(request)
        if isinstance(account, Response) or account.active:
            return account
        return error_response(400, "RepoDeactivated", f"Repo has been deactivated: {account.did}")

    def _get_repo(self, request: Request) -> Response:
        account = self._active_account(request)
        if isinstance(account, Response):
            return account
        return Response(200, account.repo.car(), "application/vnd.ipld.car")

    def _get_latest_commit(self, request: Request) -> Response:
        account = self._active_account(request)
        if isinstance(account, Response):
            return account
        return json_response({"cid": cid_text(account.repo.head_digest), "rev": account.repo.rev_text})

    def _get_repo_status(self, request: Request) -> Response:
        account = self._account(request)
        if isinstance(account, Response):
            return account
        if account.active:
            return json_response({"did": account.did, "active": True, "rev": account.repo.rev_text})
        return json_response({"did": account.did, "active": False, "status": account.status})


class UpstreamSite:
    """A relay that knows all the hosts (F3): what RELAY_UPSTREAM points to."""

    source: Source | None = None

    def __init__(self, names: Callable[[], list[dict[str, object]]]) -> None:
        self._hosts = names
        self.requests = 0

    def answer(self, request: Request) -> Response:
        """listHosts; /xrpc/_health."""
        self.requests += 1
        if request.path == "/xrpc/_health":
            return json_response({"version": "zlay-sim"})
        if request.path != f"{_XRPC}sync.listHosts":
            return error_response(501, "MethodNotImplemented", request.path)
        try:
            limit, start = _page(request, LIST_HOSTS_DEFAULT, LIST_HOSTS_MAX)
        except ValueError:
            return error_response(400, "InvalidRequest", "limit or cursor")
        hosts = self._hosts()
        more = {"cursor": str(start + limit)} if start + limit < len(hosts) else {}
        return json_response({**more, "hosts": hosts[start : start + limit]})


class Steering(Protocol):
    """What the control port can do to the running simulation; the server implements it."""

    def stats(self) -> dict[str, object]:
        """Counters."""

    def pause(self) -> None:
        """Stops generating."""

    def resume(self) -> None:
        """Starts or goes on."""

    def finish(self) -> None:
        """Stops generating for good and notes it in the ledger."""

    def set_rate(self, rate: float) -> None:
        """Events per second from now on."""

    def misbehave(self, host: object, kind: str, count: int, seconds: float) -> int:
        """Orders misbehaviour; how many events or subscribers it touched. KeyError for an unknown host."""


class ControlSite:
    """The control port: JSON in, JSON out.

    GET /sim/stats; GET /sim/profiles?after=N {profiles: [DID, multikey, URL of the host] of PROFILES_AT_ONCE accounts};
    POST /sim/pause, /sim/resume, /sim/stop; POST /sim/rate {rate}; POST /sim/misbehave {host: name, number or
    null = all, kind, count, seconds}; POST /sim/plc {mode, ms, dids}.
    """

    source: Source | None = None

    def __init__(self, steering: Steering, directory: DirectorySite) -> None:
        self._steering = steering
        self._directory = directory

    def answer(self, request: Request) -> Response:
        """Does what was asked."""
        if request.path == "/sim/stats":
            return json_response(self._steering.stats())
        if request.path == "/sim/profiles":
            after = int(request.query.get("after", 0))
            found = islice(self._directory.directory.profiles.values(), after, after + PROFILES_AT_ONCE)
            return json_response({"profiles": [(profile.did, profile.key, profile.pds) for profile in found]})
        if request.method != "POST":
            return error_response(405, "MethodNotAllowed", "POST it")
        try:
            arguments = json.loads(request.body or b"{}")
            return self._order(request.path, arguments)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            return error_response(400, "InvalidRequest", repr(exc))

    def _order(self, path: str, arguments: dict[str, object]) -> Response:
        if path == "/sim/pause":
            self._steering.pause()
        elif path == "/sim/resume":
            self._steering.resume()
        elif path == "/sim/stop":
            self._steering.finish()
        elif path == "/sim/rate":
            self._steering.set_rate(float(str(arguments["rate"])))
        elif path == "/sim/plc":
            self._set_directory(arguments)
        elif path == "/sim/misbehave":
            return self._misbehave(arguments)
        else:
            return error_response(404, "NotFound", path)
        return json_response(self._steering.stats())

    def _misbehave(self, arguments: dict[str, object]) -> Response:
        kind = str(arguments["kind"])
        if kind not in (*EVENT_FAULTS, *GROUPS, *STREAM_FAULTS):
            raise ValueError(f"no such kind: {kind}")
        count = int(str(arguments.get("count", 1)))
        seconds = float(str(arguments.get("seconds", 1.0)))
        return json_response({"touched": self._steering.misbehave(arguments.get("host"), kind, count, seconds)})

    def _set_directory(self, arguments: dict[str, object]) -> None:
        mode = str(arguments["mode"])
        if mode not in PLC_MODES:
            raise ValueError(f"mode: one of {', '.join(PLC_MODES)}")
        dids = arguments.get("dids", [])
        if not isinstance(dids, list):
            raise ValueError("dids: a list")
        self._directory.mode = mode
        self._directory.slow_s = float(str(arguments.get("ms", 0))) / 1000
        self._directory.dids = frozenset(str(did) for did in dids)
