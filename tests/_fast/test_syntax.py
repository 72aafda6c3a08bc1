"""zlay._fast.syntax: each string syntax accepts what the protocol's published examples say, and nothing else."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests import fixtures
from zlay._fast import syntax

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable


def is_at_identifier(text: str) -> bool:
    """A DID or a handle."""
    return syntax.is_did(text) or syntax.is_handle(text)


def is_at_uri(text: str) -> bool:
    """at://, an identifier, and perhaps a collection, and perhaps a record key."""
    identifier, *path = text.removeprefix("at://").split("/")
    checks = (syntax.is_nsid, syntax.is_record_key)
    return (
        text.startswith("at://")
        and is_at_identifier(identifier)
        and len(path) <= 2
        and all(check(part) for check, part in zip(checks, path, strict=False))
    )


CHECKS: dict[str, Callable[[str], bool]] = {
    "did": syntax.is_did,
    "handle": syntax.is_handle,
    "nsid": syntax.is_nsid,
    "recordkey": syntax.is_record_key,
    "datetime": syntax.is_datetime,
    "tid": lambda text: syntax.tid_number(text) is not None,
    "atidentifier": is_at_identifier,
    "aturi": is_at_uri,
}
# The files say whether an example is valid; the numbers are those of protocol.md H, so that none is lost on the way.
EXAMPLES = {
    ("did", "syntax_valid"): 24,
    ("did", "syntax_invalid"): 18,
    ("handle", "syntax_valid"): 71,
    ("handle", "syntax_invalid"): 48,
    ("nsid", "syntax_valid"): 25,
    ("nsid", "syntax_invalid"): 27,
    ("recordkey", "syntax_valid"): 16,
    ("recordkey", "syntax_invalid"): 11,
    ("tid", "syntax_valid"): 4,
    ("tid", "syntax_invalid"): 9,
    ("datetime", "syntax_valid"): 35,
    ("datetime", "syntax_invalid"): 45,
    ("datetime", "parse_invalid"): 7,
    ("atidentifier", "syntax_valid"): 11,
    ("atidentifier", "syntax_invalid"): 22,
    ("aturi", "syntax_valid"): 23,
    ("aturi", "syntax_invalid"): 72,
}
PLC = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"


@pytest.mark.parametrize(("name", "kind"), EXAMPLES, ids=lambda part: part)
def test_published_examples(name: str, kind: str) -> None:
    """Every published example of a syntax is accepted or refused as its file says."""
    examples = fixtures.interop(f"syntax/{name}_{kind}.txt")
    assert len(examples) == EXAMPLES[name, kind]
    wrong = [text for text in examples if CHECKS[name](text) is not (kind == "syntax_valid")]
    assert wrong == []


def test_every_published_file_is_used() -> None:
    """Each file of the interop suite is read by a test, but for syntaxes that a relay does not know."""
    folder = fixtures.folder() / "interop"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    not_ours = {"LICENSE-CC0", *(name for name in files if re.match(r"syntax/(cid|language|uri)_", name))}
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("*.py"))
    here = {f"syntax/{name}_{kind}.txt" for name, kind in EXAMPLES}
    assert {name for name in files - not_ours - here if name not in tests} == set()


@pytest.mark.parametrize(
    "did",
    [
        PLC,
        "did:web:example.com",
        "did:web:a-b.c.example.org",
        "did:web:pds.test",
        "did:web:localhost",
        "did:web:localhost%3A2583",
        "did:web:" + ".".join(["a" * 63] * 3 + ["a" * 61]),
    ],
)
def test_account_dids(did: str) -> None:
    """did:plc in full and did:web of a host name are DIDs of accounts."""
    assert syntax.is_account_did(did)
    assert syntax.is_did(did)


