"""Every external command is shown as a line that can be pasted, but only on request."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.command_log import line, redacted
from harness.sandbox.protocol import load
from tests.host.processes import ROOT, coppice

ENDED = re.compile(r"# (?:pid (\d+): )?(?:exit|signal) .*?, (\d+\.\d{3}) s: ")
STRANGE = [
    "printf",
    "%s|",
    "plain",
    "two words",
    "it's",
    'a "b"',
    "line\nbreak",
    "tab\t",
    "$HOME \\n",
    "",
]


def python(code: str, log: Path | str, *arguments: str, **more: str) -> str:
    """What a process that logs its commands to a file has written on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", f"from harness import command_log; command_log.start()\n{code}",
         *arguments],
        cwd=ROOT, env={**os.environ, "COPPICE_LOG": str(log), **more}, capture_output=True,
        text=True, check=True, encoding="utf-8",
    )  # fmt: skip
    return done.stderr


def pasted(text: str, cwd: Path) -> str:
    """What a shell prints for one line."""
    return subprocess.run(
        ["bash", "-c", text], capture_output=True, text=True, check=True, cwd=cwd, encoding="utf-8"
    ).stdout


@pytest.mark.parametrize("how", ["subprocess", "sh"])
def test_a_line_can_be_pasted(how: str, tmp_path: Path) -> None:
    log, place = tmp_path / "log", tmp_path / "a place"
    place.mkdir()
    script = 'echo "$PWD $EXTRA"; exec "$@"'
    command = ["sh", "-c", script, "sh", *STRANGE]
    if how == "subprocess":
        code = (
            "import os, subprocess, sys; from pathlib import Path\n"
            f"done = subprocess.run({command!r}, cwd=sys.argv[1], stdout=subprocess.PIPE,"
            " env={**os.environ, 'EXTRA': 'and more'}).stdout\n"
            "Path(sys.argv[2]).write_bytes(done)"
        )
    else:
        code = (
            "import sys; from pathlib import Path; from harness.host.process import run\n"
            f"done = run(*{command!r}, cwd=Path(sys.argv[1]))\n"
            "Path(sys.argv[2]).write_bytes(done)"
        )
    printed = tmp_path / "printed"
    python(code, log, str(place), str(printed))
    begun, ended = log.read_text(encoding="utf-8").splitlines()
    assert ENDED.match(ended) and "exit 0" in ended
    expected = printed.read_text(encoding="utf-8")
    assert str(place) in expected and "line\nbreak" in expected
    assert ("and more" in expected) == (how == "subprocess")
    assert pasted(begun, Path("/")) == expected


def test_how_it_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import contextlib, subprocess\n"
        "subprocess.call(['sh', '-c', 'sleep 0.1; exit 3'])\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "child.kill(); child.wait()\n"
        "with contextlib.suppress(OSError): subprocess.run(['/no/such/program'])\n"
        "from harness.host.process import run\n"
        "with contextlib.suppress(Exception): run('false')\n"
    )
    python(code, log)
    lines = log.read_text(encoding="utf-8").splitlines()
    ends = [one for one in lines if one.startswith("#")]
    assert len(lines) == 8 and len(ends) == 4
    assert "exit 3" in ends[0] and float(ENDED.match(ends[0])[2]) >= 0.1  # type: ignore[index]
    assert "signal 9" in ends[1] and "not started" in ends[2] and "exit 1" in ends[3]
    pid = re.search(r"pid (\d+)", lines[0])
    assert pid and ends[0].startswith(f"# pid {pid[1]}: ")


def test_no_line_is_written_while_a_clock_runs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import subprocess, sys; from pathlib import Path\n"
        "log = Path(sys.argv[1])\n"
        "subprocess.run(['true']); before = log.read_text()\n"
        "command_log.hold()\n"
        "subprocess.run(['echo', 'held']); assert log.read_text() == before\n"
        "command_log.flush(); flushed = log.read_text(); assert 'held' in flushed\n"
        "subprocess.run(['true']); assert log.read_text() == flushed\n"
        "command_log.release(); assert len(log.read_text().splitlines()) == 6\n"
        "subprocess.run(['true']); assert len(log.read_text().splitlines()) == 8\n"
    )
    python(code, log, str(log))


