"""`zlay admin`, `zlay hosts` and `zlay memory` against a whole relay, and against what is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.support import UPGRADE, wait_until
from tests.live import PASSWORD, LiveRelay
from tests.net.fake_http import FakeHttp, reply, reply_json
from tests.reference.consumer import SUBSCRIBE
from tests.state.support import delta, did, rev
from zlay import cli
from zlay._fast import limits
from zlay.api.admin import ADMIN
from zlay.state.interface import NewHost

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = "nobody.example.com"

type Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(live: LiveRelay, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Runs a command as an operator does: (exit status, standard output, standard error)."""
    monkeypatch.setenv("RELAY_ADMIN_PASSWORD", PASSWORD)
    monkeypatch.setenv("RELAY_METRICS_PORT", str(live.relay.http.addresses[1][1]))

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = cli.main(words)
        except SystemExit as exc:
            status = int(str(exc.code))
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def told(result: tuple[int, str, str]) -> str:
    """What a command that succeeds says."""
    status, out, err = result
    assert (status, err) == (0, "")
    return out


def parsed(result: tuple[int, str, str]) -> Any:
    """The answer as it came, of a command that succeeds."""
    return json.loads(told(result))


def test_hosts(live: LiveRelay, shell: Shell) -> None:
    """Hosts are added, shown one by one and together, banned and unbanned; `zlay hosts` is `zlay admin hosts`."""
    assert told(shell("admin", "add", "localhost:2")) == "localhost:2 is read from now on\n"
    assert "localhost:2 " in told(shell("admin", "hosts"))
    one = told(shell("hosts", "localhost:2"))
    assert one.startswith("localhost:2  (id ")
    assert "from admin" in one
    assert parsed(shell("admin", "hosts", "LOCALHOST:2", "--json"))["hostname"] == "localhost:2"
    assert told(shell("admin", "block", "localhost:2")) == "localhost:2 is banned\n"
    assert shell("admin", "add", "localhost:2") == (1, "", "zlay: 400 HostBanned: this host is banned\n")
    assert told(shell("admin", "unblock", "localhost:2")) == "localhost:2 is idle\n"
    assert told(shell("admin", "reset-cursor", "localhost:2")) == "localhost:2 is read live\n"
    assert live.relay.host("localhost:2") is not None


def test_limits(live: LiveRelay, shell: Shell) -> None:
    """Limits are given and taken back one by one; none at all is a wrong command line."""
    shell("admin", "add", "localhost:2")
    out = told(shell("admin", "limits", "localhost:2", "--tier", "default", "--per-hour", "7", "--account-limit", "3"))
    assert '{"tier": "default", "per_hour": 7}' in out
    entry = live.relay.registry.find("localhost:2")
    assert entry is not None
    assert limits.limits(entry.index)[:3] == (50, 7, 20_000)
    now = parsed(shell("admin", "limits", "localhost:2", "--per-hour", "auto", "--tier", "auto", "--json"))
    assert (now["limits_given"], now["account_limit"]) == ({}, 3)
    assert told(shell("admin", "limits", "localhost:2", "--account-limit", "auto"))
    for wrong in ([], ["--per-hour", "many"], ["--tier", "best"], ["--per-minute", "5"]):
        assert shell("admin", "limits", "localhost:2", *wrong)[0] == 2
    assert shell("admin", "limits", "localhost:2", "--per-hour", "-1")[0] == 1


def test_domains(shell: Shell) -> None:
    """Domains are banned, listed and unbanned."""
    shell("admin", "add", "a.evil.localhost:4")
    assert told(shell("admin", "ban-domain", "EVIL.localhost")) == "evil.localhost is banned, with 1 known hosts\n"
    assert told(shell("admin", "domains")) == "evil.localhost\n"
    assert told(shell("admin", "unban-domain", "evil.localhost")) == "evil.localhost is not banned any more\n"
    assert told(shell("admin", "domains")) == ""


def test_takedown(live: LiveRelay, shell: Shell) -> None:
    """An account is taken down and the takedown is lifted; one that is not known is refused."""
    host = live.relay.registry.add([NewHost("localhost:1", "admin", no_tls=True)])[0].id
    live.relay.store.apply([delta(1, seq=1, rev=rev(1), host_id=host)], [], 0, None)
    assert told(shell("admin", "takedown", did(1))) == f"{did(1)} is takendown\n"
    assert parsed(shell("admin", "takedown", did(1), "--json"))["active"] is False
    assert told(shell("admin", "untakedown", did(1))) == f"{did(1)} is active\n"
    status, _, err = shell("admin", "takedown", did(9))
    assert (status, err.startswith("zlay: 404 RepoNotFound")) == (1, True)


