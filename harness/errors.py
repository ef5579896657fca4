"""Everything this harness raises on purpose, and the exit code each ends the program with.

::

    CoppiceError                          70  a defect, when nothing below fits
    ├── UsageError                        64  the command line or an argument is wrong
    ├── Unsupported                       69  this host cannot do it; says what would
    │   ├── MissingTool                   69  a program or library is not installed
    │   └── MissingPrivilege              77  needs root, or a device we may not open
    ├── NotEnoughMemory                   71  an estimate says that the host would not bear it
    ├── DiskFull                          74  no room; nothing half-written is left
    ├── ImageError                        65  a kernel that is none, an image that does not build
    ├── CheckpointError                   65  a checkpoint that must not be restored
    │   ├── CheckpointTruncated
    │   ├── CheckpointCorrupt
    │   └── CheckpointForeign                 made by another VMM, machine type or harness
    ├── PolicyError                       65  a network policy that says nothing a packet could obey
    ├── RecordError                       65  a run record that must not be read or written
    │   └── UnknownSchema                     newer than this harness, or not ours
    ├── SiteError                         65  the site cannot be built; the old one was kept
    ├── HostError                         68  another machine cannot be reached, or was lost
    │   ├── HostKeyChanged                    it shows another key than the one that is known of it
    │   └── HostLost                          the connection ended in the middle of something
    ├── CommandFailed                     70  a program on a host ended badly; says what it said
    └── SandboxError                      76  a sandbox did not do what it was asked
        ├── GuestTimeout                      no answer within the limit
        │   └── GuestStalled                  nor does it do anything
        ├── GuestDied                         the guest or its VMM went away
        ├── WrongAnswer                       it answered, but did not compute the nonce
        ├── GuestRefused                      the agent answered with an error number
        ├── SandboxGone                       what was asked for is of a sandbox that is not there
        └── NameTaken                         something of that name is there, and it is not ours

Exit codes follow sysexits.h where it has a word for the case. A command that a signal has ended
(`Interrupted`, which is no CoppiceError) ends with 128 and the signal's number: 130 after SIGINT,
143 after SIGTERM, 129 after SIGHUP.
"""

from __future__ import annotations

import signal

__all__ = [
    "CheckpointCorrupt",
    "CheckpointError",
    "CheckpointForeign",
    "CheckpointTruncated",
    "CommandFailed",
    "CoppiceError",
    "DiskFull",
    "GuestDied",
    "GuestRefused",
    "GuestStalled",
    "GuestTimeout",
    "HostError",
    "HostKeyChanged",
    "HostLost",
    "ImageError",
    "Interrupted",
    "MissingPrivilege",
    "MissingTool",
    "NameTaken",
    "NotEnoughMemory",
    "PolicyError",
    "RecordError",
    "SandboxError",
    "SandboxGone",
    "SiteError",
    "UnknownSchema",
    "Unsupported",
    "UsageError",
    "WrongAnswer",
]


class CoppiceError(Exception):
    """What happened and why, and in `hint` the command that helps, if one does."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  {self.hint}" if self.hint else message


class Interrupted(KeyboardInterrupt):
    """A signal told a command to end, and it has ended cleanly. `number` is the signal's."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.exit_code = 128 + number

    def __str__(self) -> str:
        number: int = self.args[0]
        return (
            "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        )


class UsageError(CoppiceError):
    exit_code = 64


class Unsupported(CoppiceError):
    exit_code = 69


class MissingTool(Unsupported):
    """A program that a substrate or rig runs is not installed."""


class MissingPrivilege(Unsupported):
    exit_code = 77


class NotEnoughMemory(CoppiceError):
    exit_code = 71


class DiskFull(CoppiceError):
    exit_code = 74


class ImageError(CoppiceError):
    exit_code = 65


class CheckpointError(CoppiceError):
    exit_code = 65


class CheckpointTruncated(CheckpointError):
    pass


class CheckpointCorrupt(CheckpointError):
    pass


class CheckpointForeign(CheckpointError):
    pass


class PolicyError(CoppiceError):
    exit_code = 65


class RecordError(CoppiceError):
    exit_code = 65


class UnknownSchema(RecordError):
    pass


class SiteError(CoppiceError):
    """The site cannot be built from its sources; nothing was replaced."""

    exit_code = 65


class HostError(CoppiceError):
    exit_code = 68


class HostKeyChanged(HostError):
    pass


class HostLost(HostError):
    pass


class CommandFailed(CoppiceError):
    """`code` is what the program ended with, `said` what it wrote on stderr."""

    def __init__(self, message: str, code: int, said: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.said = said


class SandboxError(CoppiceError):
    exit_code = 76


class GuestTimeout(SandboxError):
    pass


class GuestStalled(GuestTimeout):
    pass


class GuestDied(SandboxError):
    pass


class WrongAnswer(SandboxError):
    pass


class GuestRefused(SandboxError):
    """`number` is the guest's errno."""

    def __init__(self, message: str, number: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.number = number


class SandboxGone(SandboxError):
    pass


class NameTaken(SandboxError):
    pass
