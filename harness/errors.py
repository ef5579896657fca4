"""The errors that the harness raises on purpose, and the exit code of each.

::

    CoppiceError                          70  a defect of the harness: nothing below applies
    ├── UsageError                        64  the command line or an argument is wrong
    ├── Unsupported                       69  this host cannot do it; the hint names what is missing
    │   ├── MissingTool                   69  a program or library is not installed
    │   └── MissingPrivilege              77  needs root, or a device that this user may not open
    ├── NotEnoughMemory                   71  more would exceed the host's memory or addresses
    │   └── LimitTooLow                       more than a limit of descriptors or processes allows
    ├── LimitReached                      71  the system refused a resource, or ended a process
    ├── DiskFull                          74  no space left; no partial file remains
    ├── ImageError                        65  not a kernel, or an image that does not build
    ├── CheckpointError                   65  a checkpoint that cannot be restored safely
    │   ├── CheckpointTruncated
    │   ├── CheckpointCorrupt
    │   └── CheckpointForeign                 made by another VMM, machine type or harness
    ├── PolicyError                       65  invalid network policy
    ├── StateError                        65  a gateway's database is damaged, or of a newer version
    ├── PathError                         73  a directory or file cannot be made or written
    ├── PluginError                       78  a substrate, rig or command of another package fails
    ├── RecordError                       65  invalid run record
    │   └── UnknownSchema                     a newer or unknown record format
    ├── SiteError                         65  the site cannot be built; the old one was kept
    ├── HostError                         68  another machine cannot be reached
    │   ├── HostKeyChanged                    its host key is unknown or has changed
    │   └── HostLost                          the connection was lost
    ├── EndpointFailed                    76  a service under test does not answer as its API says
    │   ├── EndpointUnreachable           68  its name, port, TLS or certificate: no connection
    │   ├── KeyRefused                    77  it does not accept the key
    │   ├── TemplateMissing               65  it has no template of this name
    │   ├── NotOffered                    69  it does not offer an operation
    │   └── Refused                       75  it sheds load, or a quota is full
    ├── CommandFailed                     70  a program failed; carries its exit code and stderr
    └── SandboxError                      76  a request to a sandbox failed
        ├── GuestTimeout                      no answer within the time limit
        │   ├── GuestStalled                  no answer and no activity either
        │   └── Overloaded                    refused at once: the wait would be too long
        ├── GuestDied                         the guest or its VMM has exited
        ├── InterpreterEnded                  a sandbox's code interpreter has exited
        ├── WrongAnswer                       the answer is not the nonce's hash
        ├── GuestRefused                      the agent returned an errno
        │   └── DirectoryRefused              for the directory where a process was to start
        ├── BrokenGuest                       the guest does not keep to the protocol
        │   ├── MalformedAnswer               what it sent cannot be decoded
        │   └── AnswerTooLong                 it sent more than may be kept
        ├── SandboxGone                       the sandbox no longer exists
        └── NameTaken                         the name is used by something else

Exit codes follow sysexits.h where it covers the case. A command ended by a signal (`Interrupted`,
which is not a CoppiceError) exits with 128 plus the signal's number: 130 after SIGINT, 143 after
SIGTERM, 129 after SIGHUP.
"""

from __future__ import annotations

import signal

__all__ = [
    "AnswerTooLong",
    "BrokenGuest",
    "CheckpointCorrupt",
    "CheckpointError",
    "CheckpointForeign",
    "CheckpointTruncated",
    "CommandFailed",
    "CoppiceError",
    "DirectoryRefused",
    "DiskFull",
    "EndpointFailed",
    "EndpointUnreachable",
    "GuestDied",
    "GuestRefused",
    "GuestStalled",
    "GuestTimeout",
    "HostError",
    "HostKeyChanged",
    "HostLost",
    "ImageError",
    "InterpreterEnded",
    "Interrupted",
    "KeyRefused",
    "LimitReached",
    "LimitTooLow",
    "MalformedAnswer",
    "MissingPrivilege",
    "MissingTool",
    "NameTaken",
    "NotEnoughMemory",
    "NotOffered",
    "Overloaded",
    "PathError",
    "PluginError",
    "PolicyError",
    "RecordError",
    "Refused",
    "SandboxError",
    "SandboxGone",
    "SiteError",
    "StateError",
    "TemplateMissing",
    "UnknownSchema",
    "Unsupported",
    "UsageError",
    "WrongAnswer",
]


class CoppiceError(Exception):
    """Base class. The message says what happened and why; `hint` is the command that helps."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  {self.hint}" if self.hint else message


class Interrupted(KeyboardInterrupt):
    """A signal ended a command, which has cleaned up. `number` is the signal."""

    def __init__(self, number: int = signal.SIGINT, message: str | None = None) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        self._message = message

    def __str__(self) -> str:
        number: int = self.args[0]
        if self._message:
            return self._message
        return (
            "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        )


class UsageError(CoppiceError):
    exit_code = 64


class Unsupported(CoppiceError):
    exit_code = 69


class MissingTool(Unsupported):
    """A program that a substrate or rig needs is not installed."""


class MissingPrivilege(Unsupported):
    exit_code = 77


class NotEnoughMemory(CoppiceError):
    exit_code = 71


class LimitTooLow(NotEnoughMemory):
    """More would exceed a limit of descriptors or processes, which no option overrides."""


class LimitReached(CoppiceError):
    """The system refused a resource, or ended a process to get one back."""

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


class StateError(CoppiceError):
    """A gateway's database cannot be used; it was left as it is."""

    exit_code = 65


class PathError(CoppiceError):
    exit_code = 73


class PluginError(CoppiceError):
    exit_code = 78


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


class EndpointFailed(CoppiceError):
    """A service under test failed, or what it answered is not what its API says."""

    exit_code = 76


class EndpointUnreachable(EndpointFailed):
    exit_code = 68


class KeyRefused(EndpointFailed):
    exit_code = 77


class TemplateMissing(EndpointFailed):
    exit_code = 65


class NotOffered(EndpointFailed):
    """The message holds what was answered to the operation."""

    exit_code = 69


class Refused(EndpointFailed):
    """The service sheds load. `retry_after` are the seconds after which it asks to be tried again,
    if it named them."""

    exit_code = 75

    def __init__(
        self, message: str, retry_after: float | None = None, *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class CommandFailed(CoppiceError):
    """`code` is the program's exit code, `error_text` the end of its stderr."""

    def __init__(
        self, message: str, code: int, error_text: str, *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.error_text = error_text


class SandboxError(CoppiceError):
    exit_code = 76


class GuestTimeout(SandboxError):
    pass


class GuestStalled(GuestTimeout):
    pass


class Overloaded(GuestTimeout):
    """A caller is not made to wait longer than is useful; it may try again after this time."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GuestDied(SandboxError):
    pass


class InterpreterEnded(SandboxError):
    pass


class WrongAnswer(SandboxError):
    pass


class GuestRefused(SandboxError):
    """`number` is the guest's errno."""

    def __init__(self, message: str, number: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.number = number


class DirectoryRefused(GuestRefused):
    """The directory where a process was to start is missing, say; the command may well exist."""


class BrokenGuest(SandboxError):
    """The guest does not keep to the protocol: its programs were replaced, or are defective."""


class MalformedAnswer(BrokenGuest):
    pass


class AnswerTooLong(BrokenGuest):
    pass


class SandboxGone(SandboxError):
    pass


class NameTaken(SandboxError):
    pass
