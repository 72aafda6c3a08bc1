"""`python -m zlay.sim.bench`: events per second that one core makes, with and without sockets, against its bound.

The bound is what the two curves' signatures alone allow, measured in the same run. Prints one object of JSON in the
form of design section 16; exits 0 whenever it measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import select
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

from zlay.sim.keys import SigningKey
from zlay.sim.ledger import LedgerWriter
from zlay.sim.network import Network
from zlay.sim.process import SimProcess
from zlay.sim.settings import Settings

__all__ = ["main"]

TARGET = 3_000.0  # events per second and core
EVENTS = 20_000
SIGNATURES = 4_000
RECV_BYTES = 1 << 20
_UPGRADE = (
    "GET /xrpc/com.atproto.sync.subscribeRepos HTTP/1.1\r\nHost: {0}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def signatures_per_s(p256_share: float) -> float:
    """Signatures per second in the mix of curves that the network has."""
    cost_s = 0.0
    for curve, share in (("p256", p256_share), ("k256", 1 - p256_share)):
        key = SigningKey(curve, b"bench")
        started = time.process_time()
        for number in range(SIGNATURES):
            key.sign(b"%d" % number)
        cost_s += share * (time.process_time() - started) / SIGNATURES
    return 1 / cost_s


def made_per_s(directory: Path) -> float:
    """Events per second of processor time without sockets: repository, signature, frame, ledger."""
    settings = Settings(virtual_clock=True)
    addresses = [(f"localhost:{index}", f"http://localhost:{index}") for index in range(settings.hosts)]
    network = Network(settings, addresses, LedgerWriter(directory / "ledger", 1))
    started = time.process_time()
    while network.generated < EVENTS:
        network.step()
        if network.ledger.pending_bytes > RECV_BYTES:
            network.ledger.flush()
    elapsed = time.process_time() - started
    network.ledger.close()
    return network.generated / elapsed


def sent_per_s() -> float:
    """Events per second of the simulation's processor time, from choice to socket, to a reader that takes all."""
    with SimProcess("--rate", "0", "--events", str(EVENTS)) as sim:
        before = _cpu_s(sim.process.pid)
        _read_all(sim)
        return EVENTS / (_cpu_s(sim.process.pid) - before)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0  # USER_HZ is 100 on every Linux that matters here


def _read_all(sim: SimProcess) -> None:
    epoll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for host in sim.hosts:
        name, port = host.split(":")
        sock = socket.create_connection((name, int(port)))
        sock.sendall(_UPGRADE.format(host).encode())
        sockets[sock.fileno()] = sock
        epoll.register(sock.fileno(), select.EPOLLIN)
    idle = False
    while not idle:
        ready = epoll.poll(0.3)
        for fd, _ in ready:
            sockets[fd].recv(RECV_BYTES)
        idle = not ready
    for sock in sockets.values():
        sock.close()
    epoll.close()


def main(argv: list[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="zlay.sim.bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args(argv).runs
    p256_share = Settings().p256_share
    bounds, made, sent = [], [], []
    for _ in range(runs):
        bounds.append(signatures_per_s(p256_share))
        with tempfile.TemporaryDirectory(prefix="zlay-sim-") as directory:
            made.append(made_per_s(Path(directory)))
        sent.append(sent_per_s())
    bound = statistics.median(bounds)
    figures = []
    for name, values in (("sim", sent), ("sim.made", made)):
        value = statistics.median(values)
        figures.append(
            {
                "name": name,
                "value": round(value),
                "unit": "events/s",
                "bound": round(bound),
                "ratio": round(value / bound, 3),
                "target": TARGET,
                "met": value >= TARGET,
            }
        )
    result = {
        "benchmark": "sim",
        "params": {"events": EVENTS, "p256_share": p256_share},
        "figures": figures,
        "machine": platform.machine(),
        "python": sys.version.split()[0],
        "seeds": [1],
        "runs": runs,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
