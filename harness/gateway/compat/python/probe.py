"""Calls every operation through the E2B SDK that this interpreter has, and checks what comes back.

Run by the rig in an environment of one version of the SDK; only that SDK is imported. Writes one
line of JSON for each operation: {operation, plane, works} with a `message` of the SDK where it does
not, or {operation, plane, absent} where this version of the SDK has no such call.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import time
import traceback
import urllib.request

from e2b_code_interpreter import Sandbox

CONTROL, ENVD, CODE = "control plane", "envd", "code interpreter"
CHECKS = []


class Absent(Exception):
    """This SDK has no such call."""


def check(operation, plane):
    def note(function):
        CHECKS.append((operation, plane, function))
        return function

    return note


def is_in(owner, *names):
    for name in names:
        if hasattr(owner, name):
            return getattr(owner, name)
    raise Absent


def generated(name, *arguments, body=None, **more):
    """Call the SDK's own generated client; its parsed answer and status."""
    for group in ("sandboxes", "snapshots", "templates"):
        try:
            module = importlib.import_module(f"e2b.api.client.api.{group}.{name}")
            break
        except ModuleNotFoundError:
            continue
    else:
        raise Absent
    client_of = importlib.import_module("e2b.api.client.client").AuthenticatedClient
    client = client_of(
        base_url=os.environ["E2B_API_URL"], token=os.environ["E2B_API_KEY"],
        auth_header_name="X-API-KEY", prefix="",
    )  # fmt: skip
    if body is not None:
        models = importlib.import_module("e2b.api.client.models")
        kind, values = body
        if not hasattr(models, kind):
            raise Absent
        more["body"] = getattr(models, kind)(**values)
    answer = module.sync_detailed(*arguments, client=client, **more)
    status = int(answer.status_code)
    if status >= 300:
        raise AssertionError(f"{status}: {answer.content[:300]!r}")
    return answer.parsed, status


def version():
    from importlib.metadata import version as of

    return tuple(int(one) for one in of("e2b").split(".")[:3])


class World:
    """Sandboxes that the checks share."""

    def __init__(self):
        self.one = Sandbox.create(metadata={"probe": "one"}, timeout=600)

    def end(self):
        self.one.kill()


# The control plane.


def create(path, model):
    uses_v2 = version() >= (2, 51, 0)
    if uses_v2 == path.startswith("/v2"):
        made = Sandbox.create(timeout=60, metadata={"made": "by the SDK"}, envs={"A": "b"})
        assert made.get_info().metadata == {"made": "by the SDK"}
        assert made.commands.run("echo $A").stdout == "b\n"
        assert made.kill() is True
        assert made.kill() is False
        return
    values = {"template_id": "base", "timeout": 60}
    name = "post_v2_sandboxes" if path.startswith("/v2") else "post_sandboxes"
    made, status = generated(name, body=(model, values))
    assert status == 201, status
    assert Sandbox.kill(made.sandbox_id)


@check("POST /sandboxes", CONTROL)
def _(world):
    create("/sandboxes", "NewSandbox")


@check("POST /v2/sandboxes", CONTROL)
def _(world):
    create("/v2/sandboxes", "NewSandboxV2")


@check("GET /health", CONTROL)
def _(world):
    with urllib.request.urlopen(os.environ["E2B_API_URL"] + "/health") as answer:
        assert answer.status == 200


@check("GET /sandboxes", CONTROL)
def _(world):
    found, _ = generated("get_sandboxes", metadata="probe=one")
    assert [one.sandbox_id for one in found] == [world.one.sandbox_id], found


@check("GET /v2/sandboxes", CONTROL)
def _(world):
    from e2b import SandboxQuery

    pages = Sandbox.list(query=SandboxQuery(metadata={"probe": "one"}), limit=1)
    found = pages.next_items()
    assert [one.sandbox_id for one in found] == [world.one.sandbox_id], found
    assert not pages.has_next
    second = Sandbox.create(metadata={"probe": "one"}, timeout=60)
    pages = Sandbox.list(query=SandboxQuery(metadata={"probe": "one"}), limit=1)
    ids = [pages.next_items()[0].sandbox_id]
    assert pages.has_next
    ids.append(pages.next_items()[0].sandbox_id)
    second.kill()
    assert set(ids) == {world.one.sandbox_id, second.sandbox_id}, ids


