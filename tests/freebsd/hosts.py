"""Hosts for contract tests: one replays a transcript, one records it, one is written from
documentation. Each fails on a command that it does not know.

A transcript is a JSON file in tests/transcripts/: `about`, `host`, `recorded` (true: real commands
with their real output), and `events` in their order. Values that differ from run to run (random
names, sizes of built files) are written as `*`.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import CommandFailed
from harness.guest.agent_client import HELLO_KEYS
from harness.guest.protocol import Decoder, FrameKind, Tag, encode, siphash
from harness.host.protocol import Done, Host, HostProcess

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
AGENT = "/agent"
"""The path of a built agent in transcripts, whatever its real path."""
_DRAWN = (
    (re.compile(r"\.building-[0-9a-f]{8}"), ".building-*"),
    (re.compile(r"coppice-[0-9a-f]{8}-doctor"), "coppice-*-doctor"),
    # Sandboxes of scenes are named by small numbers; the guest of a checkpoint has a random name.
    (re.compile(r"(coppice-[0-9a-f]{8})-(?!000000)[0-9a-f]{12}"), r"\1-*"),
    (re.compile(r"mac=(02:c0:0a:4d):(?!00)[0-9a-f]{2}:[0-9a-f]{2}"), r"mac=\1:*"),
    (re.compile(r"\.half-[0-9a-f-]+"), ".half-*"),
)


def fixed(text: str) -> str:
    """Replace the random parts of a text."""
    for pattern, instead in _DRAWN:
        text = pattern.sub(instead, text)
    return text


class Guest(threading.Thread):
    """A fake agent at the other end of a channel, since its computed answers cannot be replayed.

    It answers nonces with its key, takes an identity, echoes commands, and accepts touch requests.
    While `runs` is cleared it answers nothing, like a stopped guest.
    """

    def __init__(self, line: socket.socket, *, greets: bool) -> None:
        super().__init__(daemon=True)
        self._line = line
        self._greets = greets
        self._key = bytes(16)
        self.runs = threading.Event()
        self.runs.set()
        self.hostname = ""

    def run(self) -> None:
        decoder = Decoder()
        try:
            if self._greets:
                self._line.sendall(encode(FrameKind.HELLO, 0))
            while data := self._line.recv(1 << 16):
                self.runs.wait()
                for frame in decoder.feed(data):
                    for answer in self._answer(FrameKind(frame.kind), frame.id, frame.payload):
                        self._line.sendall(answer)
        except OSError:
            pass  # the harness has closed the channel
        finally:
            self._line.close()

    def _answer(self, kind: FrameKind, id: int, payload: bytes) -> Sequence[bytes]:
        if kind is FrameKind.PING:
            signed = siphash(self._key, payload[8:])
            return [encode(FrameKind.ANSWER, id, signed.to_bytes(8, "little") + bytes(16))]
        if kind is FrameKind.IDENTITY:
            fields = _fields(payload)
            self._key = fields.get(Tag.KEY, [self._key])[0]
            self.hostname = fields.get(Tag.HOSTNAME, [b""])[0].decode() or self.hostname
            return [encode(FrameKind.ANSWER, id)]
        if kind is FrameKind.EXEC:
            words = _fields(payload)[Tag.ARG][1:]
            return [
                encode(FrameKind.STDOUT, id, b" ".join(words) + b"\n"),
                encode(FrameKind.EXIT, id, bytes(8)),
            ]
        if kind is FrameKind.TOUCH:
            mib, first = (
                int.from_bytes(payload[:4], "little"),
                int.from_bytes(payload[4:], "little"),
            )
            total = sum(range(first, first + mib * 256)) % (1 << 64)
            return [encode(FrameKind.ANSWER, id, total.to_bytes(8, "little"))]
        if kind is FrameKind.HELLO:
            report = dict.fromkeys(HELLO_KEYS, "0") | {
                "boot_id": "guest",
                "hostname": self.hostname,
            }
            text = "".join(f"{name}={value}\n" for name, value in report.items())
            return [encode(FrameKind.ANSWER, id, text.encode())]
        return [encode(FrameKind.ANSWER, id)]


def _fields(payload: bytes) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    while payload:
        length = int.from_bytes(payload[1:5], "little")
        found.setdefault(payload[0], []).append(payload[5 : 5 + length])
        payload = payload[5 + length :]
    return found


class ScriptedProcess:
    """Implements `HostProcess`: a guest that answers, or a process that ended with `code`."""

    def __init__(self, pid: int, guest: Callable[[socket.socket], Guest] | None, code: int | None,
                 said: str = "") -> None:  # fmt: skip
        self.pid = pid
        self.code = code
        self._said = said
        self.channel, far = socket.socketpair()
        self.guest = guest(far) if guest and code is None else None
        if self.guest:
            self.guest.start()
        else:
            far.close()

    def poll(self) -> int | None:
        return self.code

    def error_text(self) -> str:
        return self._said

    def end(self) -> None:
        if self.guest:
            self.guest.runs.set()
        self.channel.close()


@dataclass(frozen=True)
class Answer:
    """A program's output and exit code."""

    stdout: str = ""
    code: int = 0
    stderr: str = ""


