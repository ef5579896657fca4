"""What an honest stand-in runs: processes of this machine, each in its sandbox's own directory."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = ("bash", "sh", "ls", "cat", "echo", "true", "sleep", "python3", "node")
"""Nothing else is run, other than what was uploaded into the same sandbox."""
LIMIT_S = 30.0
CELL = """
import ast, sys
tree = ast.parse(sys.stdin.read())
last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
scope = {}
exec(compile(tree, "cell", "exec"), scope)
if last:
    sys.stderr.write(repr(eval(compile(ast.Expression(last.value), "cell", "eval"), scope)))
"""
"""Runs a cell: its output on stdout, and the value of its last expression on stderr."""


@dataclass(frozen=True)
class Ended:
    stdout: bytes
    stderr: bytes
    code: int


@dataclass
class Machine:
    """Where the processes of a sandbox run."""

    directory: Path
    uploaded: dict[str, Path] = field(default_factory=dict)

    def upload(self, path: str, data: bytes) -> None:
        kept = self.directory / f"upload-{len(self.uploaded)}"
        kept.write_bytes(data)
        kept.chmod(0o755)
        self.uploaded[path] = kept

    async def run(self, argv: Sequence[str], data: bytes = b"") -> Ended:
        """Run a program to its end; code 127 for one that is not permitted."""
        name = Path(argv[0]).name
        program = str(self.uploaded.get(argv[0], argv[0]))
        if argv[0] not in self.uploaded and name not in PROGRAMS:
            return Ended(b"", f"a stand-in does not run {name}\n".encode(), 127)
        try:
            process = await asyncio.create_subprocess_exec(
                program, *map(self._placed, argv[1:]), cwd=self.directory,
                env={"PATH": os.defpath, "HOME": str(self.directory)},
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            return Ended(b"", f"{name}: {error.strerror}\n".encode(), 127)
        try:
            stdout, stderr = await asyncio.wait_for(process.communicate(data), LIMIT_S)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        return Ended(stdout, stderr, process.returncode or 0)

    def _placed(self, argument: str) -> str:
        """An argument, with what was uploaded where it lies here."""
        for path, kept in self.uploaded.items():
            argument = argument.replace(path, str(kept)) if path.startswith("/") else argument
        return argument

    async def run_cell(self, code: str) -> Ended:
        argv = ("python3", "-c", CELL)
        self.uploaded.setdefault(argv[0], Path(sys.executable))
        return await self.run(argv, code.encode())


def envelope(body: Mapping[str, Any], flag: int = 0) -> bytes:
    """A message of a stream of Connect's protocol."""
    data = json.dumps(body).encode()
    return struct.pack(">BI", flag, len(data)) + data


def started_argv(body: bytes) -> Sequence[str]:
    """The program and its arguments that a request to start a process names; ValueError if it is
    not understood."""
    if len(body) < 5:
        raise ValueError("the request holds no message")
    process = json.loads(body[5:])["process"]
    return [process["cmd"], *process.get("args", [])]


async def process_events(ended: Ended, pid: int) -> AsyncIterator[bytes]:
    """The messages about a process that has ended."""
    yield envelope({"event": {"start": {"pid": pid}}})
    for name, data in (("stdout", ended.stdout), ("stderr", ended.stderr)):
        if data:
            yield envelope({"event": {"data": {name: base64.b64encode(data).decode()}}})
    status = f"exit status {ended.code}"
    end = {"exitCode": ended.code, "exited": True, "status": status}
    yield envelope({"event": {"end": end}})
    yield envelope({}, 2)


async def output_without_end(pid: int) -> AsyncIterator[bytes]:
    yield envelope({"event": {"start": {"pid": pid}}})
    line = base64.b64encode(b"more and more\n" * 4096).decode()
    while True:
        yield envelope({"event": {"data": {"stdout": line}}})


async def cell_lines(ended: Ended) -> AsyncIterator[bytes]:
    """The lines of a code interpreter about a cell that has ended."""
    lines: list[dict[str, Any]] = [{"type": "number_of_executions", "execution_count": 1}]
    if ended.stdout:
        lines.append({"type": "stdout", "text": ended.stdout.decode(errors="replace")})
    text = ended.stderr.decode(errors="replace")
    if ended.code:
        name, _, value = text.strip().rpartition("\n")[2].partition(": ")
        lines.append({"type": "error", "name": name, "value": value, "traceback": text})
    elif text:
        lines.append({"type": "result", "text": text, "is_main_result": True})
    for line in [*lines, {"type": "end_of_execution"}]:
        yield json.dumps(line).encode() + b"\n"
