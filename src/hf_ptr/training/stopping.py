"""Asked to stop, a run finishes its step and saves it: SIGTERM of a preempted job, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Launchers hand the Ctrl-C that the terminal has sent already on to their processes: that is no second one.
ECHO_SECONDS = 2.0


class StopSignals:
    """
    While it is entered, the first SIGTERM or SIGINT is noted and nothing else; a later Ctrl-C interrupts at once.
    Outside the main thread, where Python lets nobody listen, it does nothing.

    Attributes:
        received: the signal's number, 0 before there is one.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self.received = 0
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked data worker: the run it works for tells it when to end.
            return
        if not self.received:
            self.received, self._since = number, time.monotonic()
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            os.write(2, f"\nhf-ptr: stopping after this step, with a checkpoint{again}\n".encode())
        elif number == signal.SIGINT and time.monotonic() - self._since > ECHO_SECONDS:
            raise KeyboardInterrupt


def leave(number: int) -> None:
    """
    Ends a run that was asked to stop, after it has saved.

    Raises:
        KeyboardInterrupt: for Ctrl-C, which the command line makes exit code 130 of.
        SystemExit: for SIGTERM, with the exit code 143 of a terminated process: to a scheduler, 0 would be a run that
            is finished, and what depends on it would start.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number:
        raise SystemExit(128 + number)