@check("GET /sandboxes/metrics", CONTROL)
def _(world):
    found, _ = generated("get_sandboxes_metrics", sandbox_ids=[world.one.sandbox_id])
    assert found is not None and world.one.sandbox_id in str(found.to_dict()), found


@check("GET /sandboxes/{id}", CONTROL)
def _(world):
    info = world.one.get_info()
    assert info.sandbox_id == world.one.sandbox_id
    assert info.template_id == "code-interpreter-v1" and info.metadata == {"probe": "one"}
    assert info.end_at > info.started_at


@check("DELETE /sandboxes/{id}", CONTROL)
def _(world):
    made = Sandbox.create(timeout=60)
    assert Sandbox.kill(made.sandbox_id) is True
    assert Sandbox.kill(made.sandbox_id) is False
    assert made.is_running() is False


@check("GET /sandboxes/{id}/logs", CONTROL)
def _(world):
    found, _ = generated("get_sandboxes_sandbox_id_logs", world.one.sandbox_id)
    assert any("created" in one.line for one in found.logs), found


@check("GET /v2/sandboxes/{id}/logs", CONTROL)
def _(world):
    found, _ = generated("get_v_2_sandboxes_sandbox_id_logs", world.one.sandbox_id)
    assert any("created" in one.message for one in found.logs), found


@check("GET /sandboxes/{id}/metrics", CONTROL)
def _(world):
    found = is_in(world.one, "get_metrics")()
    assert found and found[-1].mem_total > 0 and found[-1].disk_total > 0, found


@check("POST /sandboxes/{id}/pause", CONTROL)
def _(world):
    made = Sandbox.create(timeout=60)
    is_in(made, "pause", "beta_pause")()
    assert made.get_info().state.value == "paused"
    made.kill()


@check("POST /sandboxes/{id}/resume", CONTROL)
def _(world):
    made = Sandbox.create(timeout=60)
    is_in(made, "pause", "beta_pause")()
    body = ("ResumedSandbox", {"timeout": 60})
    try:
        _, status = generated("post_sandboxes_sandbox_id_resume", made.sandbox_id, body=body)
        assert status == 201
    finally:
        made.kill()


def connect(path):
    made = Sandbox.create(timeout=60)
    made.files.write("kept.txt", "kept")
    is_in(made, "pause", "beta_pause")()
    if (version() >= (2, 51, 0)) == path.startswith("/v2"):
        again = Sandbox.connect(made.sandbox_id, timeout=60)
        assert again.files.read("kept.txt") == "kept"
        Sandbox.connect(made.sandbox_id, timeout=60)
    else:
        name = "post_v_2_sandboxes_sandbox_id_connect"
        model = "ConnectSandboxV2"
        if not path.startswith("/v2"):
            name, model = "post_sandboxes_sandbox_id_connect", "ConnectSandbox"
        body = (model, {"timeout": 60})
        _, status = generated(name, made.sandbox_id, body=body)
        assert status == 201, status
        _, status = generated(name, made.sandbox_id, body=body)
        assert status == 200, status
    assert made.kill()


@check("POST /sandboxes/{id}/connect", CONTROL)
def _(world):
    connect("/sandboxes")


@check("POST /v2/sandboxes/{id}/connect", CONTROL)
def _(world):
    connect("/v2/sandboxes")


@check("POST /sandboxes/{id}/fork", CONTROL)
def _(world):
    world.one.run_code("number = 41")
    forks = is_in(world.one, "fork")(count=2, timeout=60)
    assert len(forks) == 2 and not any(isinstance(one, Exception) for one in forks), forks
    assert [one.run_code("number + 1").text for one in forks] == ["42", "42"]
    assert all(one.kill() for one in forks)


