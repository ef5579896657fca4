"""Operations of the service that no method of the SDK uses, through its generated client."""

from __future__ import annotations

import importlib
import os
import urllib.parse
from importlib.metadata import version as version_of

from registry import ODD, ODD_NAME, Absent, expect
from sandboxes import opened

CONTROL = "control plane"
OPERATIONS = []


def operation(name):
    def register(function):
        OPERATIONS.append((name, CONTROL, function))
        return function

    return register


def generated(name, *arguments, body=None, **more):
    """Call the SDK's generated client; its parsed response and the status."""
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
        model, values = body
        if not hasattr(models, model):
            raise Absent
        more["body"] = getattr(models, model)(**values)
    answer = module.sync_detailed(*arguments, client=client, **more)
    status = int(answer.status_code)
    if status >= 300:
        raise AssertionError(f"{status}: {answer.content[:300]!r}")
    return answer.parsed, status


def uses_v2():
    return tuple(int(part) for part in version_of("e2b").split(".")[:3]) >= (2, 51, 0)


async def created(world, name, model):
    values = {"template_id": (await world.do(world.box.get_info())).template_id, "timeout": 60,
              "metadata": world.tag, "env_vars": {"A": ODD}}  # fmt: skip
    made, status = generated(name, body=(model, values))
    expect(status == 201, status)
    expect(world.Sandbox.kill(made.sandbox_id) is True, "not killed")


@operation("POST /sandboxes")
async def _(world):
    if not uses_v2():
        raise Absent  # that is Sandbox.create
    await created(world, "post_sandboxes", "NewSandbox")


@operation("GET /health")
async def _(world):
    answer = opened(os.environ["E2B_API_URL"] + "/health")
    expect(answer[0] == 200, answer)


@operation("GET /sandboxes")
async def _(world):
    quote = urllib.parse.quote  # as the SDK does where it has a call for it
    for value, ids in ((ODD, [world.box.sandbox_id]), (ODD + "x", [])):
        pairs = {"probe": world.name, quote(ODD_NAME): quote(value)}
        found, _ = generated("get_sandboxes", metadata=urllib.parse.urlencode(pairs))
        expect([one.sandbox_id for one in found] == ids, found)


@operation("GET /sandboxes/metrics")
async def _(world):
    found, _ = generated("get_sandboxes_metrics", sandbox_ids=[world.box.sandbox_id])
    expect(found is not None and world.box.sandbox_id in str(found.to_dict()), found)


@operation("GET /sandboxes/{id}/logs")
async def _(world):
    found, _ = generated("get_sandboxes_sandbox_id_logs", world.box.sandbox_id)
    expect(isinstance(found.logs, list) and found.logs, found)


@operation("GET /v2/sandboxes/{id}/logs")
async def _(world):
    found, _ = generated("get_v_2_sandboxes_sandbox_id_logs", world.box.sandbox_id)
    expect(isinstance(found.logs, list) and found.logs, found)


@operation("POST /sandboxes/{id}/resume")
async def _(world):
    made = await world.paused()
    world.taken("paused")
    body = ("ResumedSandbox", {"timeout": 60})
    _, status = generated("post_sandboxes_sandbox_id_resume", made.sandbox_id, body=body)
    expect(status == 201, status)
    expect(made.files.read("kept.txt") == "kept", "other content")
    made.kill()


@operation("POST /sandboxes/{id}/connect")
async def _(world):
    if not uses_v2():
        raise Absent  # that is sandbox.connect
    body = ("ConnectSandbox", {"timeout": 600})
    _, status = generated("post_sandboxes_sandbox_id_connect", world.box.sandbox_id, body=body)
    expect(status == 200, status)  # it runs already


@operation("POST /sandboxes/{id}/refreshes")
async def _(world):
    for model in ("SandboxRefreshRequest", "PostSandboxesSandboxIDRefreshesBody"):
        try:
            _, status = generated(
                "post_sandboxes_sandbox_id_refreshes", world.box.sandbox_id,
                body=(model, {"duration": 60}),
            )  # fmt: skip
        except Absent:
            continue
        expect(status == 204, status)
        return
    raise Absent
