"""Asking for a DID document: PLC directories in turn, or the host of a did:web (protocol G2, G3, G5).

`Directories` is shared by all resolver threads and knows which directory may be asked: one that refuses (429) or fails
again and again is left alone for a while, every thread waits as long, and then one of them tries it; with the first
answer all go on. `Asker` belongs to one thread and holds its connections.

A failure is *systemic* when no DID at all has had an answer lately: then our frames wait without losing time of their
hold (design 5). It is *postponed* when no directory could be asked in time or each wanted to be left alone. Else, while
others get answers, it is the one DID's trouble.
"""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from zlay.errors import HttpFault
from zlay.hosts.addresses import is_public
from zlay.identity.did import Did, DidError, parse_did
from zlay.identity.document import DocumentError, read_document
from zlay.net.http_client import HttpClient, HttpResponse
from zlay.pipeline.types import Identity

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection, Sequence

    from zlay.pipeline.types import Outcome

__all__ = ["Asker", "Directories", "retry_after_s"]

REQUEST_TIMEOUT_S = 5.0  # of one directory; a healthy one answers in some 100 ms
RESOLVE_LIMIT_S = 12.0  # in all, pauses and the other directories included
MAX_DOCUMENT_BYTES = 64 * 1024  # a PLC operation is limited to 7,500 bytes (G7)
ACCEPT = "application/did+ld+json,application/json"  # G2

FAILURES_BEFORE_PAUSE = 3  # in a row: fewer are some DID's own trouble
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
LONGEST_RETRY_AFTER_S = 60.0  # a directory does not silence us for longer than this
DEFAULT_RETRY_AFTER_S = 2.0  # a 429 that does not say
ANSWERS_LATELY_S = 2.0  # another DID's answer within this shows that the directory works


@dataclass(slots=True)
class _Directory:
    """One PLC directory. Guarded by Directories' lock."""

    url: str
    failures: int = 0  # in a row, those that were under way together counted once
    failed_s: float = -math.inf  # monotonic, as all below: when the last one was counted
    paused_until_s: float = -math.inf  # an answer ends it
    silent_until_s: float = -math.inf  # it said so itself
    tried: bool = False  # one thread asks it whether it answers again; the others wait

    @property
    def due_s(self) -> float:
        """When it may be asked; infinite while a thread tries it."""
        return math.inf if self.tried else max(self.paused_until_s, self.silent_until_s)


class Directories:
    """The PLC directories and how they do. Any thread."""

    def __init__(self, urls: Sequence[str]) -> None:
        """`urls` in the order of preference, without the slash at the end."""
        self._changed = threading.Condition()  # its lock guards everything below
        self._directories = [_Directory(url.rstrip("/")) for url in urls]
        self._answered_s = -ANSWERS_LATELY_S
        self._random = random.Random()
        self.closed = threading.Event()  # set by `close`: nobody is waited for any more

    def choose(self, asked: Collection[str], until_s: float) -> str | None:
        """The URL of the directory to ask next: the first that may be asked now, else the one that may be soonest.

        Waits for it, at most until `until_s` (monotonic). None when all are in `asked`, none may be asked in time, or
        `close` was called. `note_answer` or `note_failure` must follow.
        """
        with self._changed:
            left = [directory for directory in self._directories if directory.url not in asked]
            while left and not self.closed.is_set():
                now_s = time.monotonic()
                free = next((one for one in left if one.due_s <= now_s), None)
                if free is not None:
                    free.tried = free.failures >= FAILURES_BEFORE_PAUSE
                    return free.url
                due_s = min(one.due_s for one in left)
                if now_s >= until_s or (due_s > until_s and not any(one.tried for one in left)):
                    break
                self._changed.wait(min(due_s, until_s) - now_s)
        return None

    def close(self) -> None:
        """Wakes every thread that waits, for a directory's answer too, for good."""
        with self._changed:
            self.closed.set()
            self._changed.notify_all()

    def note_answer(self, url: str) -> None:
        """The directory has given a conclusive answer about some DID."""
        with self._changed:
            self._answered_s = time.monotonic()
            directory = self._directory(url)
            directory.failures = 0
            directory.paused_until_s = -math.inf
            directory.tried = False
            self._changed.notify_all()

    def note_failure(self, url: str, asked_s: float, retry_after_s: float | None) -> None:
        """It has not, asked at `asked_s` (monotonic); `retry_after_s` when it wants to be left alone."""
        with self._changed:
            now_s = time.monotonic()
            directory = self._directory(url)
            directory.tried = False
            if asked_s >= directory.failed_s:
                directory.failures += 1
                directory.failed_s = now_s
                directory.paused_until_s = now_s + self._pause_s(directory.failures)
            if retry_after_s is not None:
                directory.silent_until_s = max(directory.silent_until_s, now_s + retry_after_s)
            self._changed.notify_all()

    def _directory(self, url: str) -> _Directory:
        """Requires the lock."""
        return next(directory for directory in self._directories if directory.url == url)

    def is_systemic(self, since_s: float) -> bool:
        """Whether a failure of a question asked at `since_s` (monotonic) is everybody's."""
        with self._changed:
            return self._answered_s < min(since_s, time.monotonic() - ANSWERS_LATELY_S)

    def _pause_s(self, failures: int) -> float:
        """Exponential with full jitter. Requires the lock."""
        if failures < FAILURES_BEFORE_PAUSE:
            return 0.0
        ceiling_s: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - FAILURES_BEFORE_PAUSE, 16))
        return self._random.uniform(ceiling_s / 2, ceiling_s)


