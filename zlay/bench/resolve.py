"""`resolve`: DIDs a second that the resolvers answer, asked of a simulated PLC directory in a process of its own.

All of what a look-up takes counts: the request by the resolver's threads, the document read, the answer handed over,
and, in the background, its row into SQLite. The directory shares the processor.
Bounds: a bare client on h11, as many threads with a connection kept alive each, against the same directory, which
parses the JSON and looks at nothing in it (`resolve`); the number that the plan asks for (`resolve.rate`).
"""

from __future__ import annotations

import itertools
import json
import queue
import socket
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import h11

import zlay.net.h11_tables  # noqa: F401 - the bare client has h11 as the relay has it
from zlay.bench.report import Report, in_turn, rate
from zlay.errors import LocalFault
from zlay.identity.resolver import Resolver
from zlay.net.http_client import HttpClient, split_url
from zlay.pipeline.types import ResolveRequest
from zlay.sim.process import SimProcess
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from zlay.pipeline.types import Identity

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "identities a second, asked of a simulated directory"
TARGET_BARE = 0.7  # of what h11 alone reaches
LEAST_RATE = 2000.0
THREADS = 16  # RESOLVER_THREADS
ANSWER_S = 60.0  # for all of a run
EXPORT_S = 30.0
MAX_EXPORT_BYTES = 4 << 20  # a page of 1,000 operations has some 700 KB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--accounts, --look-ups, --threads."""
    parser.add_argument("--accounts", type=int, default=1000, help="DIDs that the directory knows (default: 1000)")
    parser.add_argument("--look-ups", type=int, default=4000, help="of each run (default: 4000)")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"RESOLVER_THREADS (default: {THREADS})")


def measure(arguments: argparse.Namespace) -> Report:
    """Look-ups per second."""
    flags = ("--accounts", str(arguments.accounts), "--hosts", "4", "--repo-size", "1", "--ledger", "/dev/null")
    with SimProcess(*flags) as sim:
        dids = _dids(sim.plc)
        if not dids:
            raise LocalFault("the directory knows nobody")
        asked = list(itertools.islice(itertools.cycle(dids), arguments.look_ups))
        with _resolver(sim.plc, arguments.threads) as edge:
            taken = in_turn(
                arguments.runs,
                {
                    "own": lambda: _rate(edge, asked, len(dids)),
                    "bare": lambda: _bare(sim.plc, asked, arguments.threads),
                },
            )
    figures = [
        rate("resolve", taken["own"], "DIDs/s", taken["bare"], TARGET_BARE),
        rate("resolve.rate", taken["own"], "DIDs/s", LEAST_RATE, 1.0),
    ]
    params = {"accounts": arguments.accounts, "look_ups": arguments.look_ups, "threads": arguments.threads}
    return Report("resolve", params, figures, arguments.runs)


def _dids(plc: str) -> list[str]:
    client = HttpClient(allow_address=lambda _: True)
    with closing(client):
        found: dict[str, None] = {}
        after = 0
        while True:
            url = f"{plc}/export?count=1000&after={after}"
            page = client.get(url, timeout_s=EXPORT_S, max_body_bytes=MAX_EXPORT_BYTES).body.splitlines()
            if not page:
                return list(found)
            for line in page:
                operation = json.loads(line)
                found[operation["did"]] = None
                after = operation["seq"]


class _Edge:
    """What the pipeline is for a resolver: requests out, identities in. Any thread."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[ResolveRequest] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Identity] = queue.SimpleQueue()

    def next_resolve(self, timeout_s: float) -> ResolveRequest | None:
        try:
            return self.requests.get(timeout=timeout_s)
        except queue.Empty:
            return None


@contextmanager
def _resolver(plc: str, threads: int) -> Iterator[_Edge]:
    edge = _Edge()
    ended = threading.Event()

    def no_request(timeout_s: float) -> None:
        ended.wait(timeout_s)

    with (
        tempfile.TemporaryDirectory(prefix="zlay-bench-") as folder,
        closing(SqliteStore(Path(folder) / "state.sqlite")) as store,
    ):
        resolver = Resolver(
            store,
            plc_urls=[plc],
            threads=threads,
            next_resolve=edge.next_resolve,
            next_resolve_web=no_request,
            post_identity=edge.answers.put,
            allow_private=True,
        )
        running = [threading.Thread(target=target, name=name) for name, target in resolver.threads()]
        for thread in running:
            thread.start()
        try:
            yield edge
        finally:
            resolver.stop()
            ended.set()
            for thread in running:
                thread.join()


def _rate(edge: _Edge, dids: Sequence[str], together: int) -> float:
    """`together` are asked for at a time: of requests for one DID that meet, one would be answered with the other."""
    began = time.perf_counter()
    for first in range(0, len(dids), together):
        some = dids[first : first + together]
        for did in some:
            edge.requests.put(ResolveRequest(did, force=False))
        for _ in some:
            _take(edge)
    return len(dids) / (time.perf_counter() - began)


def _take(edge: _Edge) -> None:
    try:
        answer = edge.answers.get(timeout=ANSWER_S)
    except queue.Empty:
        raise LocalFault("the resolvers do not answer") from None
    if answer.outcome != "ok":
        raise LocalFault(f"a look-up failed: {answer.detail}")


def _bare(plc: str, dids: Sequence[str], threads: int) -> float:
    faults: list[Exception] = []

    def ask(own: Sequence[str]) -> None:
        try:
            _ask_barely(plc, own)
        except (OSError, h11.ProtocolError, ValueError) as exc:
            faults.append(exc)

    running = [threading.Thread(target=ask, args=(dids[n::threads],)) for n in range(threads)]
    began = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    taken_s = time.perf_counter() - began
    if faults:
        raise LocalFault(f"the bare client failed: {faults[0]}")
    return len(dids) / taken_s


def _ask_barely(plc: str, dids: Sequence[str]) -> None:
    """Raises OSError, h11.ProtocolError, ValueError."""
    _, host, port, _ = split_url(plc)
    headers = [("Host", f"{host}:{port}"), ("Accept", "application/json")]
    with socket.create_connection((host, port), timeout=ANSWER_S) as sock:
        http = h11.Connection(h11.CLIENT)
        for did in dids:
            request = h11.Request(method="GET", target=f"/{did}", headers=headers)
            sock.sendall((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
            body = bytearray()
            while not isinstance(event := http.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    http.receive_data(sock.recv(65536))
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.ConnectionClosed):
                    raise ConnectionError("the directory closed the connection")
            json.loads(body)
            http.start_next_cycle()