@check("POST /sandboxes/{id}/timeout", CONTROL)
def _(world):
    before = world.one.get_info().end_at
    world.one.set_timeout(1200)
    assert (world.one.get_info().end_at - before).total_seconds() > 300


@check("POST /sandboxes/{id}/refreshes", CONTROL)
def _(world):
    for body in (("SandboxRefreshRequest", {"duration": 60}),
                 ("PostSandboxesSandboxIDRefreshesBody", {"duration": 60})):  # fmt: skip
        try:
            _, status = generated(
                "post_sandboxes_sandbox_id_refreshes", world.one.sandbox_id, body=body
            )
        except Absent:
            continue
        assert status == 204
        return
    raise Absent


@check("PUT /sandboxes/{id}/network", CONTROL)
def _(world):
    if hasattr(world.one, "update_network"):
        world.one.update_network({"deny_out": ["203.0.113.0/24"]})
        return
    body = ("PutSandboxesSandboxIDNetworkBody", {"deny_out": ["203.0.113.0/24"]})
    _, status = generated("put_sandboxes_sandbox_id_network", world.one.sandbox_id, body=body)
    assert status == 204


@check("POST /sandboxes/{id}/snapshots", CONTROL)
def _(world):
    world.one.files.write("in-the-snapshot.txt", "here")
    made = is_in(world.one, "create_snapshot")()
    copy = Sandbox.create(made.snapshot_id, timeout=60)
    assert copy.files.read("in-the-snapshot.txt") == "here"
    assert copy.kill()
    Sandbox.delete_snapshot(made.snapshot_id)


@check("GET /snapshots", CONTROL)
def _(world):
    listed = is_in(Sandbox, "list_snapshots")
    made = world.one.create_snapshot()
    assert made.snapshot_id in [one.snapshot_id for one in listed().next_items()]
    assert Sandbox.delete_snapshot(made.snapshot_id) is True
    assert made.snapshot_id not in [one.snapshot_id for one in listed().next_items()]


# envd.


@check("process: Start", ENVD)
def _(world):
    from e2b import CommandExitException

    done = world.one.commands.run("echo out; echo err >&2; pwd; id -un")
    assert done.stdout == "out\n/home/user\nuser\n" and done.stderr == "err\n", done
    assert world.one.commands.run("id -u", user="root").stdout == "0\n"
    got = []
    world.one.commands.run("echo $X", envs={"X": "y"}, cwd="/tmp", on_stdout=got.append)
    assert got == ["y\n"], got
    try:
        world.one.commands.run("exit 3")
    except CommandExitException as error:
        assert error.exit_code == 3
    else:
        raise AssertionError("exit 3 raised nothing")


@check("process: Start, time limit", ENVD)
def _(world):
    from e2b import TimeoutException

    try:
        world.one.commands.run("sleep 60", timeout=1)
    except TimeoutException:
        return
    raise AssertionError("a command went on beyond its time limit")


@check("process: Connect", ENVD)
def _(world):
    begun = world.one.commands.run("sleep 1; echo later", background=True)
    begun.disconnect()
    assert world.one.commands.connect(begun.pid).wait().stdout == "later\n"


@check("process: List", ENVD)
def _(world):
    begun = world.one.commands.run("sleep 60", background=True)
    assert begun.pid in [one.pid for one in world.one.commands.list()]
    begun.kill()


@check("process: SendInput, CloseStdin", ENVD)
def _(world):
    try:
        begun = world.one.commands.run("cat", background=True, stdin=True)
    except TypeError:
        begun = world.one.commands.run("cat", background=True)
    world.one.commands.send_stdin(begun.pid, "said\n")
    if hasattr(world.one.commands, "close_stdin"):
        world.one.commands.close_stdin(begun.pid)
        assert begun.wait().stdout == "said\n"
    else:
        for out, _, _ in begun:
            assert out == "said\n"
            break
        begun.kill()


