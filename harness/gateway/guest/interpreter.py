"""One context of the code interpreter, in the sandbox: runs cells, says what comes of them.

A request is a line of JSON on standard input (code, envs); what it answers are lines on standard
output, the objects that `POST /execute` streams. It is started before the template's checkpoint.
"""

from __future__ import annotations

import ast
import base64
import builtins
import contextlib
import json
import linecache
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback

_answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
_requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
_lock = threading.Lock()
_RICH = (
    ("html", "_repr_html_"), ("markdown", "_repr_markdown_"), ("svg", "_repr_svg_"),
    ("png", "_repr_png_"), ("jpeg", "_repr_jpeg_"), ("pdf", "_repr_pdf_"),
    ("latex", "_repr_latex_"), ("json", "_repr_json_"), ("javascript", "_repr_javascript_"),
)  # fmt: skip
_KINDS = {
    "text/html": "html", "text/plain": "text", "image/png": "png", "image/svg+xml": "svg",
    "application/json": "json", "text/markdown": "markdown", "image/jpeg": "jpeg",
    "text/latex": "latex",
}  # fmt: skip
_BINARY = ("png", "jpeg", "pdf")


def say(kind, **fields):
    line = json.dumps({"type": kind, **fields}, ensure_ascii=False, default=str)
    with _lock:
        _answers.write(line + "\n")
        _answers.flush()


class Stream:
    """What Python code writes to stdout or stderr; `encoding` and the rest as programs expect."""

    encoding = "utf-8"
    errors = "replace"
    closed = False

    def __init__(self, kind, fd):
        self._kind = kind
        self._fd = fd
        self._held = ""

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._held += text
        if "\n" in text or len(self._held) > 8192:
            self.flush()
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        held, self._held = self._held, ""
        if held:
            say(self._kind, text=held, timestamp=time.time_ns())

    def fileno(self):
        return self._fd

    def isatty(self):
        return False

    def writable(self):
        return True

    def readable(self):
        return False


class Pipes:
    """What programs started by a cell write, which know descriptors only. Read by threads that
    start with the first use, so that a plain cell has none to wait for."""

    def __init__(self):
        self._ends = {}
        for number, kind in ((1, "stdout"), (2, "stderr")):
            mine, theirs = os.pipe()
            os.dup2(theirs, number)
            os.close(theirs)
            os.set_blocking(mine, False)
            self._ends[kind] = mine

    def drain(self):
        """What is there now."""
        for kind, end in self._ends.items():
            with contextlib.suppress(BlockingIOError):
                while data := os.read(end, 65536):
                    say(kind, text=data.decode("utf-8", "replace"), timestamp=time.time_ns())


class Interrupts:
    """SIGINT for the cell that runs, and for nothing else.

    Python looks at signals between its instructions: one that comes just before a system call
    would wait for that call to end. The pipe tells what has come and was not looked at yet.
    """

    def __init__(self):
        self.wanted = False
        self._come, end = os.pipe()
        for one in (self._come, end):
            os.set_blocking(one, False)
        signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        signal.signal(signal.SIGURG, self._seen)
        signal.signal(signal.SIGINT, self._interrupt)

    def _seen(self, *_):
        with contextlib.suppress(BlockingIOError):
            os.read(self._come, 4096)

    def _interrupt(self, *_):
        self._seen()
        if self.wanted:
            self.wanted = False
            raise KeyboardInterrupt

    def push(self):
        """Ends the main thread's system call if a signal waits behind it."""
        if select.select([self._come], [], [], 0)[0]:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGURG)


def bundle(value, main):
    """A result in every form in which the value can show itself."""
    forms = {}
    many = getattr(value, "_repr_mimebundle_", None)
    if callable(many):
        with contextlib.suppress(Exception):
            found = many()
            found = found[0] if isinstance(found, tuple) else found
            forms.update({_KINDS[kind]: data for kind, data in found.items() if kind in _KINDS})
    for name, method in _RICH:
        show = getattr(value, method, None)
        if name not in forms and callable(show):
            with contextlib.suppress(Exception):
                data = show()
                data = data[0] if isinstance(data, tuple) else data
                if data is not None:
                    forms[name] = data
    for name in _BINARY:
        if isinstance(forms.get(name), (bytes, bytearray)):
            forms[name] = base64.b64encode(forms[name]).decode()
    if "text" not in forms:
        forms["text"] = repr(value)
    say("result", **forms, is_main_result=main)


