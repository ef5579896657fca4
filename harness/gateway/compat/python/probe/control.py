"""The operations of the control plane."""

from __future__ import annotations

import os
import urllib.parse
import urllib.request

from checks import CONTROL, ODD, ODD_NAME, Absent, attribute, check, generated, version
from e2b_code_interpreter import Sandbox


def create(path, model):
    uses_v2 = version() >= (2, 51, 0)
    metadata = {"made": "by the SDK", ODD_NAME: ODD}
    if uses_v2 == path.startswith("/v2"):
        made = Sandbox.create(timeout=60, metadata=metadata, envs={"A": ODD})
        assert made.get_info().metadata == metadata
        assert made.commands.run('printf %s "$A"').stdout == ODD
        assert not made.get_host(80).endswith((".e2b.app", ".e2b.dev")), made.get_host(80)
        assert made.kill() is True
        assert made.kill() is False
        try:
            Sandbox.create("no such/té mplate%20+")
        except Exception as error:
            assert "not found" in str(error), error
        else:
            raise AssertionError("an unknown template was accepted")
        return
    values = {"template_id": "base", "timeout": 60, "metadata": metadata, "env_vars": {"A": ODD}}
    name = "post_v2_sandboxes" if path.startswith("/v2") else "post_sandboxes"
    made, status = generated(name, body=(model, values))
    assert status == 201, status
    assert Sandbox.connect(made.sandbox_id).get_info().metadata == metadata
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
    quote = urllib.parse.quote  # as the SDK does where it has a call for it
    for value, expected in ((ODD, [world.one.sandbox_id]), (ODD + "x", [])):
        filtered = urllib.parse.urlencode({quote(ODD_NAME): quote(value)})
        found, _ = generated("get_sandboxes", metadata=filtered)
        assert [one.sandbox_id for one in found] == expected, found


@check("GET /v2/sandboxes", CONTROL)
def _(world):
    from e2b import SandboxQuery

    pages = Sandbox.list(query=SandboxQuery(metadata=world.metadata), limit=1)
    found = pages.next_items()
    assert [one.sandbox_id for one in found] == [world.one.sandbox_id], found
    assert not pages.has_next
    for character in ODD:
        wrong = {ODD_NAME: ODD.replace(character, "")}
        assert not Sandbox.list(query=SandboxQuery(metadata=wrong)).next_items(), character
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
    assert info.template_id == "code-interpreter-v1" and info.metadata == world.metadata
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
    found = attribute(world.one, "get_metrics")()
    assert found and found[-1].mem_total > 0 and found[-1].disk_total > 0, found


@check("POST /sandboxes/{id}/pause", CONTROL)
def _(world):
    made = Sandbox.create(timeout=60)
    attribute(made, "pause", "beta_pause")()
    assert made.get_info().state.value == "paused"
    made.kill()


@check("POST /sandboxes/{id}/resume", CONTROL)
def _(world):
    made = Sandbox.create(timeout=60)
    attribute(made, "pause", "beta_pause")()
    body = ("ResumedSandbox", {"timeout": 60})
    try:
        _, status = generated("post_sandboxes_sandbox_id_resume", made.sandbox_id, body=body)
        assert status == 201
    finally:
        made.kill()


def connect(path):
    made = Sandbox.create(timeout=60)
    made.files.write("kept.txt", "kept")
    attribute(made, "pause", "beta_pause")()
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
    fork = attribute(world.one, "fork")
    world.one.run_code("number = 41")
    forks = fork(count=2, timeout=60)
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
    made = attribute(world.one, "create_snapshot")()
    copy = Sandbox.create(made.snapshot_id, timeout=60, metadata={ODD_NAME: ODD})
    assert copy.files.read("in-the-snapshot.txt") == "here"
    assert copy.get_info().metadata == {ODD_NAME: ODD}
    assert copy.kill()
    Sandbox.delete_snapshot(made.snapshot_id)


@check("GET /snapshots", CONTROL)
def _(world):
    listed = attribute(Sandbox, "list_snapshots")
    made = world.one.create_snapshot()
    assert made.snapshot_id in [one.snapshot_id for one in listed().next_items()]
    assert Sandbox.delete_snapshot(made.snapshot_id) is True
    assert made.snapshot_id not in [one.snapshot_id for one in listed().next_items()]
