"""A real browser as a consumer: a page of another origin subscribes and gets the log's bytes."""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.api.support import wait_until
from tests.eventlog.support import append, message
from tests.live import LiveRelay
from tests.reference.consumer import SUBSCRIBE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

BROWSER_S = 120.0  # its first start on a busy machine
PAGE = """<!doctype html><title>consumer</title><script>
const told = {origin: location.origin, messages: []};
const tell = () => fetch("/told", {method: "POST", body: JSON.stringify(told)});
const socket = new WebSocket("%s");
socket.binaryType = "arraybuffer";
socket.onmessage = event => {
  told.messages.push(Array.from(new Uint8Array(event.data)));
  if (told.messages.length === 5) socket.close(1000, "enough");
};
socket.onerror = () => { told.error = true; };
socket.onclose = event => { told.code = event.code; told.clean = event.wasClean; tell(); };
</script>"""


class Site(http.server.ThreadingHTTPServer):
    """Serves the page, and takes what it tells."""

    def __init__(self, page: str) -> None:
        self.page = page.encode()
        self.told: queue.Queue[dict[str, object]] = queue.Queue()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    """GET is the page, POST is what it has to say."""

    server: Site

    def do_GET(self) -> None:
        """The page."""
        self._answer(self.server.page)

    def do_POST(self) -> None:
        """What the page tells."""
        self.server.told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.mark.ordinary_build
def test_a_page_of_another_origin_subscribes(tmp_path: Path) -> None:
    """In Chromium a page of any origin replays and follows, byte for byte, and its close is answered."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    with LiveRelay(tmp_path / "relay") as live:
        texts = ["one", "x" * 200, "y" * 100_000]
        for text in texts:
            append(live.relay.log, text)
        site = Site(PAGE % f"ws://127.0.0.1:{live.relay.http.addresses[0][1]}{SUBSCRIBE}?cursor=0")
        serving = threading.Thread(target=site.serve_forever)
        serving.start()
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        url = f"http://localhost:{site.server_address[1]}/"
        browser = subprocess.Popen(
            [*command, f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0", url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: live.relay.consumers.count() == 1, "the page subscribes", BROWSER_S)
            for text in ("live", "and live"):
                append(live.relay.log, text)
                texts.append(text)
            told = site.told.get(timeout=BROWSER_S)
        finally:
            browser.terminate()
            browser.wait(30)
            site.shutdown()
            serving.join(30)
            site.server_close()
        assert "error" not in told
        assert told["messages"] == [list(message(i + 1, text)) for i, text in enumerate(texts)]
        assert (told["code"], told["clean"]) == (1000, True)
        assert told["origin"] == url.rstrip("/")
