"""The event loop of the cells of a context: their tasks go on between cells, as in Jupyter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.cells import Interpreter, error, interpreter, result, texts
from tests.host.processes import eventually

TICKS = """
import asyncio
async def tick():
    for number in range(3): await asyncio.sleep(0.01)
    return 'ticked'
ticks = asyncio.create_task(tick())
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    with interpreter(tmp_path_factory.mktemp("loop")) as started:
        yield started


@pytest.mark.parametrize("first", ["", "await asyncio.sleep(0)\n"])
def test_a_task_is_awaited_in_a_later_cell(shell: Interpreter, first: str) -> None:
    assert error(shell.run(f"import asyncio\n{first}{TICKS}")) is None
    assert result(shell.run("await ticks"))["text"] == "ticked"


def test_tasks_go_on_while_no_cell_runs(shell: Interpreter) -> None:
    shell.run(f"{TICKS}\nticks.add_done_callback(lambda _: open('/tmp/ticked', 'w').close())")
    # In the sandbox's /tmp. No cell runs until the file is there.
    eventually(Path(f"/proc/{shell.process.pid}/root", "tmp/ticked").exists, 60)
    assert result(shell.run("ticks.result()"))["text"] == "ticked"


def test_a_cell_that_awaits_nothing_holds_up_the_tasks(shell: Interpreter) -> None:
    code = (
        "import asyncio\nran = []\nasync def run(): ran.append(1)\nasyncio.create_task(run())\nran"
    )
    assert result(shell.run(code))["text"] == "[]"
    assert result(shell.run("ran"))["text"] == "[1]"


def test_all_cells_have_the_same_running_loop(shell: Interpreter) -> None:
    shell.run("import asyncio\nloop = asyncio.get_running_loop()")
    shell.run("asyncio.run(asyncio.sleep(0))")
    code = "loop is asyncio.get_running_loop(), loop is asyncio.get_event_loop(), loop.is_running()"
    assert result(shell.run(code))["text"] == "(True, True, True)"
    assert result(shell.run(f"await asyncio.sleep(0)\n{code}"))["text"] == "(True, True, True)"


@pytest.mark.parametrize(
    "code",
    [
        "asyncio.run(asyncio.sleep(0, 'own'))",
        "with asyncio.Runner() as runner: own = runner.run(asyncio.sleep(0, 'own'))\nown",
        "other = asyncio.new_event_loop()\nother.run_until_complete(asyncio.sleep(0, 'own'))",
        "loop = asyncio.get_event_loop()\nloop.run_until_complete(asyncio.sleep(0, 'own'))",
    ],
)
def test_a_cell_that_awaits_nothing_can_run_a_loop_itself(shell: Interpreter, code: str) -> None:
    code = f"import asyncio\n{code}"
    assert result(shell.run(code))["text"] == "own"
    # As in Jupyter, one that awaits cannot: no loop runs inside another.
    failed = error(shell.run(f"await asyncio.sleep(0)\n{code}"))
    assert failed and failed["name"] == "RuntimeError"


@pytest.mark.parametrize(
    "code",
    [
        "async def leave(): raise SystemExit(3)\nleaves = asyncio.create_task(leave())",
        "async def stop(): raise KeyboardInterrupt\nstops = asyncio.create_task(stop())",
        "asyncio.get_running_loop().stop()",
        "asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop);",
        "asyncio.get_running_loop().close()",
        "asyncio.set_event_loop(None)",
    ],
)
def test_what_ends_a_loop_does_not_end_that_of_the_cells(shell: Interpreter, code: str) -> None:
    shell.run("import asyncio\n" + code)
    shell.run(TICKS)
    assert result(shell.run("await ticks"))["text"] == "ticked"


def test_cells_that_wait_in_line_run_in_their_order(shell: Interpreter) -> None:
    long = "x" * 20_000
    shell.write(f"import asyncio\nawait asyncio.sleep(0.01)\nlong = '{long}'")
    for number in range(3):
        shell.write(f"print({number}, len(long))\nawait asyncio.sleep(0)")
    written = []
    for _ in range(4):
        shell.begun()
        written.append(texts(shell.rest([])))
    assert written == ["", *(f"{number} 20000\n" for number in range(3))]


def test_an_idle_interpreter_does_not_wake(shell: Interpreter) -> None:
    shell.run("import asyncio\nwaits = asyncio.create_task(asyncio.Event().wait())")
    directory = Path(f"/proc/{shell.process.pid}")
    eventually(lambda: "poll" in (directory / "wchan").read_text(encoding="utf-8"), 30)

    def switches() -> list[str]:
        lines = (directory / "status").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if "ctxt_switches" in line]

    before = switches()
    with pytest.raises(AssertionError):
        eventually(lambda: switches() != before, 0.5)