class Unknown(AssertionError):
    """A command that the script does not know."""


@dataclass
class Documented:
    """Implements `Host`, written from documentation and known facts, NOT recorded.

    `answers` are patterns of whole command lines; the first that matches holds. `files` are
    there to be got. `starts` are patterns of what may be started: a code that it ended with at
    once, or None for a guest that answers.
    """

    answers: Sequence[tuple[str, Answer | Callable[[re.Match[str]], Answer]]]
    files: dict[str, bytes] = field(default_factory=dict)
    starts: Sequence[tuple[str, int | None]] = ()
    name: str = "a documented FreeBSD"
    directory: str = "/var/run/coppice/run"
    clock: str = "none"
    log: list[str] = field(default_factory=list)
    stdins: dict[str, str] = field(default_factory=dict)
    processes: list[ScriptedProcess] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        words = fixed(" ".join(argv))
        self.log.append(words)
        if stdin:
            self.stdins[words] = stdin.decode()
        self._move_files(argv)
        if argv[:2] == ["test", "-e"]:
            return Done(argv, 0 if argv[2] in self.files else 1, b"", b"", 0.0, 0.0)
        for pattern, answer in self.answers:
            if found := re.fullmatch(pattern, words, re.S):
                given = answer if isinstance(answer, Answer) else answer(found)
                if "--suspend=" in words and given.code in (0, 64):
                    self.processes[-1].code = 0  # suspending ends it
                return Done(
                    argv, given.code, given.stdout.encode(), given.stderr.encode(), 0.0, 0.0
                )
        raise Unknown(f"the script does not know: {words}")

    def _move_files(self, argv: Sequence[str]) -> None:
        """Move or remove files with their directory."""
        if argv[0] in ("mv", "rm"):
            for path in [one for one in self.files if one.startswith(f"{argv[2]}/")]:
                content = self.files.pop(path)
                if argv[0] == "mv":
                    self.files[argv[3] + path.removeprefix(argv[2])] = content

    def put(self, content: bytes | Path, path: str, mode: int = 0o644) -> None:
        self.log.append(f"put {fixed(path)}")
        self.files[path] = content.read_bytes() if isinstance(content, Path) else content
        self.stdins[Path(path).name] = self.files[path].decode(errors="replace")

    def get(self, path: str) -> bytes:
        self.log.append(f"get {fixed(path)}")
        if path not in self.files:
            raise CommandFailed(f"cat {path}: No such file or directory", 1, "No such file")
        return self.files[path]

    def start(
        self, argv: Sequence[str], name: str, env: Mapping[str, str] | None = None
    ) -> ScriptedProcess:
        words = " ".join(argv)
        self.log.append(f"start {words}")
        for pattern, code in self.starts:
            if re.fullmatch(pattern, words):
                process = ScriptedProcess(
                    1000 + len(self.processes),
                    functools.partial(Guest, greets=" -r " not in words),
                    code,
                    "vm exit: it was told so" if code is not None else "",
                )
                self.processes.append(process)
                return process
        raise Unknown(f"the script does not know how to start: {words}")

    def signal(self, process: HostProcess, number: int) -> None:
        assert isinstance(process, ScriptedProcess)
        self.log.append(f"signal {signal.Signals(number).name}")
        if process.guest:
            (process.guest.runs.clear if number == signal.SIGSTOP else process.guest.runs.set)()

    def at(self, pattern: str) -> int:
        """The index of the first matching line in the log."""
        for number, line in enumerate(self.log):
            if re.search(pattern, line):
                return number
        raise AssertionError(f"{pattern!r} was never run:\n" + "\n".join(self.log))


