"""A context of the code interpreter on its own: interrupts of cells, and what it must outlive."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.gateway.envd.interpreter import WHOLE_BYTES
from tests.gateway.cells import Interpreter, error, interpreter, result, texts


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    with interpreter(tmp_path_factory.mktemp("interpreter")) as started:
        yield started


def test_an_interrupt_just_before_a_system_call_ends_the_cell(shell: Interpreter) -> None:
    # Another thread gets the signal: the main thread sleeps on, as when the signal arrives just
    # before the system call.
    code = """
import signal, threading, time
def late():
    main = threading.main_thread().native_id
    while "nanosleep" not in open(f"/proc/self/task/{main}/wchan").read():
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
threading.Thread(target=late).start()
time.sleep(600)
"""
    interrupted = error(shell.run(code))
    assert interrupted and interrupted["name"] == "KeyboardInterrupt"
    assert result(shell.run("1+1"))["text"] == "2"


def test_a_late_interrupt_does_not_end_the_next_cell(shell: Interpreter) -> None:
    for _ in range(20):
        shell.run("x = 1")
        shell.signal(signal.SIGINT)
        assert result(shell.run("x + 1"))["text"] == "2"


@pytest.mark.parametrize(
    "code",
    [
        "import time\nprint('on')\ntime.sleep(600)",
        "!echo on; sleep 600",
        "%%bash\necho on; sleep 600",
        "import asyncio\nprint('on')\nawait asyncio.sleep(600)",
        "import subprocess\nsubprocess.run('echo on; sleep 600', shell=True)",
        "print('on')\nwhile True: pass",
        "%time print('on'); import time; time.sleep(600)",
    ],
)
def test_an_interrupt_ends_whatever_the_cell_waits_for(shell: Interpreter, code: str) -> None:
    lines = shell.start(code)
    shell.until("on\n", lines)
    shell.signal(signal.SIGINT)
    interrupted = error(shell.rest(lines))
    if not code.startswith("%%bash"):  # which IPython ends without an error
        assert interrupted and interrupted["name"] == "KeyboardInterrupt"
    assert result(shell.run("1+1"))["text"] == "2"


def test_an_interrupted_cell_does_not_go_on_in_a_later_one(shell: Interpreter) -> None:
    code = (
        "import asyncio\ntry:\n  print('on'); await asyncio.sleep(600)\nfinally: print('ended')\n"
    )
    lines = shell.start(code + "print('went on')")
    shell.until("on\n", lines)
    shell.signal(signal.SIGINT)
    assert texts(shell.rest(lines)) == "on\nended\n"
    assert texts(shell.run("import asyncio\nawait asyncio.sleep(0.1)\nprint('next')")) == "next\n"


def test_handlers_that_a_cell_installs_last_for_the_cell(shell: Interpreter) -> None:
    shell.run(
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.set_wakeup_fd(-1)"
    )
    lines = shell.start("import time\nprint('on')\ntime.sleep(600)")
    shell.until("on\n", lines)
    shell.signal(signal.SIGINT)
    assert error(shell.rest(lines))


def test_a_cell_that_blocks_interrupts_leaves_those_of_the_next(shell: Interpreter) -> None:
    shell.run("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])")
    lines = shell.start("import time\nprint('on')\ntime.sleep(600)")
    shell.until("on\n", lines)
    shell.signal(signal.SIGINT)
    assert error(shell.rest(lines))


def test_an_interrupt_counts_from_the_moment_that_the_cell_begins(shell: Interpreter) -> None:
    for _ in range(30):
        shell.send("import time\ntime.sleep(600)")
        shell.signal(signal.SIGINT)
        assert error(shell.rest([]))


def test_an_interrupt_leaves_the_tasks_of_other_cells(shell: Interpreter) -> None:
    code = """
import asyncio
async def count():
    while True:
        await asyncio.sleep(0)
        counted.append(1)
        if len(counted) == 1000: print('on')