@check("process: StreamInput", ENVD)
def _(world):
    stream = is_in(world.one.commands, "stream_input")
    begun = world.one.commands.run("cat", background=True, stdin=True)
    stream(begun.pid, ["one ", "two\n"])
    world.one.commands.close_stdin(begun.pid)
    assert begun.wait().stdout == "one two\n"


@check("process: SendSignal", ENVD)
def _(world):
    begun = world.one.commands.run("sleep 60", background=True)
    assert world.one.commands.kill(begun.pid) is True
    time.sleep(0.5)
    assert world.one.commands.kill(begun.pid) is False


@check("process: Start with a pty, Update", ENVD)
def _(world):
    from e2b.sandbox.commands.command_handle import PtySize

    said = []
    begun = world.one.pty.create(PtySize(rows=24, cols=80))
    world.one.pty.resize(begun.pid, PtySize(rows=30, cols=100))
    world.one.pty.send_stdin(begun.pid, b"stty size; exit 0\n")
    begun.wait(on_pty=said.append)
    assert b"30 100" in b"".join(said), said


@check("filesystem: Stat", ENVD)
def _(world):
    world.one.files.write("stat.txt", "1234")
    assert world.one.files.exists("stat.txt") and not world.one.files.exists("nothing.txt")
    info = world.one.files.get_info("stat.txt")
    assert info.size == 4 and info.owner == "user" and info.path == "/home/user/stat.txt", info


@check("filesystem: ListDir", ENVD)
def _(world):
    world.one.files.write("list/a/b.txt", "")
    found = world.one.files.list("list", depth=2)
    assert [one.path for one in found] == ["/home/user/list/a", "/home/user/list/a/b.txt"], found


@check("filesystem: MakeDir", ENVD)
def _(world):
    assert world.one.files.make_dir("made/deep") is True
    assert world.one.files.make_dir("made/deep") is False


@check("filesystem: Move", ENVD)
def _(world):
    world.one.files.write("before.txt", "moved")
    world.one.files.rename("before.txt", "after.txt")
    assert world.one.files.read("after.txt") == "moved"


@check("filesystem: Remove", ENVD)
def _(world):
    world.one.files.write("folder/file.txt", "")
    world.one.files.remove("folder")
    assert not world.one.files.exists("folder")


@check("filesystem: CreateWatcher, GetWatcherEvents, RemoveWatcher", ENVD)
def _(world):
    world.one.files.make_dir("watched")
    handle = world.one.files.watch_dir("watched", recursive=True)
    world.one.files.write("watched/new.txt", "x")
    seen = []
    for _ in range(50):
        seen += handle.get_new_events()
        if any(one.name == "new.txt" for one in seen):
            break
        time.sleep(0.1)
    handle.stop()
    assert any(one.name == "new.txt" for one in seen), seen


@check("filesystem: WatchDir", ENVD)
def _(world):
    import asyncio

    from e2b_code_interpreter import AsyncSandbox

    async def do():
        box = await AsyncSandbox.connect(world.one.sandbox_id, timeout=600)
        came = asyncio.Event()

        async def hear(event):
            if event.name == "streamed.txt":
                came.set()

        await box.files.make_dir("streamed")
        handle = await box.files.watch_dir("streamed", hear)
        await box.files.write("streamed/streamed.txt", "x")
        await asyncio.wait_for(came.wait(), 10)
        await handle.stop()

    asyncio.run(do())


@check("files: POST, form", ENVD)
def _(world):
    written = world.one.files.write("form.txt", "text")
    assert written.path == "/home/user/form.txt" or written.path == "form.txt", written
    assert world.one.files.read("form.txt") == "text"
    if hasattr(world.one.files, "write_files"):
        many = [{"path": f"many/{n}.txt", "data": str(n)} for n in range(3)]
        world.one.files.write_files(many)
        assert world.one.files.read("many/2.txt") == "2"


@check("files: POST, stream", ENVD)
def _(world):
    data = os.urandom(3 << 20)
    world.one.files.write("stream.bin", io.BytesIO(data))
    assert bytes(world.one.files.read("stream.bin", format="bytes")) == data


