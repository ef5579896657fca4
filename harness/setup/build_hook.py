"""Writes into a wheel which commit it was built from, for the records that it will measure."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds harness/built-from.json: `{"commit", "dirty"}`, both null where there is no git."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # a checkout asks git itself
            return
        commit = self._git("rev-parse", "HEAD")
        changes = self._git("status", "--porcelain", "--", ".", ":(exclude,top)results")
        built_from = {"commit": commit, "dirty": None if changes is None else bool(changes)}
        self._directory = tempfile.TemporaryDirectory()
        file = Path(self._directory.name) / "built-from.json"
        file.write_text(json.dumps(built_from) + "\n", encoding="utf-8")
        build_data["force_include"][str(file)] = "harness/built-from.json"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_directory"):
            self._directory.cleanup()

    def _git(self, *arguments: str) -> str | None:
        argv = ["git", "-C", self.root, "-c", f"safe.directory={self.root}", *arguments]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, encoding="utf-8", errors="replace"
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None