counted = []
counts = asyncio.create_task(count())
"""
    shell.run(code)
    for _ in range(10):
        lines = shell.start("counted.clear()\nawait asyncio.sleep(600)")
        shell.until("on\n", lines)
        shell.signal(signal.SIGINT)
        interrupted = error(shell.rest(lines))
        assert interrupted and interrupted["name"] == "KeyboardInterrupt"
    assert result(shell.run("counts.done(), counts.cancel()"))["text"] == "(False, True)"


def test_a_task_that_holds_up_an_awaiting_cell_is_interrupted(shell: Interpreter) -> None:
    code = """
import asyncio
async def busy():
    print('on')
    while True: pass
await asyncio.create_task(busy())
"""
    lines = shell.start(code)
    shell.until("on\n", lines)
    shell.signal(signal.SIGINT)
    interrupted = error(shell.rest(lines))
    assert interrupted and interrupted["name"] == "KeyboardInterrupt"
    assert result(shell.run("1+1"))["text"] == "2"


def test_a_copy_made_with_fork_ends_with_its_cell(shell: Interpreter) -> None:
    code = """
import os
print('once')
if os.fork() == 0:
    print('child')
else:
    os.wait()
"""
    assert texts(shell.run(code)) == "once\nchild\n"
    assert result(shell.run("1+1"))["text"] == "2"


def test_a_program_that_writes_on_and_on_does_not_keep_the_cell_from_its_end(
    shell: Interpreter,
) -> None:
    timer = threading.Timer(60, shell.process.kill)
    timer.start()
    shell.run("import subprocess\nyes = subprocess.Popen(['yes'])")
    assert error(shell.run("yes.kill()\nyes.wait()")) is None
    timer.cancel()


def test_a_cell_that_closes_its_output_leaves_that_of_the_next(
    shell: Interpreter,
) -> None:
    shell.run("import sys\nsys.stdout.close()\nsys.stderr.close()")
    assert texts(shell.run("print('still')")) == "still\n"


def test_characters_that_utf8_cannot_express_are_shown(shell: Interpreter) -> None:
    assert texts(shell.run(r"print('\ud800')")) == "\ud800\n"
    failed = error(shell.run(r"raise ValueError('\udfff')"))
    assert failed and failed["value"] == "\udfff"


def test_output_of_programs_is_decoded_whole(shell: Interpreter) -> None:
    code = (
        "import os, time\nfor byte in 'é€😀'.encode(): os.write(1, bytes([byte])); time.sleep(.06)"
    )
    assert texts(shell.run(code)) == "é€😀"


def test_input_fails_at_once(shell: Interpreter) -> None:
    failed = error(shell.run("input('? ')"))
    assert failed and failed["name"] == "EOFError"


def test_variables_of_the_environment_last_for_the_cell(shell: Interpreter) -> None:
    assert result(shell.run("import os\nos.environ['Q']", Q="q"))["text"] == "q"
    assert result(shell.run("os.environ.get('Q', 'none')"))["text"] == "none"
    assert texts(shell.run("!echo $Q", Q="q")) == "q\n"


def test_a_rehearsal_leaves_no_trace(tmp_path: Path) -> None:
    with interpreter(tmp_path) as fresh:
        fresh.start("seen = 1\n1/0", rehearsal=True)
        fresh.rest([])
        lines = fresh.run(
            "import sys\n'seen' in dir(), len(Out), len(In), hasattr(sys, 'last_value')"
        )
        assert lines[0]["execution_count"] == 1
        assert result(lines)["text"] == "(False, 0, 2, False)"


def test_long_output_comes_in_lines_that_pass_whole(shell: Interpreter) -> None:
    for code in ("print('\\0' * 100_000)", "import os\nos.system('head -c 100000 /dev/zero')"):
        lines = shell.run(code)
        assert texts(lines).rstrip("\n") == "\0" * 100_000
        assert max(len(json.dumps(line)) for line in lines) < WHOLE_BYTES
