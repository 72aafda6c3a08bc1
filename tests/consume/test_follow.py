"""`zlay consume` against relays that behave and others: cursors, errors by name, coming back, ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.consume.support import (
    DID,
    WAIT_S,
    FakeRelay,
    Refusing,
    account,
    close,
    command,
    error,
    events,
    follow,
    info,
    message,
)
from tests.fixtures import ROOT
from zlay.consume import follow as follow_module
from zlay.consume.stream import parse_target
from zlay.errors import ConfigError

if TYPE_CHECKING:
    import socket

    from tests.e2e.fakes import Subscription


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once."""
    monkeypatch.setattr(follow_module, "PAUSES_S", (0.01,))


# --- where to ---


@pytest.mark.parametrize(
    ("text", "shown", "cursor"),
    [
        ("wss://relay.example", "wss://relay.example", None),
        ("https://relay.example/", "wss://relay.example", None),
        ("relay.example", "wss://relay.example", None),
        ("relay.example:8443", "wss://relay.example:8443", None),
        ("localhost:3000", "ws://localhost:3000", None),
        ("127.0.0.1", "ws://127.0.0.1", None),
        ("ws://[::1]:3000", "ws://[::1]:3000", None),
        ("http://relay.example:80/xrpc/com.atproto.sync.subscribeRepos?cursor=17", "ws://relay.example", 17),
    ],
)
def test_urls(text: str, shown: str, cursor: int | None) -> None:
    """A relay is named by host or URL; this machine is spoken to without TLS unless the scheme says otherwise."""
    target = parse_target(text)
    assert (str(target), target.cursor) == (shown, cursor)


@pytest.mark.parametrize(
    "text", ["", "ftp://a.example", "ws://", "ws://a.example:port", "ws://u:p@a.example", "ws://a.example/other",
             "a.example?cursor=x", "ws://a.example?cursor=-1"],
)  # fmt: skip
def test_what_is_no_url(text: str) -> None:
    """Anything else is a bad argument, told before anybody is dialled."""
    with pytest.raises(ConfigError):
        parse_target(text)


# --- what comes ---


def test_events_and_the_last_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """Events are counted by kind, and the last cursor stands on standard output."""
    with FakeRelay(events(5, 6, 9)) as relay:
        status, out, err = follow(relay, capsys, limit=3)
    assert (status, out) == (0, "last cursor: 9\n")
    assert "3 events (3 account)" in err
    assert relay.cursors == [None]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json standard output holds one object for each message and nothing else."""

    def script(subscription: Subscription, sock: socket.socket) -> None:
        subscription.send(info("OutdatedCursor"))
        subscription.send(account(12, active=False, status="takendown"))

    with FakeRelay(script) as relay:
        status, out, err = follow(relay, capsys, limit=1, as_json=True, cursor=3)
    told = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [event["t"] for event in told] == ["#info", "#account"]
    assert told[1]["payload"]["did"] == DID
    assert told[1]["payload"]["status"] == "takendown"
    assert "#info OutdatedCursor: because" in err
    assert err.endswith("last cursor: 12\n")
    assert relay.cursors == ["3"]


def test_it_comes_back_with_its_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """After a close, a hang-up, an error frame that passes, or bytes that are no stream it asks for what is above the
    last event; nothing is counted twice."""
    scripts = (
        events(1, 2, then=close(1001)),
        events(3, 3 + 1),
        message(error("ConsumerTooSlow", "too slow"), 5),
        events(6, then=b"\x81\x02no"),
        message(b"\xff\xff", 7),
        message(account(7), 8),  # its numbers go back
        events(8, 9, 10),  # a relay that sends the cursor's own event again
    )
    with FakeRelay(*scripts) as relay:
        status, out, err = follow(relay, capsys, limit=10)
    assert relay.cursors == [None, "2", "4", "5", "6", "7", "8"]
    assert (status, out) == (0, "last cursor: 10\n")
    assert "10 events" in err
    for said in ("closed with 1001", "without a close frame", "error ConsumerTooSlow: too slow", "broke the WebSocket",
                 "cannot be read", "seq 7 came after seq 8"):  # fmt: skip
        assert said in err, err


def test_a_future_cursor_is_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """FutureCursor is said by its name, not tried again, and gives status 1."""
    with FakeRelay(message(error("FutureCursor", "Cursor in the future."))) as relay:
        status, out, err = follow(relay, capsys, cursor=1000)
        assert relay.cursors == ["1000"]
    assert (status, out) == (1, "last cursor: 1000\n")
    assert "error FutureCursor: Cursor in the future." in err


@pytest.mark.parametrize("status", [400, 404, 426])
def test_a_refusal_is_the_end(capsys: pytest.CaptureFixture[str], status: int) -> None:
    """A request that the server will not serve is told with its status, and not repeated."""
    with Refusing(status) as relay:
        ended, out, err = follow(relay, capsys)
        assert relay.asked == 1
    assert (ended, out) == (1, "last cursor: none\n")
    assert f"answered {status}" in err


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_relay_is_asked_again(capsys: pytest.CaptureFixture[str], status: int) -> None:
    """One that is busy or starting is asked again, until --once ends it."""
    with Refusing(status) as relay:
        follower = follow_module.Follower(parse_target(relay.host))
        says = follower._say

        def say(text: str) -> None:
            says(text)
            if relay.asked == 3:
                follower.stop()

        follower._say = say  # type: ignore[method-assign]
        follower.run()
        assert (relay.asked, follower.finish()) == (3, 0)
        assert follow(relay, capsys, once=True)[0] == 1
        assert relay.asked == 4


def test_a_stream_that_always_breaks_at_one_place_is_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A message that cannot be read ends it when it comes again and again, instead of being asked for for ever."""
    with FakeRelay(*[message(b"\xff")] * 20) as relay:
        status, _, _ = follow(relay, capsys, cursor=4)
        assert status == 1
        assert relay.cursors == ["4"] * 3


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A relay that cannot be reached is said so."""
    with FakeRelay() as relay:
        pass
    assert follow(relay, capsys, once=True)[0] == 1


def test_texts_of_a_relay_are_no_commands_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in names and messages are not sent on."""
    with FakeRelay(message(error("Evil\x1b[2J", "\u202e\x07"))) as relay:
        _, _, err = follow(relay, capsys, once=True)
    assert all(char.isprintable() or char == "\n" for char in err), err


