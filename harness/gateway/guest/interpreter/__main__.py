"""A context of the code interpreter, in the sandbox: runs cells and reports their output.

A request is a line of JSON on standard input (code, envs). Its answer is lines on standard output:
the objects that `POST /execute` streams. The program is started before the template is saved.
"""

import ast
import gc
import json
import os
import sys
import threading

_requests = os.dup(0)
_OF_CONSTANTS = (ast.Module, ast.Expr, ast.BinOp, ast.Constant, ast.operator)
IPYTHON_DIRECTORY = f"{sys.path[0]}/ipython"

import cell_loop  # noqa: E402
from cell_interrupts import Interrupts  # noqa: E402
from cell_output import Stream, drain, redirect, send, settle  # noqa: E402
from cell_randomness import Randomness  # noqa: E402
from cell_shell import parsed, start  # noqa: E402


class Context:
    def __init__(self, loop):
        self.pid = os.getpid()
        self.count = 0
        self.loop = loop
        self.randomness = Randomness()
        self.interrupts = Interrupts(loop)
        self.shell = start(IPYTHON_DIRECTORY, loop, self.interrupts)

    def watch(self, stop):
        while not stop.wait(0.05):
            drain()
            self.interrupts.push()

    def run(self, code, envs):
        self.count += 1
        send("number_of_executions", execution_count=self.count)
        self.randomness.renew()
        before = {name: os.environ.get(name) for name in envs}
        os.environ.update(envs)
        ended = threading.Event()
        watcher = threading.Thread(target=self.watch, args=(ended,), daemon=True)
        if not _trivial(code):
            watcher.start()
        self._run(code)
        ended.set()
        if watcher.is_alive():
            watcher.join()
        settle()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        send("end_of_execution")

    def rehearse(self, code):
        """Run code and leave the context as it was before its first cell."""
        self.run(code, {})
        self.count = 0
        self.randomness.forget()  # copies may be made of this context
        self.shell.reset()
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)

    def _run(self, code):
        shell, interrupts = self.shell, self.interrupts
        shell.error_sent = False
        shell.execution_count = self.count
        error = None
        try:
            with self.loop.in_cell():
                result = shell.run_cell(code, store_history=True)
            interrupts.end()
            error = result.error_before_exec or result.error_in_exec
        except BaseException as raised:  # interrupted in IPython's own code, say
            interrupts.end()
            error = raised
        if os.getpid() != self.pid:
            # A copy that the cell made with fork, and that ran on to the cell's end.
            settle()
            os._exit(1 if error else 0)
        if error is not None:
            shell.send_error(type(error).__name__, error, "")


def _trivial(code):
    """Whether code needs no watcher thread: constants cannot start a program or wait."""
    tree = parsed(code) if len(code) < 200 else None
    return tree is not None and all(isinstance(node, _OF_CONSTANTS) for node in ast.walk(tree))


def main():
    redirect()
    sys.stdout, sys.stderr = Stream("stdout", 1), Stream("stderr", 2)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    sys.argv, sys.path[0] = [""], ""
    loop = cell_loop.start()
    context, requests = Context(loop), cell_loop.Requests(loop, _requests)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    # What exists now is never garbage: a collection in a restored copy does not touch its memory.
    gc.collect()
    gc.freeze()
    send("ready")
    while True:
        try:
            line = requests.next()
            if line is None:
                return
            try:
                request = json.loads(line)
            except ValueError:  # half of a request, whose caller was told
                continue
            context.interrupts.begin()
            send("begin", cell=request.get("cell"))
            if request.get("rehearsal"):
                context.rehearse(request["code"])
            else:
                context.run(request["code"], request.get("envs") or {})
        except KeyboardInterrupt:
            continue


main()
