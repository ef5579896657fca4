"""What a check is, and how the checks reach what only some versions of the SDK have."""

from __future__ import annotations

import importlib
import os

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