def test_consumers(live: LiveRelay, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Consumers are listed, all of them however many pages that takes, without what could steer a terminal."""
    monkeypatch.setattr("zlay.api.figures.CONSUMERS_DEFAULT", 1)
    clients = [live.client() for _ in range(3)]
    for client in clients:
        assert client.request("GET", SUBSCRIBE, {**UPGRADE, "User-Agent": "x\x80\x9b31m"}).status == 101
    found = parsed(shell("admin", "consumers", "--json"))
    assert (len(found["consumers"]), "cursor" in found) == (3, False)
    out = told(shell("admin", "consumers"))
    assert out.count("x??31m") == 3
    assert out.splitlines()[-1] == "3 connected"
    ident = found["consumers"][0]["id"]
    assert told(shell("admin", "disconnect", str(ident))) == f"consumer {ident} is disconnected\n"
    wait_until(lambda: live.relay.consumers.count() == 2, "it is gone")
    assert shell("admin", "disconnect", str(ident))[0] == 1
    assert shell("admin", "disconnect", "first")[0] == 2
    for client in clients:
        client.sock.close()


def test_memory(live: LiveRelay, shell: Shell) -> None:
    """Memory is a table whose parts add up; `zlay memory` is `zlay admin memory`; without a trace leaks are refused."""
    for words in (["memory"], ["admin", "memory"]):
        out = told(shell(*words))
        assert out.startswith("resident memory ")
        assert "\n  account " in out
    shares = [float(line.split()[-2]) for line in out.splitlines() if line.endswith(" %")]
    assert abs(sum(shares) - 100) < 1
    assert shell("admin", "leaks")[0] == 1
    assert "LEAK_TRACE=" in shell("admin", "leaks")[2]


def test_leaks(live: LiveRelay, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has grown is told line by line, most first."""
    said = {
        "since_us": 1_700_000_000_000_000,
        "traced_bytes": 2048,
        "tracing_bytes": 1024,
        "grown_bytes": 512,
        "sites": [{"bytes": 512, "count": 2, "stack": ["a.py:1", "b.py:2"]}],
    }
    monkeypatch.setattr(type(live.relay.leaks), "growth", lambda _self, most: said if most == 3 else {})
    out = told(shell("admin", "leaks", "--limit", "3")).splitlines()
    assert out[0] == "512 B more than at 2023-11-14T22:13:20.000Z; 2.0 KiB traced, 1.0 KiB for the tracing"
    assert [line.split() for line in out[1:]] == [["512", "B", "+2", "pieces", "b.py:2"], ["from", "a.py:1"]]


def test_shutdown(live: LiveRelay, shell: Shell) -> None:
    """The relay is asked to stop once."""
    assert told(shell("admin", "shutdown")) == "the relay is stopping\n"
    assert live.asked_to_stop == ["POST /admin/shutdown"]


@pytest.mark.parametrize("words", [["hosts"], ["hosts", NOBODY], ["admin", "block", NOBODY], ["memory"]])
def test_the_password(shell: Shell, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """A wrong or missing password is a refusal in one line that says where it is looked for."""
    for password in ("wrong", None):
        if password is None:
            monkeypatch.delenv("RELAY_ADMIN_PASSWORD")
        else:
            monkeypatch.setenv("RELAY_ADMIN_PASSWORD", password)
        status, out, err = shell(*words)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("zlay: 401 AuthenticationRequired")
        assert "RELAY_ADMIN_PASSWORD" in err


def test_a_password_that_cannot_be_sent(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with a line break is a wrong setting; it is not shown."""
    monkeypatch.setenv("RELAY_ADMIN_PASSWORD", "secret\nX-Other: 1")
    status, _, err = shell("hosts")
    assert (status, "RELAY_ADMIN_PASSWORD" in err, "secret" in err) == (2, True, False)


def test_nobody_there(shell: Shell) -> None:
    """Where no relay answers the exit status is 3, in one line; where the URL is none it is 2."""
    with FakeHttp(lambda *_: reply(200, b"<html>\x1b[31m")) as page:
        status, _, err = shell("memory", "--url", page.url)
        assert (status, "\x1b" in err, "no relay" in err) == (3, False, True)
    status, _, err = shell("memory", "--url", page.url)  # nobody listens any more
    assert (status, err.count("\n")) == (3, 1)
    with FakeHttp(lambda *_: None) as cut:
        assert shell("admin", "block", NOBODY, "--url", cut.url)[0] == 3
    with FakeHttp(lambda *_: reply(302, b"", Location="http://elsewhere.example.com/")) as moved:
        assert shell("hosts", "--url", moved.url)[0] == 3
        assert len(moved.requests) == 1  # the password goes nowhere else
    for url in ("ftp://x", "localhost:3001", "http://", "http://a:b@c"):
        status, _, err = shell("hosts", "--url", url)
        assert (status, "--url" in err) == (2, True)


def test_an_answer_with_control_characters(shell: Shell) -> None:
    """What an answer says reaches the terminal without its control characters."""
    with FakeHttp(lambda *_: reply_json({"error": "No\x1b[31m", "message": "a\nb"}, status=400)) as server:
        assert shell("admin", "domains", "--url", server.url) == (1, "", "zlay: 400 No?[31m: a?b\n")


def test_every_endpoint_has_a_command(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a command for each admin endpoint."""
    asked = set()

    def answer(request: Any, _connection: object) -> bytes:
        asked.add((request.method, request.path))
        return reply_json({"error": "No", "message": "no"}, status=400)

    with FakeHttp(answer) as server:
        for words in (
            *(f"{name} x" for name in ("add", "block", "unblock", "reset-cursor", "ban-domain", "takedown")),
            *("untakedown x", "limits x --per-day 5", "disconnect 5"),
            *("hosts", "domains", "consumers", "memory", "leaks", "shutdown"),
        ):
            assert shell("admin", *words.split(), "--url", server.url)[0] == 1
    assert asked == set(ADMIN)
