"""A VMM that another program has made a child of this process: forked, or started confined."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading


class Child:
    """A child of this process that Popen does not know."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._lock = threading.Lock()
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        if timeout is not None and self._code is None:
            handle = os.pidfd_open(self.pid)
            try:
                if not select.select([handle], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(f"VMM {self.pid}", timeout)
            finally:
                os.close(handle)
        code = self._reap(0)
        assert code is not None
        return code

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)

    def _reap(self, options: int) -> int | None:
        with self._lock:
            if self._code is None:
                pid, status = os.waitpid(self.pid, options)
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
            return self._code