@pytest.mark.parametrize(
    "did",
    [
        "",
        "did",
        "did:plc:",
        PLC[:-1],
        PLC + "a",
        PLC.upper(),
        PLC.replace("ewvi", "ewv1"),
        PLC.replace("ewvi", "ewv8"),
        PLC.replace("ewvi", "Ewvi"),
        PLC[:-1] + "é",
        "did:web:",
        "did:web:com",
        "did:web:Example.com",
        "did:web:example.com:path",
        "did:web:example.com%3A443",
        "did:web:localhost%3A",
        "did:web:localhost%3A0",
        "did:web:localhost%3A123456",
        "did:web:localhost%3a2583",
        "did:web:127.0.0.1",
        "did:web:-a.com",
        "did:web:a-.com",
        "did:web:a..com",
        "did:web:a.com.",
        "did:web:a_b.com",
        "did:web:" + "a" * 64 + ".com",
        "did:web:" + ".".join(["a" * 63] * 4),
        "did:key:zQ3shZc2QzApp2oymGvQbzP8eKheVshBHbU4ZYjeXqwSKEn6N",
        *(
            f"did:web:host.{tld}"
            for tld in ("alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion")
        ),
    ],
)
def test_other_dids(did: str) -> None:
    """Other methods, ports, paths, upper case and reserved top-level names are no DIDs of accounts."""
    assert not syntax.is_account_did(did)


def test_did_length() -> None:
    """A DID has at most 2,048 characters."""
    assert syntax.is_did("did:m:" + "a" * 2042)
    assert not syntax.is_did("did:m:" + "a" * 2043)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("app.bsky.feed.post/3jqfcqzm3fo2j", ("app.bsky.feed.post", "3jqfcqzm3fo2j")),
        ("a.b.c/self", ("a.b.c", "self")),
        ("com.example.x/did:web:a.b~_-", ("com.example.x", "did:web:a.b~_-")),
        ("app.bsky.feed.post", None),
        ("app.bsky.feed.post/", None),
        ("/app.bsky.feed.post/x", None),
        ("app.bsky.feed.post/x/y", None),
        ("app.bsky.feed.post/x/", None),
        ("app.bsky/x", None),
        ("app.bsky.feed.post/.", None),
        ("app.bsky.feed.post/..", None),
        ("app.bsky.feed.post/a b", None),
        ("app.bsky.feed.post/é", None),
        ("app.bsky.feed.po_st/x", None),
        ("app.bsky.feed.post/" + "x" * 512, ("app.bsky.feed.post", "x" * 512)),
        ("app.bsky.feed.post/" + "x" * 513, None),
        ("", None),
        ("/", None),
    ],
)
def test_paths(path: str, parts: tuple[str, str] | None) -> None:
    """A path is an NSID, one slash and a record key."""
    assert syntax.path_parts(path) == parts


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_tids_order_as_their_numbers(a: int, b: int) -> None:
    """A TID and its number tell the same order, and each gives back the other."""
    assert syntax.tid_number(syntax.tid_text(a)) == a
    assert (syntax.tid_text(a) < syntax.tid_text(b)) == (a < b)


def test_tid_of_a_known_time() -> None:
    """The number of a TID is its microseconds times 1,024 plus the clock id, in base 32, most significant first."""
    alphabet = "234567abcdefghijklmnopqrstuvwxyz"
    number = 1_700_000_000_000_000 << 10 | 5
    text = "".join(alphabet[number >> 5 * place & 31] for place in range(12, -1, -1))
    assert syntax.tid_number("2222222222222") == 0
    assert syntax.tid_number(text) == number
    assert syntax.tid_text(number) == text
    with pytest.raises(ValueError, match="top bit"):
        syntax.tid_text(2**63)


@given(
    st.datetimes().filter(lambda when: (when.year, when.month, when.day) != (9999, 12, 31)),
    st.integers(0, 9),
    st.sampled_from(["Z", "+00:00", "-07:00", "+23:59", "-00:01"]),
)
def test_real_datetimes(when: dt.datetime, digits: int, zone: str) -> None:
    """Every date and time of the calendar is a datetime, with any precision and zone."""
    text = when.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + ("." + "1234567890"[:digits] if digits else "") + zone
    assert syntax.is_datetime(text)


@pytest.mark.parametrize(
    "text",
    [
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2023-04-31T00:00:00Z",
        "2023-04-30T24:00:00Z",
        "2023-04-30T23:59:60Z",
        "2023-04-30T23:59:59+24:00",
        "2023-04-30T23:59:59+23:60",
        "2023-04-30T23:59:59.",
        "2023-04-30T23:59:59.1",
        "2023-04-30T23:59:5.1Z",
        "2023-04-30T23:59:59." + "1" * 44 + "Z",
        "２023-04-30T23:59:59Z",
        "0000-01-01T00:59:00+01:00",
        "9999-12-31T23:00:00-01:00",
    ],
)
def test_dates_that_are_none(text: str) -> None:
    """A datetime that no calendar or clock has, in UTC neither, or of more than 64 characters, is refused."""
    assert not syntax.is_datetime(text)


