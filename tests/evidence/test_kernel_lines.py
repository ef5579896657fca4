"""The kernel's new lines, of a machine that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.measure.system import System

OLD = "6,100,5000000,-;old\n"
NEW = "4,101,6250000,-;agent[12]: segfault at 0\n SUBSYSTEM=x\n"


def test_only_what_came_since(tmp_path: Path) -> None:
    kmsg = tmp_path / "dev" / "kmsg"
    kmsg.parent.mkdir()
    kmsg.write_text(OLD, encoding="utf-8")
    with System(root=tmp_path).new_kernel_lines() as lines:
        assert lines.read() == []
        with kmsg.open("a", encoding="utf-8") as file:
            file.write(NEW)
        assert lines.read() == ["[    6.250000] agent[12]: segfault at 0"]
        with kmsg.open("a", encoding="utf-8") as file:
            file.write(OLD)
        lines.mark()
        assert lines.read() == []


@dataclass(frozen=True)
class FreeBsd(System):
    """Prints one line more each time."""

    def run(self, argv: Sequence[str]) -> str | None:
        assert argv == ["dmesg"]
        printed = self.root / "printed"
        text = (printed.read_text(encoding="utf-8") if printed.exists() else "") + "a line\n"
        printed.write_text(text, encoding="utf-8")
        lines = text.splitlines()
        return "\n".join(f"{line} {number}" for number, line in enumerate(lines))


def test_where_there_is_only_dmesg(tmp_path: Path) -> None:
    with FreeBsd(platform="freebsd", root=tmp_path).new_kernel_lines() as lines:
        assert lines.read() == ["a line 1"]
