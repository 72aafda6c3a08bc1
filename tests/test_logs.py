"""One event is one line, whatever is in it and whoever writes it."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zlay import logs

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pipe:
    """Where a test's log goes."""

    def __init__(self) -> None:
        self.readable, self.writable = os.pipe()

    def take(self) -> str:
        """What has been written; the pipe is then empty."""
        os.set_blocking(self.readable, False)
        out = b""
        try:
            while data := os.read(self.readable, 1 << 16):
                out += data
        except BlockingIOError:
            pass
        return out.decode("utf-8")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe; the log is afterwards as it was."""
    one = Pipe()
    yield one
    logs.configure()
    os.close(one.readable)
    os.close(one.writable)


ODD = [
    "line\nbreak",
    "carriage\rreturn",
    "\x1b[31mred",
    "\x9b31mred",  # CSI in one character
    "next\x85line",
    "para\u2029graph",
    "right \u202e left",
    'quo"te',
    "back\\slash",
    "lone \ud800",
    "",
    " ",
    "a=b c=d",
]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("value", ODD, ids=[ascii(value) for value in ODD])
def test_no_value_forges_a_line(pipe: Pipe, form: logs.Format, value: str) -> None:
    """Whatever a peer's text holds, its event stays one line without a character that a terminal takes as command."""
    logs.configure(form, "info", pipe.writable)
    logs.get("hosts").info("refused", host=value, after="x")
    out = pipe.take()
    assert out.endswith("\n")
    assert out.isascii()
    assert out[:-1].isprintable()
    if form == "json":
        fields = json.loads(out)
        assert (fields["host"], fields["after"]) == (value, "x")
    else:
        assert out.endswith(" after=x\n")
        assert out.split(" refused host=", 1)[1].removesuffix(" after=x\n") in (value, json.dumps(value))


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text() | st.floats() | st.booleans(), max_size=5)
)
def test_json_lines_are_json(values: dict[str, object]) -> None:
    """Each line of the JSON form is one strict JSON object with all values, NaN and infinities as texts."""
    one = Pipe()
    try:
        logs.configure("json", "info", one.writable)
        logs.get("part").info("event", **values)
        (line,) = one.take().splitlines()
        fields = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        for name, value in values.items():
            wanted = value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
            assert fields[f"{name}_" if name in ("time", "level", "part", "event") else name] == wanted
    finally:
        logs.configure()
        os.close(one.readable)
        os.close(one.writable)


def test_the_text_form(pipe: Pipe) -> None:
    """Text: time, level, part, event, values; plain values as they are, others quoted."""
    logs.configure("text", "info", pipe.writable)
    logs.get("hosts").warning("host gone", host="a.example.com", n=5, s=0.123456789, none=None, text="two words")
    line = pipe.take()
    assert line[12:] == ('Z warning hosts     host gone host=a.example.com n=5 s=0.123457 none=None text="two words"\n')
    assert line[2] == line[5] == ":"
    assert line[8] == "."


def test_long_values_are_cut(pipe: Pipe) -> None:
    """A value is cut at its bound, so that a peer's megabyte is no megabyte of log."""
    logs.configure("json", "info", pipe.writable)
    logs.get("x").info("event", value="v" * 1_000_000)
    value = json.loads(pipe.take())["value"]
    assert len(value) < logs.MAX_VALUE_CHARS + 10
    assert value.endswith("...")


def test_levels(pipe: Pipe) -> None:
    """Lines below the level are not written; an unknown level is a KeyError."""
    log = logs.get("x")
    for n, level in enumerate(("debug", "info", "warning", "error")):
        logs.configure("json", level, pipe.writable)
        for method in (log.debug, log.info, log.warning, log.error):
            method("event")
        assert [json.loads(line)["level"] for line in pipe.take().splitlines()] == list(logs.LEVELS)[n:]
    with pytest.raises(KeyError):
        logs.configure("json", "loud")


def test_warnings_at_a_rate(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is said once a minute, the next line with the number kept back; other keys and parts are their own (R8)."""
    now = [1000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(logs, "_rates", logs._Rates())
    logs.configure("json", "info", pipe.writable)
    log = logs.get("hosts")
    for _ in range(5):
        log.warn_rate("a", "bad frame", n=1)
    log.warn_rate("b", "bad frame")
    logs.get("other").warn_rate("a", "bad frame")
    said = [json.loads(line) for line in pipe.take().splitlines()]
    assert [(line["part"], line["level"]) for line in said] == [
        ("hosts", "warning"),
        ("hosts", "warning"),
        ("other", "warning"),
    ]
    assert "kept_back" not in said[0]
    now[0] += logs.RATE_SECONDS
    log.warn_rate("a", "bad frame")
    log.warn_rate("b", "bad frame")
    first, second = (json.loads(line) for line in pipe.take().splitlines())
    assert first["kept_back"] == 4
    assert "kept_back" not in second


def test_keys_are_bounded(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that makes up keys does not make the memory of them grow beyond its bound."""
    monkeypatch.setattr(logs, "MAX_RATE_KEYS", 50)
    monkeypatch.setattr(logs, "_rates", logs._Rates())
    logs.configure("json", "error", pipe.writable)
    for n in range(500):
        logs.get("x").warn_rate(f"key {n}", "event")
        assert len(logs._rates.last) <= 50


def test_threads_write_whole_lines(pipe: Pipe) -> None:
    """Lines of threads that write at once never mix, and none is lost."""
    logs.configure("json", "info", pipe.writable)
    threads, each = 8, 200
    barrier = threading.Barrier(threads)
    lines: list[str] = []

    def write(n: int) -> None:
        barrier.wait()
        for i in range(each):
            logs.get("x").info("event", thread=n, i=i, filler="f" * 300)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(threads)]
    for writer in writers:
        writer.start()
    with os.fdopen(os.dup(pipe.readable), "r") as stream:
        lines = [stream.readline() for _ in range(threads * each)]
    for writer in writers:
        writer.join()
    seen = {(fields["thread"], fields["i"]) for fields in map(json.loads, lines)}
    assert seen == {(n, i) for n in range(threads) for i in range(each)}


def test_a_log_that_cannot_be_written_stops_nobody(pipe: Pipe) -> None:
    """A closed or full log loses its lines and raises nothing."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    logs.configure("text", "info", writable)
    for _ in range(2000):
        logs.get("x").info("event", filler="f" * 100)
    os.close(readable)
    logs.get("x").info("event")
    os.close(writable)
    logs.get("x").info("event")
