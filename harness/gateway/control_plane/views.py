"""Sandboxes, snapshots and log lines as the control plane's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import Snapshot
from harness.gateway.timestamps import utc_text

ENVD_VERSION = "0.6.1"
CLIENT = "coppice"


class Views:
    """The JSON of a gateway's sandboxes; `domain` is that of their host names."""

    def __init__(self, sandboxes: Sandboxes, domain: str | None) -> None:
        self._sandboxes = sandboxes
        self._domain = domain

    def access(self, sandbox: Sandbox) -> Mapping[str, Any]:
        """How to reach a sandbox, with its tokens."""
        return {
            "templateID": sandbox.stored.template,
            "sandboxID": sandbox.id,
            "clientID": CLIENT,
            "envdVersion": ENVD_VERSION,
            "domain": self._domain,
            "trafficAccessToken": self._sandboxes.tokens.of(sandbox.id, "traffic"),
            **self.envd_token(sandbox),
        }

    def envd_token(self, sandbox: Sandbox) -> Mapping[str, Any]:
        """The token for envd, if the sandbox requires it."""
        if not sandbox.stored.secure:
            return {}
        return {"envdAccessToken": self._sandboxes.tokens.of(sandbox.id, "envd")}

    def detail(self, sandbox: Sandbox) -> Mapping[str, Any]:
        stored, fleet = sandbox.stored, self._sandboxes.fleet
        on_timeout = "pause" if stored.auto_pause else "kill"
        return {
            "templateID": stored.template,
            "sandboxID": stored.id,
            "clientID": CLIENT,
            "envdVersion": ENVD_VERSION,
            "domain": self._domain,
            "startedAt": utc_text(stored.started),
            "endAt": utc_text(sandbox.end_time),
            "cpuCount": 1,
            "memoryMB": fleet.memory_mib,
            "diskSizeMB": fleet.disk_mib,
            "state": stored.state,
            "metadata": stored.metadata,
            "lifecycle": {"autoResume": stored.auto_resume, "onTimeout": on_timeout},
        }


def snapshot_json(snapshot: Snapshot) -> Mapping[str, Any]:
    return {"snapshotID": snapshot.id, "names": snapshot.names}


def log_line(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A log entry in the API's first form."""
    return {"timestamp": utc_text(entry["at"]), "line": entry["message"]}


def log_entry(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A log entry in the API's second form."""
    fields = {name: str(value) for name, value in entry["fields"].items()}
    return {"timestamp": utc_text(entry["at"]), "message": entry["message"],
            "level": entry["level"], "fields": fields}  # fmt: skip
