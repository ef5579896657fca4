"""What a zygote runs before it is forked, so that its forks find translated code.

TCG translates code when it first runs, which takes ten to fifty times as long as running it. What
the zygote has translated, its forks share. So it runs what callers run: shells, the usual programs,
Python with its usual modules, and a program that was uploaded. What counts is the code that runs
(the kernel, the dynamic loader, libraries, interpreters), not the argument: no caller's command is
among these. A second round translates what only a warm start runs.

A rehearsal leaves no file and no process in the guest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from harness.errors import SandboxError
from harness.gateway.envd.client import Envd
from harness.gateway.envd.interpreter import DEFAULT, CodeCell, contexts, execute
from harness.gateway.envd.wire import RequestKind
from harness.gateway.fleets.templates import HasEnvd, with_envd

ROUNDS = 2
LIMIT_S = 60.0
"""For one program."""
USER = "user"
"""Whom the SDK runs commands as by default; processes of root take another way in the kernel."""
UPLOADED, PROGRAM = "/home/user/.rehearsal", "/bin/true"
ENVIRONMENT: Mapping[str, str] = {"PYTHONDONTWRITEBYTECODE": "1"}
_TEXT = (
    "echo abc def | tr a-z A-Z | sort | uniq | wc -l; "
    "cat /etc/passwd | head -n 3 | tail -n 1 | cut -d: -f1; "
    "env | grep PATH | sed s/PATH/path/; seq 3 | xargs echo; expr 1 + 1; printf '%s\\n' x"
)
_FILES = (
    "d=$(mktemp -d) && cd $d && mkdir -p a/b && echo x > f && cp f g && mv g h && touch i && "
    "chmod 600 i && ln -s f j && find . -name f && stat f > a/s && ls -la && rm i && "
    "cat f h && cd / && rm -r $d"
)
_SYSTEM = (
    "id; whoami; uname -a; date; pwd; hostname; test -d /tmp; dirname /a/b; basename /a/b; df /; "
    "sleep 0; true; for x in 1 2 3; do [ $x = 2 ] && echo $x; done; false || exit 0"
)
_PYTHON = (
    "import base64, collections, csv, dataclasses, datetime, functools, hashlib, io, itertools, "
    "json, logging, math, os, pathlib, random, re, shutil, socket, string, struct, subprocess, "
    "sys, tempfile, threading, time, typing\n"
    "class Item:\n"
    "    def double(self, count): return [n * 2 for n in range(count) if n % 2]\n"
    "table = {str(n): n for n in range(300)}\n"
    "print(sorted(table)[:3], Item().double(9), f'{3.14159:.2f}', sum(table.values()))\n"
    "print(json.dumps(json.loads('{\"a\": [1, 2.5, null]}')), re.sub('a+', 'b', 'aaab'))\n"
    "try: 1 / 0\n"
    "except ZeroDivisionError as error: print(error)\n"
    "print(subprocess.run(['/bin/echo', 'x'], capture_output=True).stdout)\n"
    "with tempfile.TemporaryFile('w+') as file: file.write('x'); file.seek(0); file.read()\n"
)
COMMANDS: Sequence[tuple[Sequence[str], str]] = (
    (("/bin/bash", "-l", "-c", "echo ready | cat; x=$((1 + 2)); [[ $x = 3 ]]"), USER),
    (("/bin/sh", "-c", "x=1; [ -n \"$x\" ] && echo $x"), USER),
    (("/bin/sh", "-c", _TEXT), USER),
    (("/bin/sh", "-c", _FILES), USER),
    (("/bin/sh", "-c", _SYSTEM), ""),
    (("/bin/ls", "/"), ""),
    (("/usr/bin/python3", "-c", "print(1 + 1)"), USER),
    (("/usr/bin/python3", "-c", _PYTHON), USER),
)  # fmt: skip
CELLS = (
    "1/0",
    "1+1",
    "import json, math, os, random, re\nprint(json.dumps([n ** 2 for n in range(5)]))",
    "def half(n):\n    return n / 2\nhalf(5)",
)
"""In an interpreter. A first error takes long, since IPython imports what it needs for it."""


def rehearse_widely(guest: HasEnvd) -> None:
    """Run all that once more than ROUNDS needs to be translated. Raises SandboxError for a command
    that fails."""

    async def rehearse(envd: Envd) -> None:
        await envd.sync()
        for _ in range(ROUNDS):
            for argv, user in COMMANDS:
                await _run(envd, argv, user)
            await _upload_and_run(envd)
            if any(context.id == DEFAULT for context in contexts(envd)):
                for code in CELLS:
                    await _run_cell(envd, code)

    with_envd(guest, rehearse)


async def _run(envd: Envd, argv: Sequence[str], user: str) -> None:
    output = b""
    async with asyncio.timeout(LIMIT_S):
        _, listener = await envd.start(argv, environment=ENVIRONMENT, user=user)
        while (event := await listener.get()).kind != "exit":
            output += event.data
    if event.code != 0:
        raise SandboxError(f"{argv} exited with {event.code} in {envd.name}: {output!r}")


async def _upload_and_run(envd: Envd) -> None:
    """A program that no sandbox has: its pages are new, unlike the code of the loader."""
    source = await envd.open(PROGRAM, "")
    data = b""
    while len(data) < source.size:
        data += await envd.read(source.handle, len(data))
    await envd.close_handle(source.handle)
    target = await envd.open(UPLOADED, USER, write=True)
    await envd.write(target.handle, data, len(data))
    await envd.close_handle(target.handle)
    try:
        await _run(envd, ("/bin/sh", "-c", f"chmod +x {UPLOADED} && {UPLOADED}"), USER)
    finally:
        await envd.path_request(RequestKind.REMOVE, UPLOADED, USER)


async def _run_cell(envd: Envd, code: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        async for _line in execute(envd, DEFAULT, CodeCell(code, {}, rehearsal=True)):
            pass
