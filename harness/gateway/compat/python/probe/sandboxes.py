"""Sandboxes: their life, what is known of them, their addresses."""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
import uuid

from e2b import SandboxQuery
from registry import ALL_BYTES, ODD, ODD_NAME, ODD_PATH, expect, probe

SERVER = """
import socket
listener = socket.create_server(("127.0.0.1", 8000))
while True:
    connection, _ = listener.accept()
    if connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nserved")
    connection.close()
"""
"""A server that starts quickly where Python is slow."""


@probe("Sandbox.create", "Sandbox.beta_create")
async def _(world, name):
    Sandbox, metadata = world.Sandbox, {"made": "by the SDK", ODD_NAME: ODD}
    if name == "beta_create":
        made = await world.do(Sandbox.beta_create(timeout=60, metadata=world.tag))
        expect(await world.do(made.kill()) is True, made)
        return
    made = await world.create(timeout=60, metadata=metadata, envs={"A": ODD})
    found = (await world.do(made.get_info())).metadata
    expect({**found, **metadata} == found, found)
    printed = (await world.do(made.commands.run('printf %s "$A"'))).stdout
    expect(printed == ODD, printed)
    expect(await world.do(made.kill()) is True, "kill")
    try:
        await world.create("no such/té mplate%20+", timeout=60)
    except Exception as error:
        expect("not found" in str(error), error)
    else:
        raise AssertionError("an unknown template was accepted")


@probe("sandbox.get_info")
async def _(world):
    info = await world.do(world.box.get_info())
    expect(info.sandbox_id == world.box.sandbox_id and info.template_id, info)
    expect(info.metadata == world.metadata and info.end_at > info.started_at, info)
    again = await world.do(world.Sandbox.get_info(world.box.sandbox_id))
    expect(again.started_at == info.started_at, again)


@probe("sandbox.is_running")
async def _(world):
    expect(await world.do(world.box.is_running()) is True, False)
    made = await world.create(timeout=60)
    await world.do(made.kill())
    expect(await world.do(made.is_running()) is False, "a sandbox runs after it was killed")


@probe("sandbox.kill")
async def _(world):
    made = await world.create(timeout=60)
    expect(await world.do(world.Sandbox.kill(made.sandbox_id)) is True, "not killed")
    expect(await world.do(made.kill()) is False, "killed twice")


@probe("Sandbox.list")
async def _(world):
    pages = world.Sandbox.list(query=SandboxQuery(metadata=world.metadata), limit=10)
    found = await world.do(pages.next_items())
    expect([one.sandbox_id for one in found] == [world.box.sandbox_id], found)
    expect(not pages.has_next, "another page")
    for character in ODD:
        wrong = {**world.metadata, ODD_NAME: ODD.replace(character, "")}
        pages = world.Sandbox.list(query=SandboxQuery(metadata=wrong))
        expect(not await world.do(pages.next_items()), character)


@probe("sandbox_paginator.next_items")
async def _(world):
    mark = {"page": world.name}
    made = {(await world.create(timeout=60, metadata=mark)).sandbox_id for _ in range(2)}
    pages = world.Sandbox.list(query=SandboxQuery(metadata=mark), limit=1)
    first = await world.do(pages.next_items())
    expect(len(first) == 1 and pages.has_next, first)
    second = await world.do(pages.next_items())
    expect({one.sandbox_id for one in first + second} == made and not pages.has_next, second)
    for id in made:
        await world.do(world.Sandbox.kill(id))


@probe("sandbox.get_metrics")
async def _(world):
    found = await world.do(world.box.get_metrics())
    expect(found and found[-1].mem_total > 0 and found[-1].disk_total > 0, found)


@probe("sandbox.set_timeout")
async def _(world):
    before = (await world.do(world.box.get_info())).end_at
    await world.do(world.box.set_timeout(1200))
    later = (await world.do(world.box.get_info())).end_at
    expect((later - before).total_seconds() > 300, (before, later))


@probe("sandbox.update_network")
async def _(world):
    denied = "203.0.113.0/24"
    await world.do(world.box.update_network({"deny_out": [denied]}))
    info = await world.do(world.box.get_info())
    if getattr(info, "network", None) is not None:
        expect(denied in str(info.network), info.network)


@probe("sandbox.get_host")
async def _(world):
    """Opened as by a browser: a plain GET of the address, with the scheme of the API's."""
    await world.do(world.box.files.write("serve.py", SERVER))
    begun = await world.do(world.box.commands.run("python3 -S serve.py", background=True))
    try:
        listens = "until (: < /dev/tcp/127.0.0.1/8000) 2> /dev/null; do sleep 0.05; done"
        await world.do(world.box.commands.run(listens, timeout=30))
        scheme = urllib.parse.urlsplit(os.environ["E2B_API_URL"]).scheme
        address = f"{scheme}://{world.box.get_host(8000)}/"
        status, content = opened(address)
        expect((status, content) == (200, b"served"), (address, status, content[:200]))
    finally:
        await world.do(begun.kill())


