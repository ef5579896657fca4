"""What cells write, as lines of JSON: the objects that `POST /execute` streams."""

import codecs
import contextlib
import io
import json
import os
import sys
import threading
import time

# A lone surrogate becomes \udXXX, which is JSON's own notation for it.
_answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
_lock = threading.Lock()
_drained = threading.Lock()
_pipes = []
TEXT_MAX = 16 << 10
"""Characters of a line of output. JSON may take six bytes for each."""
PIECE, PIECES = 1 << 16, 64
"""The capacity of a pipe, and how often it is read in succession: a program that writes on and on
must not keep the cell from its end."""
_forked = False
"""Whether this process is a copy that a cell made with fork: what it writes goes to the pipes."""


def send(kind, **fields):
    if _forked:
        return
    line = json.dumps({"type": kind, **fields}, ensure_ascii=False, default=str)
    with _lock:
        _answers.write(line + "\n")
        _answers.flush()


def send_text(kind, text):
    """In lines that the gateway passes on whole: an end in the middle of one leaves no part."""
    for at in range(0, len(text), TEXT_MAX):
        send(kind, text=text[at : at + TEXT_MAX], timestamp=time.time_ns())


class Stream(io.TextIOBase):
    """sys.stdout or sys.stderr of the cells, with the attributes that programs expect."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, kind, fd):
        self._kind = kind
        self._fd = fd
        self._buffer = ""

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._buffer += text
        if "\n" in text or len(self._buffer) > 8192:
            self.flush()
        return len(text)

    def flush(self):
        text, self._buffer = self._buffer, ""
        if text and _forked:
            data = text.encode("utf-8", "replace")
            while data:
                data = data[os.write(self._fd, data) :]
        elif text:
            send_text(self._kind, text)

    def close(self):
        """A cell that closes its output must not end that of the next cells."""
        self.flush()

    def fileno(self):
        return self._fd

    def isatty(self):
        return False

    def writable(self):
        return True


def flush():
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _in_child():
    global _forked, _lock
    _forked, _lock = True, threading.Lock()


os.register_at_fork(before=flush, after_in_child=_in_child)


def redirect():
    """Replace descriptors 1 and 2, to which programs started by a cell write, with pipes."""
    for number, kind in ((1, "stdout"), (2, "stderr")):
        read_end, write_end = os.pipe()
        os.dup2(write_end, number)
        os.close(write_end)
        os.set_blocking(read_end, False)
        _pipes.append((kind, read_end, codecs.getincrementaldecoder("utf-8")("replace")))


def drain():
    """Send what programs have written so far."""
    if _forked:
        return
    with _drained:
        for kind, end, decoder in _pipes:
            for _ in range(PIECES):
                try:
                    data = os.read(end, PIECE)
                except BlockingIOError:
                    break
                send_text(kind, decoder.decode(data))


def settle():
    """Send all that was written before this moment."""
    flush()
    drain()
