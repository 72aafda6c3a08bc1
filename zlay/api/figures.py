"""What an operator may see of the relay itself: its consumers, its memory, what grows in it. Handler threads."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from zlay.api.arguments import fields_of, page_of, whole_number
from zlay.api.message import Request, Response, XrpcError, json_response
from zlay.memory import ledger
from zlay.memory.leaks import NotTracing

if TYPE_CHECKING:
    from zlay.api.interface import RelayView

__all__ = ["consumers", "disconnect", "leaks", "memory"]

CONSUMERS_DEFAULT, CONSUMERS_MOST = 1000, 10_000  # of one answer; some 400 bytes each
LEAKS_DEFAULT, LEAKS_MOST = 20, 200  # sites of one answer
MOST_ID = 2**63 - 1


def consumers(relay: RelayView, request: Request) -> Response:
    """Connected consumers in the order of their coming; the cursor is the last one's id."""
    limit, after = page_of(request, CONSUMERS_DEFAULT, CONSUMERS_MOST)
    found, more = relay.consumers.page(after, limit)
    out: dict[str, Any] = {"connected": relay.consumers.count(), "consumers": [asdict(one) for one in found]}
    if more:
        out["cursor"] = str(found[-1].id)
    return json_response(out)


def disconnect(relay: RelayView, request: Request) -> Response:
    """Ends one consumer's connection. It may come back: limits per address are what keeps somebody out."""
    ident = fields_of(request, "id").get("id")
    if type(ident) is not int or not 1 <= ident <= MOST_ID:
        raise XrpcError(400, "InvalidRequest", "id: the number of a consumer")
    if not relay.consumers.disconnect(ident):
        raise XrpcError(404, "ConsumerNotFound", "no consumer with this id is connected")
    return json_response({"id": ident, "disconnected": True})


def memory(relay: RelayView, request: Request) -> Response:
    """Where the process's memory is (zlay.memory.ledger)."""
    request.parameters()
    return json_response(ledger.report())


def leaks(relay: RelayView, request: Request) -> Response:
    """What Python has allocated and kept since the first such request, by line. Needs LEAK_TRACE."""
    parameters = request.parameters("limit")
    limit = whole_number(parameters, "limit", LEAKS_DEFAULT, 1, LEAKS_MOST)
    try:
        return json_response(relay.leaks.growth(limit))
    except NotTracing as exc:
        raise XrpcError(409, "LeakTraceOff", str(exc)) from None
