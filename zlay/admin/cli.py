"""`zlay admin ...`: what an operator asks of a running relay. `zlay hosts` and `zlay memory` are two of these.

Exit status: 0 done; 1 the relay refuses; 2 a bad flag, URL or password; 3 no relay answers. Main thread only.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from zlay.admin.client import AdminClient
from zlay.admin.hosts_text import host_lines, table_lines
from zlay.admin.text import consumer_lines, growth_lines, memory_lines
from zlay.hosts.limits import TIERS, Given
from zlay.terminal import plain, reader_may_leave

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    type _Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    type _Ask = Callable[[AdminClient, argparse.Namespace], Any]
    type _Show = Callable[[Any, argparse.Namespace], Iterable[str]]

__all__ = ["add_admin", "add_hosts", "add_memory"]

AUTO = "auto"  # a limit that is the tier's again, a tier that is HOST_TIERS' again
LIMITS = (*(item.name for item in fields(Given) if item.name != "tier"), "account_limit")


def add_admin(commands: _Commands) -> None:
    """Mounts `admin`."""
    parser = commands.add_parser(
        "admin",
        help="look into a running relay, and steer it",
        description="Ask a running relay's admin endpoints. The password is that of RELAY_ADMIN_PASSWORD.",
    )
    below = parser.add_subparsers(dest="asked", required=True, metavar="COMMAND")
    add_hosts(below)
    for name, what, path, done in (
        ("add", "have a host read, without asking it first", "hosts/add", "{hostname} is read from now on"),
        ("block", "ban a host", "hosts/block", "{hostname} is {status}"),
        ("unblock", "lift a host's ban", "hosts/unblock", "{hostname} is {status}"),
        ("reset-cursor", "give a host's cursor up: read it live", "hosts/resetCursor", "{hostname} is read live"),
    ):
        _add(below, name, what, _poster(path, "hostname"), _sentence(done), "hostname")
    _add_limits(below)
    _add(below, "domains", "the banned domains", lambda ask, _: ask.get("domains"), lambda said, _: said["domains"])
    for name, banned in (("ban-domain", True), ("unban-domain", False)):
        what = "ban a domain with every host under it" if banned else "lift a domain's ban"
        done = "{domain} is banned, with {hosts} known hosts" if banned else "{domain} is not banned any more"
        _add(below, name, what, _poster("domains", "domain", banned=banned), _sentence(done), "domain")
    for name, what, path in (
        ("takedown", "take an account down", "repo/ban"),
        ("untakedown", "lift an account's takedown", "repo/unban"),
    ):
        _add(below, name, what, _poster(path, "did"), _sentence("{did} is {status}"), "did")
    _add(below, "consumers", "who is connected", _all_consumers, lambda said, _: consumer_lines(said))
    _add(
        below,
        "disconnect",
        "end a consumer's connection",
        _poster("consumers/disconnect", "id"),
        _sentence("consumer {id} is disconnected"),
    ).add_argument("id", metavar="ID", type=int)
    add_memory(below)
    _add(
        below,
        "leaks",
        "what has grown since this was asked first; needs LEAK_TRACE",
        lambda ask, given: ask.get("leaks", limit=given.limit),
        lambda said, _: growth_lines(said),
    ).add_argument("--limit", type=int, metavar="N", help="lines of Python at most [default: 20]")
    _add(below, "shutdown", "stop the relay in order", _poster("shutdown"), _sentence("the relay is stopping"))


def add_hosts(commands: _Commands) -> None:
    """Mounts `hosts`."""
    parser = _add(
        commands,
        "hosts",
        "what a running relay knows of its hosts",
        lambda ask, given: ask.get("hosts", hostname=given.hostname),
        lambda said, given: table_lines(said) if given.hostname is None else host_lines(said, time.time()),
    )
    parser.add_argument("hostname", metavar="NAME", nargs="?", help="one host; default: all, a line each")


def add_memory(commands: _Commands) -> None:
    """Mounts `memory`."""
    _add(
        commands,
        "memory",
        "where a running relay's memory is",
        lambda ask, _: ask.get("memory"),
        lambda said, _: memory_lines(said),
    )


def _add(commands: _Commands, name: str, what: str, ask: _Ask, show: _Show, *names: str) -> argparse.ArgumentParser:
    """One command: `ask` gets the answer, `show` makes lines of it; `names` of arguments that must be given."""
    parser = commands.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}. The password is that of RELAY_ADMIN_PASSWORD."
    )
    for one in names:
        parser.add_argument(one, metavar={"hostname": "NAME"}.get(one, one.upper()))
    parser.add_argument(
        "--url",
        default=f"http://127.0.0.1:{os.environ.get('RELAY_METRICS_PORT') or '3001'}",
        help="the relay's metrics port [RELAY_METRICS_PORT, default: http://127.0.0.1:3001]",
    )
    parser.add_argument("--json", action="store_true", help="the relay's answer as it came")
    parser.set_defaults(run=lambda given: _run(given, ask, show))
    return parser


def _run(given: argparse.Namespace, ask: _Ask, show: _Show) -> int:
    said = ask(AdminClient(given.url, os.environ.get("RELAY_ADMIN_PASSWORD")), given)
    with reader_may_leave():
        lines = [json.dumps(said, indent=2)] if given.json else show(said, given)
        for line in lines:
            print(line)
    return 0


def _poster(path: str, *names: str, **fixed: object) -> _Ask:
    """A POST with the arguments of these names."""
    return lambda ask, given: ask.post(path, **{name: getattr(given, name) for name in names}, **fixed)


def _sentence(text: str) -> _Show:
    return lambda said, _: [plain(text.format(**said))]


def _all_consumers(ask: AdminClient, given: argparse.Namespace) -> Any:
    """Every page as one. Consumers come and go meanwhile: each has a higher id than those before it."""
    whole = ask.get("consumers")
    cursor = whole.pop("cursor", None)
    while cursor is not None:
        page = ask.get("consumers", cursor=cursor)
        whole["consumers"] += page["consumers"]
        cursor = page.get("cursor")
    return whole


def _add_limits(commands: _Commands) -> None:
    parser = _add(
        commands,
        "limits",
        "give a host limits of its own",
        _change_limits,
        lambda said, _: host_lines(said, time.time()),
        "hostname",
    )
    parser.add_argument("--tier", choices=[*TIERS, AUTO], help=f"{AUTO}: by HOST_TIERS again")
    for name in LIMITS:
        what = "accounts it may have" if name == "account_limit" else "0 = no limit"
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=_limit, metavar="N", help=f"{what}; {AUTO}: by tier again"
        )
    parser.set_defaults(parser=parser)


def _change_limits(ask: AdminClient, given: argparse.Namespace) -> Any:
    chosen = {name: getattr(given, name) for name in ("tier", *LIMITS) if getattr(given, name) is not None}
    if not chosen:
        given.parser.error("no limit is given")
    changed = {name: None if value == AUTO else value for name, value in chosen.items()}
    return ask.post("hosts/changeLimits", hostname=given.hostname, **changed)


def _limit(text: str) -> int | str:
    """A whole number, or AUTO. Raises ValueError, which argparse tells."""
    return AUTO if text == AUTO else int(text)
