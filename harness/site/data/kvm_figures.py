"""What a record says of its host's KVM, in words and figures for pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from harness.measure.quantity import scale
from harness.measure.record import FUNCTION_ONLY
from harness.site.data.corpus import RecordEntry
from harness.site.data.figures import Link, data

_SECONDS = "_s"
_WORDS = {
    "exit_io_s": "one exit of a guest’s kernel, by port",
    "exit_mmio_s": "one exit of a guest’s kernel, by memory",
    "exit_user_s": "one exit of a guest’s user mode, by port",
    "kernel_mode_slowdown": "a loop in a guest’s kernel mode, in multiples of its time on the host",
    "module": "kernel module",
    FUNCTION_ONLY: "series of guests with kernels of their own prove function alone",
    "nested": "the host is itself a virtual machine",
    "mitigations": "mitigations in the guest’s kernel",
    "clocksource": "the guest’s clock source",
    "vhost": "packets moved by vhost-net, in the host’s kernel",
}
"""Words for the facts that rigs record; another one is named as its record names it."""
_REASON = "reason"
_UNKNOWN = "not measured"


def kvm_facts(entry: RecordEntry, link: Link) -> Iterator[tuple[str, Markup | str]]:
    """Each fact of KVM on a record's machine: its name in words, and its value."""
    found = entry.summary.machine.kvm or {}
    for name, value in found.items():
        if name == _REASON:
            continue
        yield _WORDS.get(name, name), _shown(entry, name, value, link)
    if found.get(_REASON):
        yield "why some are not measured", str(found[_REASON])


def _shown(
    entry: RecordEntry, name: str, value: str | int | float | bool | None, link: Link
) -> Markup | str:
    if value is None:
        return _UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    unit = "s" if name.endswith(_SECONDS) else "1"
    size, word = scale(float(value), unit)
    text = f"{float(value) / size:.3g} {word}".strip()
    if "e" in text:
        text = f"{float(value) / size:.0f} {word}".strip()
    return data(float(value), text, f"{link(entry.page)}#machine", unit)


def newest(entries: Sequence[RecordEntry]) -> RecordEntry | None:
    """The newest record that says something of KVM."""
    return next((one for one in reversed(entries) if one.summary.machine.kvm), None)


def function_only(entries: Sequence[RecordEntry]) -> str:
    """Why no figure of a machine counts; empty where those of some of its records do."""
    reasons = [one.summary.function_only for one in entries]
    return reasons[-1] if reasons and all(reasons) else ""


def partly_function_only(entries: Sequence[RecordEntry]) -> Sequence[RecordEntry]:
    """The records of which only the function counts, where other records' figures count; oldest
    first. Their reasons differ in figures that are measured with each."""
    return [] if function_only(entries) else [one for one in entries if one.summary.function_only]
