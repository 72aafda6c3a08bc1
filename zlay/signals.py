"""What signals ask of a running relay: to stop, to stop at once, to report.

The interpreter runs handlers on the main thread only, which may sit in the compiled core while it stops; what the C
handler writes to a pipe is read by a thread of its own, so that nothing has to come round first. That works as process
1 of a container too, where the default action of a signal is nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from zlay import logs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Signals"]

READ_BYTES = 64  # one byte a signal

log = logs.get("relay")


class Signals:
    """SIGTERM, SIGINT and `ask` end `wait`; a second signal ends the process, with 128 + its number. One per process.

    What `ask` was told counts as no signal: whoever asks by HTTP may send SIGTERM afterwards, as orchestrators do.
    """

    def __init__(self) -> None:
        """Main thread. `on_report`, once set, hears of SIGUSR1 on the watching thread."""
        self.on_report: Callable[[str], None] | None = None
        self._asked = threading.Event()
        self._reason = ""
        self._read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write_fd, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, _noted)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def _watch(self) -> None:
        to_end = 0
        while True:
            for number in os.read(self._read_fd, READ_BYTES):
                if number == signal.SIGUSR1:
                    if self.on_report is not None:
                        self.on_report("SIGUSR1")
                    continue
                to_end += 1
                if to_end > 1:
                    log.warning("stopped at once", reason=f"a second signal: {signal.Signals(number).name}")
                    os._exit(128 + number)
                self.ask(signal.Signals(number).name)

    def ask(self, reason: str) -> None:
        """The same as a signal, for `reason`. Any thread."""
        self._reason = self._reason or reason
        self._asked.set()

    def wait(self) -> str:
        """Until somebody asks; why."""
        self._asked.wait()
        return self._reason


def _noted(_number: int, _frame: object) -> None:
    """Nothing: what a signal means is decided where it is read from the pipe."""
