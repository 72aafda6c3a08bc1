"""The status page: whole in itself, safe by its policy, and drawn by a real browser from a real relay."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.eventlog.support import append
from zlay.figures import INTERVAL_S, MOST_SAMPLES, Figures

if TYPE_CHECKING:
    from pathlib import Path

    from tests.api.support import Client
    from tests.live import LiveRelay

BROWSER_S = 120  # its first start on a busy machine


def sources(policy: str) -> dict[str, list[str]]:
    """The sources of each directive."""
    return {name: rest for name, *rest in (part.split() for part in policy.split(";"))}


def test_it_is_on_the_metrics_port_only(public: Client, internal: Client) -> None:
    """The page is the operator's; strangers get a line of text."""
    page = internal.request("GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.body.startswith(b"<!doctype html>")
    assert internal.request("POST", "/", body=b"").status == 405
    assert public.request("GET", "/").headers["content-type"].startswith("text/plain")
    assert public.request("GET", "/_history").status == 404


def test_nothing_runs_but_its_own_script(internal: Client) -> None:
    """The policy names the page's one script and one style by their hashes, allows questions to the relay alone, and
    the page asks for nothing from elsewhere."""
    page = internal.request("GET", "/")
    policy = sources(page.headers["content-security-policy"])
    assert policy["default-src"] == policy["frame-ancestors"] == ["'none'"]
    assert policy["connect-src"] == ["'self'"]
    for element in ("script", "style"):
        found = re.findall(rb"<%b[^>]*>(.*?)</%b>" % (element.encode(), element.encode()), page.body, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in found]
        assert policy[f"{element}-src"] == [f"'sha256-{digest}'" for digest in digests]
    assert not re.findall(rb"(?:https?:)?//[a-z]", page.body)
    assert not re.findall(rb"\son[a-z]+=|\sstyle=", page.body)


def test_samples(live: LiveRelay, internal: Client) -> None:
    """The history has a figure for each name, oldest first, at most an hour of them."""
    figures = Figures(live.relay)
    for _ in range(MOST_SAMPLES + 5):
        figures.sample()
    told = figures.history()
    assert len(told["samples"]) == MOST_SAMPLES
    assert MOST_SAMPLES * INTERVAL_S == 3600
    sample = dict(zip(told["names"], told["samples"][-1], strict=True))
    assert abs(sample["unix_s"] - time.time()) < 60
    assert sample["rss_bytes"] > 1 << 20
    assert sample["seq"] == live.relay.log.published_end
    assert internal.request("GET", "/_history").json["names"] == list(told["names"])


@pytest.mark.e2e
@pytest.mark.ordinary_build
@pytest.mark.timeout(180)
def test_a_browser_draws_it(live: LiveRelay, tmp_path: Path) -> None:
    """In Chromium the page shows the newest seq, readiness with its reasons, and a line for what has two samples."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    for n in range(3):
        append(live.relay.log, f"event {n}")
    live.relay.figures.sample()
    live.relay.figures.sample()
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    url = f"http://127.0.0.1:{live.relay.http.addresses[1][1]}/"
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=BROWSER_S,
        check=True,
    )
    shown = done.stdout
    assert re.search(rf"<th>newest</th><td>{live.relay.log.published_end:,}</td>", shown)
    assert "not ready: no hosts are known yet" in shown
    assert len(re.findall(r'<polyline points="[0-9]', shown)) >= 4
    assert ">no answer" not in shown