def opened(address, data=None, kind=None):
    """The status and content of an address, as a browser opens it: with no header of the API."""
    request = urllib.request.Request(address, data, {"Content-Type": kind} if kind else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@probe("sandbox.download_url")
async def _(world):
    await world.do(world.box.files.write(ODD_PATH, "signed"))
    for more in ({}, {"user": "root"}, {"use_signature_expiration": 600}):
        address = world.box.download_url(f"/home/user/{ODD_PATH}", **more)
        expect(opened(address) == (200, b"signed"), (more, opened(address)))
    status, content = opened(address.replace("v1_", "v1_x"))
    expect(status in (401, 403, 404) and content != b"signed", (status, content))


@probe("sandbox.upload_url")
async def _(world):
    """A form with a file, which E2B documents for this address."""
    boundary = uuid.uuid4().hex
    part = 'Content-Disposition: form-data; name="file"; filename="a.bin"'
    form = f"--{boundary}\r\n{part}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
    form += ALL_BYTES + f"\r\n--{boundary}--\r\n".encode()
    path = f"/home/user/{ODD_PATH}.new"
    for more in ({}, {"user": "root"}, {"use_signature_expiration": 600}):
        address = world.box.upload_url(path, **more)
        answer = opened(address, form, f"multipart/form-data; boundary={boundary}")
        expect(answer[0] == 200, answer)
        content = await world.do(world.box.files.read(path, format="bytes"))
        expect(bytes(content) == ALL_BYTES, content[:80])
        await world.do(world.box.files.remove(path))
    answer = opened(address.replace("v1_", "v1_x"), form,
                    f"multipart/form-data; boundary={boundary}")  # fmt: skip
    expect(answer[0] in (401, 403, 404), answer)


@probe("sandbox.pause")
async def _(world):
    await world.paused()


@probe("sandbox.beta_pause")
async def _(world):
    made = await world.create()
    await world.do(made.beta_pause())
    expect((await world.do(made.get_info())).state.value == "paused", "a running sandbox")
    await world.do(made.kill())


@probe("sandbox.connect")
async def _(world):
    made = await world.paused()
    world.taken("paused")
    again = await world.do(world.Sandbox.connect(made.sandbox_id, timeout=60))
    content = await world.do(again.files.read("kept.txt"))
    expect(content == "kept", content)
    await world.do(again.connect(timeout=120))  # it runs already
    expect((await world.do(again.get_info())).state.value == "running", "no running sandbox")
    await world.do(again.kill())


@probe("sandbox.fork")
async def _(world):
    await world.do(world.box.files.write("before.txt", "before"))
    world.wait(2)
    forks = await world.do(world.box.fork(count=2, timeout=60))
    expect(len(forks) == 2 and not any(isinstance(one, Exception) for one in forks), forks)
    for number, fork in enumerate(forks):
        content = await world.do(fork.files.read("before.txt"))
        expect(content == "before", content)
        await world.do(fork.files.write("own.txt", str(number)))
    own = [await world.do(fork.files.read("own.txt")) for fork in forks]
    expect(own == ["0", "1"], own)
    for fork in forks:
        expect(await world.do(fork.kill()) is True, fork)


@probe("sandbox.create_snapshot")
async def _(world):
    made = await world.snapshot()
    copy = await world.create(made.snapshot_id, timeout=60, metadata={ODD_NAME: ODD})
    content = await world.do(copy.files.read("in-the-snapshot.txt"))
    expect(content == "here", content)
    found = (await world.do(copy.get_info())).metadata
    expect(found.get(ODD_NAME) == ODD, found)
    await world.do(copy.kill())


@probe("sandbox.list_snapshots")
async def _(world):
    made = await world.snapshot()
    for pages in (world.Sandbox.list_snapshots(), world.box.list_snapshots()):
        found = []
        while pages.has_next:
            found += await world.do(pages.next_items())
        expect(made.snapshot_id in [one.snapshot_id for one in found], found)


@probe("snapshot_paginator.next_items")
async def _(world):
    made = await world.snapshot()
    pages = world.box.list_snapshots(limit=1)
    first = await world.do(pages.next_items())
    expect([one.snapshot_id for one in first] == [made.snapshot_id], first)


@probe("Sandbox.delete_snapshot")
async def _(world):
    made = await world.snapshot()
    world.taken("snapshot")
    expect(await world.do(world.Sandbox.delete_snapshot(made.snapshot_id)) is True, "no deletion")
    expect(await world.do(world.Sandbox.delete_snapshot(made.snapshot_id)) is False, "two")
    found = await world.do(world.box.list_snapshots().next_items())
    expect(made.snapshot_id not in [one.snapshot_id for one in found], found)


@probe("sandbox.get_mcp_url", "sandbox.get_mcp_token")
async def _(world, name):
    """A sandbox with MCP's gateway, which the SDK starts in it."""
    server = {"time": {}}

    async def make():
        return await world.create(mcp=server)

    made = await world.kept("mcp", "Sandbox.create(mcp=...)", make)
    if name == "get_mcp_token":
        expect(await world.do(made.get_mcp_token()), "no token")
        return
    status, _ = opened(made.get_mcp_url())
    expect(status not in (404, 502), status)