def display(*values):
    """Show values, as notebooks do."""
    for value in values:
        bundle(value, False)


def figures():
    """Figures of matplotlib that the cell left open, as png."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    import io

    for number in pyplot.get_fignums():
        room = io.BytesIO()
        figure = pyplot.figure(number)
        figure.savefig(room, format="png", bbox_inches="tight")
        data = base64.b64encode(room.getvalue()).decode()
        say("result", text=repr(figure), png=data, is_main_result=False)
    pyplot.close("all")


def prepared(code):
    """Lines that begin with `!` are for the shell, those with `%` are left out but for a few."""
    if "!" not in code and "%" not in code:
        return code
    lines = []
    for line in code.split("\n"):
        bare = line.lstrip()
        indent = line[: len(line) - len(bare)]
        if bare.startswith("!"):
            line = f"{indent}__shell__({bare[1:]!r})"
        elif bare.startswith("%cd "):
            line = f"{indent}__import__('os').chdir({bare[4:].strip()!r})"
        elif bare.startswith("%pip "):
            line = f"{indent}__shell__({'python3 -m ' + bare[1:]!r})"
        lines.append(line)
    return "\n".join(lines)


def shell(words):
    subprocess.run(words, shell=True, stdin=subprocess.DEVNULL)


class Context:
    def __init__(self):
        self.names = {"__name__": "__main__", "__builtins__": builtins,
                      "display": display, "__shell__": shell}  # fmt: skip
        self.count = 0
        self.pipes = Pipes()
        self.interrupts = Interrupts()

    def watch(self, stop):
        while not stop.wait(0.05):
            self.pipes.drain()
            self.interrupts.push()

    def run(self, code, envs):
        self.count += 1
        say("number_of_executions", execution_count=self.count)
        file = f"<cell {self.count}>"
        before = {name: os.environ.get(name) for name in envs}
        os.environ.update(envs)
        ended = threading.Event()
        watcher = threading.Thread(target=self.watch, args=(ended,), daemon=True)
        try:
            self.interrupts.wanted = True
            self._run(prepared(code), file, watcher)
            self.interrupts.wanted = False
        except BaseException as error:
            self.interrupts.wanted = False
            sys.stdout.flush()
            sys.stderr.flush()
            self._blame(error, file)
        ended.set()
        if watcher.is_alive():
            watcher.join()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pipes.drain()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        say("end_of_execution")

    def _run(self, code, file, watcher):
        linecache.cache[file] = (len(code), None, code.splitlines(True), file)
        tree = ast.parse(code, file)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr) and not code.rstrip().endswith(";"):
            last = ast.Expression(tree.body.pop().value)
        # Only what takes long, or starts programs, is worth a thread.
        if tree.body or not isinstance(last and last.body, (ast.BinOp, ast.Constant, ast.Name)):
            watcher.start()
        if tree.body:
            exec(compile(tree, file, "exec"), self.names)
        if last is not None:
            value = eval(compile(last, file, "eval"), self.names)
            if value is not None:
                self.names["_"] = value
                sys.stdout.flush()
                bundle(value, True)
        figures()

    def _blame(self, error, file):
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != file:
            trace = trace.tb_next
        lines = traceback.format_exception(type(error), error, trace or None)
        name = type(error).__name__
        say("error", name=name, value=str(error), traceback="".join(lines))


def main():
    sys.stdout, sys.stderr = Stream("stdout", 1), Stream("stderr", 2)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    context = Context()
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.path.insert(0, "")
    say("ready")
    while True:
        try:
            line = _requests.readline()
            if not line:
                return
            request = json.loads(line)
            say("begin", cell=request.get("cell"))
            if request.get("rehearsal"):  # before anybody is there: leaves no trace
                kept, count = dict(context.names), context.count
                context.run(request["code"], {})
                context.names, context.count = kept, count
            else:
                context.run(request["code"], request.get("envs") or {})
        except KeyboardInterrupt:
            continue


main()