# --- the command ---


def test_ctrl_c_ends_with_the_last_cursor() -> None:
    """Ctrl-C while events come, and while it waits to come back, ends with status 0 and the last cursor."""
    with FakeRelay(events(1, 2, 3)) as relay:
        process = command(relay.host, "--cursor", "0")
        relay.wait_for(lambda: len(relay.cursors) >= 2, "the second connection")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (0, "last cursor: 3\n"), err
    assert relay.cursors[:2] == ["0", "3"]


def test_a_bad_url_is_a_bad_argument() -> None:
    """Status 2 and one line."""
    process = command("ftp://relay.example")
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("zlay: 'ftp://relay.example'")


def test_a_line_that_redraws_itself_on_a_terminal() -> None:
    """On a terminal a line with seq and rates comes each second, in its own place."""
    ours, theirs = pty.openpty()
    with FakeRelay() as relay:

        def stream(subscription: Subscription, sock: Any) -> None:
            for seq in range(1, 200):
                subscription.send(account(seq))
                time.sleep(0.02)

        relay._scripts = [stream]
        process = subprocess.Popen(
            [sys.executable, "-m", "zlay", "consume", relay.host],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        )
        os.close(theirs)
        shown = ""
        deadline = time.monotonic() + WAIT_S
        while shown.count("events/s") < 2 and time.monotonic() < deadline:
            shown += os.read(ours, 4096).decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
    os.close(ours)
    lines = [line for line in shown.split("\r\x1b[K") if line.startswith("seq ")]
    assert len(lines) >= 2, shown
    assert all("\n" not in line.rstrip() for line in lines[:1])


def test_a_reader_that_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    """`zlay consume --json | head -1` ends by itself."""
    with FakeRelay(events(*range(1, 3000))) as relay:
        done = subprocess.run(
            f"{sys.executable} -m zlay consume --json --cursor 0 {relay.host} | head -1; exit ${{PIPESTATUS[0]}}",
            shell=True,
            executable="/bin/bash",
            capture_output=True,
            timeout=WAIT_S,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["payload"]["seq"] == 1
    assert b"Traceback" not in done.stderr
