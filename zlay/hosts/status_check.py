"""Asks a PDS whether an account that we hold for inactive is active again (protocol E5).

A worker asks before it drops the account's commits, at most now and then for one account; its frames wait meanwhile.
Every request gets one answer: a status, or NO_ANSWER where the host gives none; but for those that a stop cuts short,
whose frames are let go and sent again to the next run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zlay import logs
from zlay.errors import HttpFault
from zlay.hosts.asking import HostQuestions

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from zlay.hosts.questions import HostAsker
    from zlay.hosts.registry import Registry

__all__ = ["StatusChecker"]

THREADS = 4
PAUSE_S = 0.05  # between two questions to one host: at most 20 a second
NO_ANSWER = -1  # zlay._fast.pipeline.post_status: the account stays as it is

log = logs.get("accounts")


class StatusChecker(HostQuestions[str]):
    """See the module's head."""

    def __init__(
        self,
        registry: Registry,
        *,
        next_request: Callable[[float], tuple[str, int] | None],
        post_status: Callable[[str, int], None],
        allow_private: bool,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`post_status` takes a verdicts.Status or NO_ANSWER; requests that still wait at the end stay unanswered."""
        super().__init__(
            registry,
            name="status",
            askers=THREADS,
            pause_s=PAUSE_S,
            next_request=next_request,
            allow_private=allow_private,
            context=context,
        )
        self._post_status = post_status

    def _take(self, did: str, host_id: int) -> None:
        if not self._lanes.put(host_id, did) and not self._stop.is_set():
            self._post_status(did, NO_ANSWER)

    def _ask(self, asker: HostAsker, host_id: int, question: str) -> None:
        status = NO_ANSWER
        try:
            host = self._registry.get(host_id)
            if host is not None and not host.banned:
                answer = asker.repo_status(host.hostname, question, no_tls=host.no_tls)
                status = NO_ANSWER if answer is None else answer
        except HttpFault as exc:
            log.warn_rate(f"status-{host_id}", "host gives no account status", host_id=host_id, error=str(exc))
        finally:
            self._lanes.done(host_id)
            if status != NO_ANSWER or not self._stop.is_set():  # what a stop has cut short must not cost a frame
                self._post_status(question, status)