def test_leap_days_and_longest_fraction() -> None:
    """Leap days count by the Gregorian rule; 64 characters are still taken, and the first and last minute in UTC."""
    assert syntax.is_datetime("0000-01-01T01:00:00+01:00")
    assert syntax.is_datetime("0001-01-01T00:00:00+23:59")
    assert syntax.is_datetime("9999-12-31T22:59:59-01:00")
    assert syntax.is_datetime("9999-12-30T23:59:59-23:59")
    assert syntax.is_datetime("9999-12-31T23:59:59+00:01")
    assert syntax.is_datetime("2000-02-29T00:00:00Z")
    assert syntax.is_datetime("2024-02-29T00:00:00Z")
    assert syntax.is_datetime("2023-04-30T23:59:59." + "1" * 43 + "Z")


NSID = re.compile(
    r"[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)+\.[a-zA-Z][a-zA-Z0-9]{0,62}"
)
HANDLE = re.compile(r"([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
DID = re.compile(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]")
RECORD_KEY = re.compile(r"[A-Za-z0-9._:~-]{1,512}")


@given(st.text(alphabet="aZ09-._:%~/ é", max_size=24) | st.binary(max_size=16).map(lambda b: b.decode("latin-1")))
def test_agree_with_the_published_patterns(text: str) -> None:
    """For any text, each check says what the syntax's published regular expression says."""
    assert syntax.is_nsid(text) == bool(NSID.fullmatch(text))
    assert syntax.is_handle(text) == bool(HANDLE.fullmatch(text))
    assert syntax.is_record_key(text) == (bool(RECORD_KEY.fullmatch(text)) and text not in (".", ".."))
    assert syntax.is_did("did:web" + text) == bool(DID.fullmatch("did:web" + text))


MST_KEY = re.compile(rb"[A-Za-z0-9._:~-]+/[A-Za-z0-9._:~-]+")


@given(st.text(alphabet="aZ09-._:~//// %", max_size=12).map(str.encode) | st.binary(max_size=8))
@example(b"/")
@example(b"a/")
@example(b"/a")
@example(b"a/b/")
@example(b"a/b\xff")
def test_keys_of_trees(key: bytes) -> None:
    """A tree's key is two segments of the characters of record keys (C1), as `@atproto/repo` has it; paths are keys."""
    assert syntax.is_mst_key(key) == bool(MST_KEY.fullmatch(key))
    if key.isascii() and syntax.path_parts(key.decode()):
        assert syntax.is_mst_key(key)


@given(
    st.from_regex(MST_KEY, fullmatch=True),
    st.integers(0, 40),
    st.text(alphabet="aZ09-._:~//// %", max_size=12).map(str.encode) | st.binary(max_size=8),
)
@example(b"ab/cd", 5, b"")
@example(b"ab/cd", 5, b"/")
@example(b"ab/cd", 3, b"")
@example(b"ab/cd", 3, b"x")
@example(b"ab/cd", 2, b"x")
@example(b"ab/cd", 2, b"/x")
@example(b"ab/cd", 1, b"/x")
def test_keys_of_trees_after_another(before: bytes, shared: int, suffix: bytes) -> None:
    """A key whose head is that of a valid key is judged as a whole all the same."""
    key = before[:shared] + suffix
    assert syntax.is_mst_key(key, before) == bool(MST_KEY.fullmatch(key))


def test_mutations_of_valid_text_agree_with_the_patterns() -> None:
    """One changed, missing or doubled character is judged as the published patterns judge it."""
    rng = random.Random(5)
    seeds = {"com.example.fooBar": (syntax.is_nsid, NSID), "xn--ls8h.test-1.co": (syntax.is_handle, HANDLE)}
    for seed, (check, pattern) in seeds.items():
        for _ in range(4000):
            at = rng.randrange(len(seed))
            middle = rng.choice(["", seed[at] * 2, rng.choice("aA0-._ é/:"), "-" + seed[at], seed[at] + "."])
            text = seed[:at] + middle + seed[at + 1 :]
            assert check(text) == bool(pattern.fullmatch(text)), text


def test_lone_surrogates_are_no_error() -> None:
    """Text that cannot be encoded is simply not valid."""
    for check in CHECKS.values():
        assert not check("did:plc:\ud800")
