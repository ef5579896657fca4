"""Registration of checks, and access to calls that only some versions of the SDK have."""

from __future__ import annotations

import importlib
import os

CONTROL, ENVD, CODE = "control plane", "envd", "code interpreter"
CHECKS = []
ODD = "a b@c:d+e%f%20=g&hé#?;,'\"\\$~ü\n"
"""A value that survives only where it is quoted exactly as often as it is unquoted."""
ODD_NAME = "x y@z:+%25=&é"
ODD_PATH = "odd/a b@c:d+e%f%20=g&hé#?;,'~ü.txt"
ALL_BYTES = bytes(range(256))


class Absent(Exception):
    """This SDK has no such call."""


def check(operation, plane):
    def register(function):
        CHECKS.append((operation, plane, function))
        return function

    return register


def attribute(owner, *names):
    """The first of these attributes that exists; Absent if none does."""
    for name in names:
        if hasattr(owner, name):
            return getattr(owner, name)
    raise Absent


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


def version():
    from importlib.metadata import version as of

    return tuple(int(part) for part in of("e2b").split(".")[:3])
