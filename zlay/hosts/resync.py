"""Heals accounts whose chain broke: a commit did not build on the state we had (protocol E14, design 5).

The account is asked for at its PDS (getLatestCommit). Where what it says is our own newest state, a state whose
signature and tree were verified when it came, nothing is missing between the two and the account is healed. Where the
host is ahead of us, its events are still on their way: we ask again later. After the last try the account stays
desynchronized until its next break.
"""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlay import logs
from zlay.errors import HttpFault, StateError
from zlay.hosts.asking import HostQuestions

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from zlay.hosts.questions import HostAsker
    from zlay.hosts.registry import Registry
    from zlay.state.interface import Store

__all__ = ["Resync"]

THREADS = 2
PAUSE_S = 0.5  # between two questions to one host: at most 2 a second
TRIES_AFTER_S = (1.0, 3.0, 15.0, 60.0, 300.0)  # the first when the applier has surely written what was logged

log = logs.get("accounts")


@dataclass(frozen=True, slots=True)
class _Try:
    did: str
    number: int  # index into TRIES_AFTER_S


class Resync(HostQuestions[_Try]):
    """See the module's head."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        next_request: Callable[[float], tuple[str, int] | None],
        post_resync: Callable[[str, bool], None],
        allow_private: bool,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`post_resync` is told whether an account is healed; accounts that still wait at the end stay marked."""
        super().__init__(
            registry,
            name="resync",
            askers=THREADS,
            pause_s=PAUSE_S,
            next_request=next_request,
            allow_private=allow_private,
            context=context,
        )
        self._store = store
        self._post_resync = post_resync
        self._lock = threading.Lock()  # guards the two counters
        self._healed = 0
        self._given_up = 0

    def statistics(self) -> dict[str, int]:
        """Accounts healed and given up so far, and questions waiting."""
        with self._lock:
            return {"healed": self._healed, "given_up": self._given_up, "waiting": self._lanes.waiting()}

    def _take(self, did: str, host_id: int) -> None:
        self._put(host_id, _Try(did, 0))

    def _ask(self, asker: HostAsker, host_id: int, question: _Try) -> None:
        healed = False
        try:
            healed = self._is_whole(asker, host_id, question.did)
        except (HttpFault, StateError) as exc:
            log.warn_rate(f"resync-{host_id}", "account cannot be compared", host_id=host_id, error=str(exc))
        finally:
            self._lanes.done(host_id)
        if healed:
            self._end(question.did, healed=True)
        elif question.number + 1 < len(TRIES_AFTER_S):
            self._put(host_id, _Try(question.did, question.number + 1))
        else:
            self._end(question.did, healed=False)

    def _is_whole(self, asker: HostAsker, host_id: int, did: str) -> bool:
        """Whether the host's head is our newest state. HttpFault, StateError."""
        host = self._registry.get(host_id)
        if host is None or host.banned:
            return False
        latest = asker.latest_commit(host.hostname, did, no_tls=host.no_tls)
        row = self._store.account(did)
        return (
            latest is not None
            and row is not None
            and row.head is not None
            and (latest.rev, latest.cid) == (row.rev, _cid_text(row.head))
        )

    def _put(self, host_id: int, question: _Try) -> None:
        if not self._lanes.put(host_id, question, TRIES_AFTER_S[question.number]):
            self._end(question.did, healed=False)

    def _end(self, did: str, *, healed: bool) -> None:
        with self._lock:
            self._healed += healed
            self._given_up += not healed
        self._post_resync(did, healed)


def _cid_text(cid: bytes) -> str:
    """36 bytes in the text form of C11."""
    return "b" + base64.b32encode(cid).decode("ascii").lower().rstrip("=")