class Asker:
    """Finds the identity of one DID after the other. One thread."""

    def __init__(
        self,
        directories: Directories,
        *,
        allow_private: bool,
        keep_alive: bool = True,
        recycle_after: int = 0,
        context: ssl.SSLContext | None = None,
        note_date: Callable[[str], None] | None = None,
    ) -> None:
        """`recycle_after` requests all connections are closed and made anew; 0 = never.

        The addresses of PLC directories are the operator's choice and not judged; those of did:web hosts are, unless
        `allow_private`. `note_date` hears the `Date` of directories' answers.
        """
        self._directories = directories
        self._note_date = note_date
        self._allow_private = allow_private
        self._recycle_after = recycle_after
        stop = directories.closed
        self._plc = HttpClient(allow_address=_any_address, keep_alive=keep_alive, context=context, stop=stop)
        allow_web = _any_address if allow_private else is_public
        self._web = HttpClient(allow_address=allow_web, keep_alive=False, context=context, stop=stop)
        self._asked = 0

    def close(self) -> None:
        """Closes the connections."""
        self._plc.close()
        self._web.close()

    def resolve(self, did: str) -> Identity:
        """What is known of `did` now, within RESOLVE_LIMIT_S. Raises nothing: a failure is an outcome."""
        try:
            parsed = parse_did(did, allow_private=self._allow_private)
        except DidError as exc:
            # No such DID can ever be looked up: as conclusive as an answer.
            return _no_document(did, "not_found", _now_us(), str(exc))
        self._recycle()
        if parsed.host is not None:
            return self._resolve_web(parsed, parsed.host)
        return self._resolve_plc(did)

    def _recycle(self) -> None:
        self._asked += 1
        if self._recycle_after and self._asked % self._recycle_after == 0:
            self.close()

    def _resolve_plc(self, did: str) -> Identity:
        started_s = time.monotonic()
        deadline = started_s + RESOLVE_LIMIT_S
        asked: dict[str, float | None] = {}  # the seconds for which it wants to be left alone; None = it does not
        detail = "no directory may be asked just now"
        while (url := self._directories.choose(asked, deadline)) is not None:
            asked_s = time.monotonic()
            asked[url] = None
            answer: Identity | HttpResponse | None = None
            try:
                answer = self._ask_plc(url, did, deadline)
            except (HttpFault, DocumentError) as exc:
                detail = f"{url}: {exc}"
            finally:
                if isinstance(answer, HttpResponse):
                    detail = f"{url}: status {answer.status}"
                    asked[url] = retry_after_s(answer)
                if isinstance(answer, Identity):
                    self._directories.note_answer(url)
                else:
                    self._directories.note_failure(url, asked_s, asked[url])
            if isinstance(answer, Identity):
                return answer
        return _failed(
            did,
            detail,
            systemic=self._directories.is_systemic(started_s),
            postponed=self._directories.closed.is_set() or all(pause_s is not None for pause_s in asked.values()),
        )

    def _ask_plc(self, url: str, did: str, deadline: float) -> Identity | HttpResponse:
        """The directory's answer; the response where it answers nothing about the DID."""
        timeout_s = min(REQUEST_TIMEOUT_S, deadline - time.monotonic())
        asked_us = _now_us()
        response = self._plc.get(f"{url}/{did}", timeout_s=timeout_s, max_body_bytes=MAX_DOCUMENT_BYTES, accept=ACCEPT)
        if self._note_date is not None:
            self._note_date(response.headers.get("date", ""))
        if response.status == 200:
            return read_document(did, response.json(), asked_us)
        if response.status == 410 or (response.status == 404 and b"not available" in response.body):
            return _no_document(did, "tombstoned", asked_us)  # G2: the server's code says it with a 404
        if response.status == 404:
            return _no_document(did, "not_found", asked_us)
        return response

    def _resolve_web(self, parsed: Did, host: str) -> Identity:
        scheme = "http" if host.partition(":")[0] == "localhost" else "https"
        asked_us = _now_us()
        try:
            response = self._web.get(
                f"{scheme}://{host}/.well-known/did.json",
                timeout_s=REQUEST_TIMEOUT_S,
                max_body_bytes=MAX_DOCUMENT_BYTES,
                accept=ACCEPT,
            )
            if response.status == 200:
                return read_document(parsed.did, response.json(), asked_us)
        except (HttpFault, DocumentError) as exc:
            # A name that does not resolve may do so in a minute: never taken for conclusive.
            return _failed(parsed.did, str(exc), postponed=self._directories.closed.is_set())
        if response.status in (404, 410):
            return _no_document(parsed.did, "not_found", asked_us)
        return _failed(parsed.did, f"status {response.status}")


def _any_address(_address: str) -> bool:
    return True


def _now_us() -> int:
    return time.time_ns() // 1000


def _no_document(did: str, outcome: Outcome, asked_us: int, detail: str = "") -> Identity:
    return Identity(did, outcome, None, 0, b"", asked_us, detail)


def _failed(did: str, detail: str, *, systemic: bool = False, postponed: bool = False) -> Identity:
    return Identity(did, "failed", None, 0, b"", _now_us(), detail, systemic, postponed)


def retry_after_s(response: HttpResponse) -> float | None:
    """How long the directory wants to be left alone; None = it does not say so. A date counts from its own."""
    text = response.headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return min(float(text[:6]), LONGEST_RETRY_AFTER_S)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        until = parsedate_to_datetime(text) - parsedate_to_datetime(response.headers.get("date", ""))
        return min(max(until.total_seconds(), 0.0), LONGEST_RETRY_AFTER_S)
    return DEFAULT_RETRY_AFTER_S if response.status == 429 else None