def test_secrets_are_hidden(tmp_path: Path) -> None:
    log, key = tmp_path / "log", "e2b_0123456789abcdef0123456789abcdef01234567"
    code = (
        "import os, subprocess, sys\n"
        "own = {**os.environ, 'E2B_API_KEY': 'hush', 'SSH_PASSWORD': 'hush', 'PLAIN': 'shown'}\n"
        "subprocess.run(['true', sys.argv[1], '-H', 'X-API-KEY: hush', '--token=hush',"
        " 'https://me:hush@host/'], env=own)\n"
    )
    python(code, log, key)
    text = log.read_text(encoding="utf-8")
    assert "hush" not in text and key not in text and "shown" in text
    assert (
        redacted(f"key {key}, Authorization: Bearer abc") == "key (hidden), Authorization: (hidden)"
    )


def test_without_being_asked_nothing_is_replaced() -> None:
    code = (
        "import subprocess\nbefore = subprocess.Popen\n"
        "import harness.cli\nfrom harness import command_log\ncommand_log.start()\n"
        "assert subprocess.Popen is before\n"
    )
    for value in ("", "0"):
        environment = {**os.environ, "COPPICE_LOG": value}
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


def test_the_option_and_the_variable(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log"
    asked, to_file = coppice("-v", "doctor"), coppice("doctor", COPPICE_LOG=str(log))
    assert any(map(ENDED.match, asked.stderr.splitlines())), asked.stderr
    assert any(map(ENDED.match, log.read_text(encoding="utf-8").splitlines()))
    assert not any(map(ENDED.match, to_file.stderr.splitlines()))
    assert asked.returncode == to_file.returncode
    by_variable = python("import subprocess; subprocess.run(['true'])", "1")
    assert ENDED.match(by_variable.splitlines()[1])


@pytest.mark.skipif(
    not all(need.satisfied for need in load("process").requirements()),
    reason="the process substrate cannot run here: coppice doctor",
)
def test_a_rig_shows_its_commands_past_pytests_capture(tmp_path: Path) -> None:
    """And it keeps nothing (harness/rig/evidence.py), as nothing failed."""
    words = ("cold-start", "--substrate", "process", "--tier", "full")
    failures, results = tmp_path / "failures", tmp_path / "results"
    done = coppice("-v", "run", *words, "--results", str(results), COPPICE_FAILURES=str(failures))
    assert done.returncode == 0, done.stdout
    assert "kept" not in done.stdout and not failures.exists()
    agents = [one for one in done.stderr.splitlines() if "/agent  # pid" in one]
    assert len(agents) >= 3, done.stderr
    assert "COPPICE_RUN=" in agents[0]


def test_a_channel_of_ssh_is_shown_as_the_user_would_type_it() -> None:
    from harness.remote.ssh_connection import Address, Connection

    connection = Connection(Address("honor", "root", 2222))
    try:
        shown = line(connection._by_hand("uname -a"))
    finally:
        connection.close()
    assert shown == "ssh ssh://root@honor:2222 'uname -a'"


def test_no_program_is_started_unseen() -> None:
    """What starts programs without subprocess announces it, or is no command of the host's."""
    unseen = {"execv", "execve", "execvp", "execl", "system", "posix_spawn", "posix_spawnp",
              "fork", "forkpty", "spawnv", "spawnl", "popen"}  # fmt: skip
    found = set()
    for path in [*ROOT.glob("harness/**/*.py"), *ROOT.glob("rigs/**/*.py")]:
        if {"guest", "compat"} & set(path.relative_to(ROOT).parts[1:3]) and "gateway" in path.parts:
            continue  # runs in a sandbox, or with an SDK
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import) and any(one.name == "sh" for one in node.names):
                assert "command_log.announced" in text, path
                found.add(path.name)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert not (node.value.id == "os" and node.attr in unseen), f"{path}: {node.attr}"
            if isinstance(node, ast.ImportFrom) and node.module == "subprocess":
                assert all(one.name != "Popen" for one in node.names), f"{path} keeps the original"
    assert found == {"process.py", "leftovers.py"}