class Recording:
    """Implements `Host` by a real one, and records every command and answer."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.name, self.directory, self.clock = host.name, host.directory, host.clock
        self.events: list[dict[str, Any]] = []

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        done = self._host.run(argv, stdin=stdin, timeout_s=timeout_s)
        self.events.append(
            {"run": list(argv), "stdin": _text(stdin), "code": done.code,
             "stdout": _text(done.stdout), "stderr": _text(done.stderr),
             "seconds": round(done.ended - done.started, 3)}
        )  # fmt: skip
        return done

    def put(self, content: bytes | Path, path: str, mode: int = 0o644) -> None:
        self._host.put(content, path, mode)
        self.events.append({"put": path, "mode": mode})

    def get(self, path: str) -> bytes:
        content = self._host.get(path)
        self.events.append({"get": path, "content": _text(content)})
        return content

    def start(
        self, argv: Sequence[str], name: str, env: Mapping[str, str] | None = None
    ) -> HostProcess:
        process = self._host.start(argv, name, env)
        self.events.append({"start": list(argv), "name": name})
        return _Recorded(self, process)

    def signal(self, process: HostProcess, number: int) -> None:
        assert isinstance(process, _Recorded)
        self._host.signal(process.real, number)
        self.events.append({"signal": signal.Signals(number).name})

    def save(self, path: Path, about: str, host: str) -> None:
        whole = {
            "about": about, "host": host, "folder": self.directory, "recorded": True,
            "events": self.events,
        }  # fmt: skip
        text = json.dumps(whole, indent=1) + "\n"
        # The agent's path there is specific to that machine.
        path.write_text(
            text.replace(os.environ.get("COPPICE_GUEST_AGENT", AGENT), AGENT), encoding="utf-8"
        )


class _Recorded:
    """A started process whose output is recorded, but not its channel."""

    def __init__(self, recording: Recording, real: HostProcess) -> None:
        self.real = real
        self.pid, self.channel = real.pid, real.channel
        self._recording = recording

    def poll(self) -> int | None:
        code = self.real.poll()
        self._recording.events.append({"poll": code})
        return code

    def error_text(self) -> str:
        said = self.real.error_text()
        self._recording.events.append({"said": said})
        return said

    def end(self) -> None:
        self.real.end()
        self._recording.events.append({"end": True})


def _text(data: bytes) -> str:
    return data.decode("latin-1")


class Replay:
    """Implements `Host` from a transcript: the same commands in the same order, or it fails."""

    def __init__(self, path: Path) -> None:
        whole = json.loads(path.read_text(encoding="utf-8"))
        assert whole["recorded"] is True, "only recordings are transcripts"
        self.host = whole["host"]
        self.name, self.directory = f"the transcript {path.name}", whole.get("folder", "/tmp/run")
        self.clock = "recorded"
        self._events: list[dict[str, Any]] = whole["events"]
        self._next = 0

    def _take(self, kind: str, asked: str) -> dict[str, Any]:
        if self._next == len(self._events):
            raise Unknown(f"the transcript has ended, and was asked to {kind} {asked}")
        event = self._events[self._next]
        told = event.get(kind)
        if isinstance(told, list):
            told = " ".join(told)
        if kind not in event or fixed(str(told)) != fixed(asked):
            raise Unknown(f"asked to {kind} {asked}; the transcript goes on with {event}")
        self._next += 1
        return event

    @property
    def ended(self) -> bool:
        return self._next == len(self._events)

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        event = self._take("run", " ".join(argv))
        assert fixed(_text(stdin)) == fixed(event["stdin"]), f"{argv} got another stdin"
        out, err = (event[name].encode("latin-1") for name in ("stdout", "stderr"))
        return Done(argv, event["code"], out, err, 0.0, event.get("seconds", 0.0))

    def put(self, content: bytes | Path, path: str, mode: int = 0o644) -> None:
        self._take("put", path)

    def get(self, path: str) -> bytes:
        content: str = self._take("get", path)["content"]
        return content.encode("latin-1")

    def start(
        self, argv: Sequence[str], name: str, env: Mapping[str, str] | None = None
    ) -> HostProcess:
        self._take("start", " ".join(argv))
        return _Replayed(self, functools.partial(Guest, greets="-r" not in argv))

    def signal(self, process: HostProcess, number: int) -> None:
        self._take("signal", signal.Signals(number).name)
        assert isinstance(process, _Replayed)
        if process.guest:
            (process.guest.runs.clear if number == signal.SIGSTOP else process.guest.runs.set)()


class _Replayed(ScriptedProcess):
    def __init__(self, replay: Replay, guest: Callable[[socket.socket], Guest]) -> None:
        super().__init__(4242, guest, None)
        self._replay = replay

    def poll(self) -> int | None:
        code: int | None = self._replay._events[self._replay._next].get("poll")
        self._replay._next += 1
        return code

    def error_text(self) -> str:
        text: str = self._replay._events[self._replay._next]["said"]
        self._replay._next += 1
        return text

    def end(self) -> None:
        super().end()
        self._replay._take("end", "True")