@check("files: GET", ENVD)
def _(world):
    try:
        from e2b import FileNotFoundException as missing
    except ImportError:
        from e2b import NotFoundException as missing

    world.one.files.write("read.txt", "text")
    assert world.one.files.read("read.txt") == "text"
    assert b"".join(world.one.files.read("read.txt", format="stream")) == b"text"
    try:
        world.one.files.read("missing.txt")
    except missing:
        return
    raise AssertionError("a missing file was read")


@check("files: signed addresses", ENVD)
def _(world):
    world.one.files.write("signed.txt", "signed")
    address = world.one.download_url("/home/user/signed.txt")
    headers = {"E2b-Sandbox-Id": world.one.sandbox_id, "E2b-Sandbox-Port": "49983"}
    asked = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(asked) as answer:
        assert answer.read() == b"signed"
    broken = urllib.request.Request(address.replace("v1_", "v1_x"), headers=headers)
    try:
        urllib.request.urlopen(broken)
    except urllib.error.HTTPError as error:
        assert error.code == 401
    else:
        raise AssertionError("a wrong signature was taken")


@check("GET /health of envd", ENVD)
def _(world):
    assert world.one.is_running() is True


# The code interpreter.


@check("POST /execute", CODE)
def _(world):
    done = world.one.run_code("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6*7")
    assert done.text == "42" and done.logs.stdout == ["out\n"], done
    assert done.logs.stderr == ["err\n"], done
    rich = "class R:\n def _repr_html_(self): return '<b>r</b>'\n def _repr_png_(self):"
    rich += " return b'P'\nR()"
    shown = world.one.run_code(rich).results[0]
    assert shown.html == "<b>r</b>" and shown.png == "UA==", shown
    failed = world.one.run_code("def f(): return 1/0\nf()")
    assert failed.error.name == "ZeroDivisionError" and "f()" in failed.error.traceback, failed
    assert world.one.run_code("import os; os.environ['Q']", envs={"Q": "q"}).text == "'q'"


@check("POST /contexts", CODE)
def _(world):
    made = world.one.create_code_context(cwd="/tmp")
    world.one.run_code("only_here = 1", context=made)
    assert world.one.run_code("import os; os.getcwd()", context=made).text == "'/tmp'"
    assert world.one.run_code("only_here").error.name == "NameError"
    if hasattr(world.one, "remove_code_context"):
        world.one.remove_code_context(made)


@check("GET /contexts", CODE)
def _(world):
    listed = is_in(world.one, "list_code_contexts")()
    assert any(one.language == "python" for one in listed), listed


@check("DELETE /contexts/{id}", CODE)
def _(world):
    remove = is_in(world.one, "remove_code_context")
    made = world.one.create_code_context()
    remove(made)
    assert made.id not in [one.id for one in world.one.list_code_contexts()]


@check("POST /contexts/{id}/restart", CODE)
def _(world):
    restart = is_in(world.one, "restart_code_context")
    made = world.one.create_code_context()
    world.one.run_code("gone = 1", context=made)
    restart(made)
    assert world.one.run_code("gone", context=made).error.name == "NameError"
    world.one.remove_code_context(made)


def main():
    said = sys.stdout
    sys.stdout = sys.stderr
    world, broken = None, ""
    try:
        world = World()
    except Exception as error:
        broken = f"{type(error).__name__}: {error}"
    for operation, plane, function in CHECKS:
        line = {"operation": operation, "plane": plane}
        try:
            if world is None:
                raise AssertionError(f"no sandbox: {broken}")
            function(world)
            line["works"] = True
        except Absent:
            line["absent"] = True
        except Exception as error:
            line["works"] = False
            text = str(error) or traceback.format_exc().strip().splitlines()[-2].strip()
            line["message"] = f"{type(error).__name__}: {text}"[:600]
        print(json.dumps(line), file=said, flush=True)
    if world:
        world.end()


if __name__ == "__main__":
    main()
