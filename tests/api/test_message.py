"""Queries and bodies as strangers send them."""

from __future__ import annotations

import json

import pytest

from zlay.api.message import Request, XrpcError, error_response, json_response


def request(query: str = "", body: bytes = b"", kind: str = "application/json") -> Request:
    """A request with this query and body."""
    return Request("POST", "/", query, {"content-type": kind}, body, "10.0.0.1", is_internal=False)


def test_parameters() -> None:
    """Percent signs and plus signs are undone, empty values kept."""
    assert request("a=1&b=%C3%A9+x&c=").parameters("a", "b", "c", "d") == {"a": "1", "b": "é x", "c": ""}
    assert request("").parameters() == {}


@pytest.mark.parametrize("query", ["a=%FF", "&".join(f"a{n}=1" for n in range(65)), "a=1&a=1", "b=1", "a=1&A=1", "=1"])
def test_parameters_that_are_none(query: str) -> None:
    """Bytes that are no UTF-8, too many parameters, one given twice, and one of another name are InvalidRequest."""
    with pytest.raises(XrpcError) as caught:
        request(query).parameters("a", *(f"a{n}" for n in range(65)))
    assert (caught.value.status, caught.value.error) == (400, "InvalidRequest")


def test_json_bodies() -> None:
    """A JSON object is read, whatever parameters its type has."""
    assert request(body=b'{"a": [1]}', kind="application/JSON; charset=utf-8").json_object() == {"a": [1]}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "text/plain"),
        (b"{}", ""),
        (b"", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b'{"a":', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"a":' * 100_000, "application/json"),
        (b'{"a":' + b"1" * 10_000 + b"}", "application/json"),
    ],
)
def test_bodies_that_are_none(body: bytes, kind: str) -> None:
    """What is no JSON object, nested without end, or of another type is InvalidRequest."""
    with pytest.raises(XrpcError) as caught:
        request(body=body, kind=kind).json_object()
    assert (caught.value.status, caught.value.error) == (400, "InvalidRequest")


def test_answers_take_any_text() -> None:
    """A lone surrogate in a text of a peer does not keep an answer from being sent."""
    assert json.loads(json_response({"a": "é\ud800"}).body) == {"a": "é?"}
    refused = error_response(404, "NotFound", "no")
    assert (refused.status, json.loads(refused.body)) == (404, {"error": "NotFound", "message": "no"})
