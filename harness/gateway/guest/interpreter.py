"""A context of the code interpreter, in the sandbox: runs cells and reports their output.

A request is a line of JSON on standard input (code, envs). Its answer is lines on standard output:
the objects that `POST /execute` streams. The program is started before the template is saved.
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
_REPR_METHODS = (
    ("html", "_repr_html_"), ("markdown", "_repr_markdown_"), ("svg", "_repr_svg_"),
    ("png", "_repr_png_"), ("jpeg", "_repr_jpeg_"), ("pdf", "_repr_pdf_"),
    ("latex", "_repr_latex_"), ("json", "_repr_json_"), ("javascript", "_repr_javascript_"),
)  # fmt: skip
_FORMS = {
    "text/html": "html", "text/plain": "text", "image/png": "png", "image/svg+xml": "svg",
    "application/json": "json", "text/markdown": "markdown", "image/jpeg": "jpeg",
    "text/latex": "latex",
}  # fmt: skip
_BINARY = ("png", "jpeg", "pdf")


def send(kind, **fields):
    line = json.dumps({"type": kind, **fields}, ensure_ascii=False, default=str)
    with _lock:
        _answers.write(line + "\n")
        _answers.flush()


class Stream:
    """sys.stdout or sys.stderr of the cells, with the attributes that programs expect."""

    encoding = "utf-8"
    errors = "replace"
    closed = False

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

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        text, self._buffer = self._buffer, ""
        if text:
            send(self._kind, text=text, timestamp=time.time_ns())

    def fileno(self):
        return self._fd

    def isatty(self):
        return False

    def writable(self):
        return True

    def readable(self):
        return False


class Pipes:
    """Descriptors 1 and 2, to which programs started by a cell write."""

    def __init__(self):
        self._ends = {}
        for number, kind in ((1, "stdout"), (2, "stderr")):
            read_end, write_end = os.pipe()
            os.dup2(write_end, number)
            os.close(write_end)
            os.set_blocking(read_end, False)
            self._ends[kind] = read_end

    def drain(self):
        """Send what has been written so far."""
        for kind, end in self._ends.items():
            with contextlib.suppress(BlockingIOError):
                while data := os.read(end, 65536):
                    send(kind, text=data.decode("utf-8", "replace"), timestamp=time.time_ns())


class Interrupts:
    """Delivers SIGINT to the running cell only.

    Python handles signals between instructions: a signal that arrives just before a system call
    would wait for the call to end. The pipe has a byte for each signal that is not handled yet.
    """

    def __init__(self):
        self.cell_runs = False
        self._pending, end = os.pipe()
        for descriptor in (self._pending, end):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        signal.signal(signal.SIGURG, self._handled)
        signal.signal(signal.SIGINT, self._interrupt)

    def _handled(self, *_):
        with contextlib.suppress(BlockingIOError):
            os.read(self._pending, 4096)

    def _interrupt(self, *_):
        self._handled()
        if self.cell_runs:
            self.cell_runs = False
            raise KeyboardInterrupt

    def push(self):
        """Interrupt the main thread's system call if a signal is pending."""
        if select.select([self._pending], [], [], 0)[0]:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGURG)


def send_result(value, main):
    """Send a value in all forms in which it can represent itself."""
    forms = {}
    bundle = getattr(value, "_repr_mimebundle_", None)
    if callable(bundle):
        with contextlib.suppress(Exception):
            data_by_type = bundle()
            if isinstance(data_by_type, tuple):
                data_by_type = data_by_type[0]
            forms.update(
                {_FORMS[kind]: data for kind, data in data_by_type.items() if kind in _FORMS}
            )
    for name, method in _REPR_METHODS:
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
    send("result", **forms, is_main_result=main)


def display(*values):
    """Show values, as in a notebook."""
    for value in values:
        send_result(value, False)


def send_figures():
    """Send the matplotlib figures that the cell left open, as PNG, and close them."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    import io

    for number in pyplot.get_fignums():
        file = io.BytesIO()
        figure = pyplot.figure(number)
        figure.savefig(file, format="png", bbox_inches="tight")
        data = base64.b64encode(file.getvalue()).decode()
        send("result", text=repr(figure), png=data, is_main_result=False)
    pyplot.close("all")


def translate_magics(code):
    """Replace the lines `!command`, `%cd` and `%pip` with Python."""
    if "!" not in code and "%" not in code:
        return code
    lines = []
    for line in code.split("\n"):
        stripped = line.lstrip()
        indent = line[: len(line) - len(stripped)]
        if stripped.startswith("!"):
            line = f"{indent}__shell__({stripped[1:]!r})"
        elif stripped.startswith("%cd "):
            line = f"{indent}__import__('os').chdir({stripped[4:].strip()!r})"
        elif stripped.startswith("%pip "):
            line = f"{indent}__shell__({'python3 -m ' + stripped[1:]!r})"
        lines.append(line)
    return "\n".join(lines)


def shell(command):
    subprocess.run(command, shell=True, stdin=subprocess.DEVNULL)


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
        send("number_of_executions", execution_count=self.count)
        file = f"<cell {self.count}>"
        before = {name: os.environ.get(name) for name in envs}
        os.environ.update(envs)
        ended = threading.Event()
        watcher = threading.Thread(target=self.watch, args=(ended,), daemon=True)
        try:
            self.interrupts.cell_runs = True
            self._run(translate_magics(code), file, watcher)
            self.interrupts.cell_runs = False
        except BaseException as error:
            self.interrupts.cell_runs = False
            sys.stdout.flush()
            sys.stderr.flush()
            self._send_error(error, file)
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
        send("end_of_execution")

    def _run(self, code, file, watcher):
        linecache.cache[file] = (len(code), None, code.splitlines(True), file)
        tree = ast.parse(code, file)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr) and not code.rstrip().endswith(";"):
            last = ast.Expression(tree.body.pop().value)
        # A trivial expression needs no watcher thread.
        if tree.body or not isinstance(last and last.body, (ast.BinOp, ast.Constant, ast.Name)):
            watcher.start()
        if tree.body:
            exec(compile(tree, file, "exec"), self.names)
        if last is not None:
            value = eval(compile(last, file, "eval"), self.names)
            if value is not None:
                self.names["_"] = value
                sys.stdout.flush()
                send_result(value, True)
        send_figures()

    def _send_error(self, error, file):
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != file:
            trace = trace.tb_next
        lines = traceback.format_exception(type(error), error, trace or None)
        name = type(error).__name__
        send("error", name=name, value=str(error), traceback="".join(lines))


def main():
    sys.stdout, sys.stderr = Stream("stdout", 1), Stream("stderr", 2)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    context = Context()
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.path.insert(0, "")
    send("ready")
    while True:
        try:
            line = _requests.readline()
            if not line:
                return
            request = json.loads(line)
            send("begin", cell=request.get("cell"))
            if request.get("rehearsal"):  # restore the context afterwards
                names, count = dict(context.names), context.count
                context.run(request["code"], {})
                context.names, context.count = names, count
            else:
                context.run(request["code"], request.get("envs") or {})
        except KeyboardInterrupt:
            continue


main()
