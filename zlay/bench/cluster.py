"""A PostgreSQL of one's own, thrown away afterwards: for benchmarks and tests.

It lies in a temporary folder, is reached by a socket in it and by nobody from the network, and runs as an ordinary user
even where we are root (PostgreSQL refuses to be). One thread drives a Cluster.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
import psycopg

from zlay.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cluster", "binaries"]

FOLDER = "/tmp"  # a socket's path may have 107 characters
USER = "zlay"
MADE_S = 120.0
READY_S = 60.0
STOP_S = 20.0
LOOK_S = 0.02
_WITH_US = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []  # it ends when who started it is killed


def binaries() -> Path | None:
    """The folder of initdb and postgres of the newest version here; None = there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    candidates = [*debian, *([Path(on_path).resolve().parent] if on_path else [])]
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


class Cluster:
    """One server with databases of its own. `durable` False = it does not wait for the disk.

    As a context manager it runs inside the block. Raises LocalFault when it cannot be made or does not start.
    """

    def __init__(self, *, durable: bool = False) -> None:
        found = binaries()
        if found is None:
            raise LocalFault("PostgreSQL is not installed (Debian: postgresql)")
        self._binaries = found
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._schemas = count(1)
        self._paused: list[psutil.Process] = []
        self._owner = _owner()
        self.folder = Path(tempfile.mkdtemp(prefix="zlay-pg-", dir=FOLDER))
        try:
            if self._owner:
                os.chown(self.folder, pwd.getpwnam(self._owner["user"]).pw_uid, -1)
            self._make()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    @property
    def url(self) -> str:
        """Of its first database."""
        return f"postgresql://{USER}@/postgres?host={self.folder}"

    def new_schema(self) -> str:
        """The URL of an empty schema."""
        name = f"s{next(self._schemas)}"
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{self.url}&options=-csearch_path%3D{name}"

    def connect(self, url: str | None = None) -> psycopg.Connection[tuple[Any, ...]]:
        """An ordinary connection of its own, autocommit."""
        return psycopg.connect(url or self.url, autocommit=True, connect_timeout=int(READY_S))

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "timezone": "UTC"}
        if not self._durable:
            settings["fsync"] = "off"
        flags = [f"--{name}={value}" for name, value in settings.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_WITH_US, self._binaries / "postgres", "-D", self.folder / "data", *flags],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), **self._owner,
            )  # fmt: skip
        deadline = time.monotonic() + READY_S
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError as exc:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise LocalFault(f"PostgreSQL does not start: {self.log_tail()}") from exc
            time.sleep(LOOK_S)

    def stop(self, *, crash: bool = False) -> None:
        """Ends the server with all its connections; with `crash` as if it had been killed. May be started again."""
        process, self._process = self._process, None
        if process is None:
            return
        self.resume()
        process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """The server hangs: it is there and answers nothing, until `resume`."""
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        postmaster.suspend()  # first, so that it makes no more
        self._paused = [postmaster, *postmaster.children(recursive=True)]
        for process in self._paused[1:]:
            process.suspend()

    def resume(self) -> None:
        """It goes on."""
        for process in self._paused:
            process.resume()
        self._paused = []

    def remove(self) -> None:
        """Ends the server and removes everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        """The end of what the server has written."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def _make(self) -> None:
        flags = ["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        try:
            subprocess.run(
                [self._binaries / "initdb", "-D", self.folder / "data", *flags],
                cwd=self.folder, env=_environment(), check=True, capture_output=True, text=True, timeout=MADE_S,
                **self._owner,
            )  # fmt: skip
        except subprocess.CalledProcessError as exc:
            raise LocalFault(f"initdb failed: {exc.stderr.strip()[-500:]}") from exc


def _owner() -> dict[str, Any]:
    """Who is to run the server, for subprocess; empty = who we are."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        for entry in _accounts(name):
            return {"user": name, "group": entry.pw_gid, "extra_groups": []}
    raise LocalFault("PostgreSQL does not run as root, and there is no other user for it (postgres, nobody)")


def _accounts(name: str) -> Iterator[pwd.struct_passwd]:
    return (entry for entry in pwd.getpwall() if entry.pw_name == name)


def _environment() -> dict[str, str]:
    """Nothing of ours that would steer a server: no locale, no preloaded allocator, no sanitizer."""
    return {"PATH": os.environ.get("PATH", os.defpath)}
