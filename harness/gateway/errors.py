"""Errors of the API, in E2B's format, and how the harness's errors map to them."""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping

from harness.errors import (
    AnswerTooLong,
    BrokenGuest,
    CoppiceError,
    DirectoryRefused,
    DiskFull,
    GuestDied,
    GuestRefused,
    GuestTimeout,
    NotEnoughMemory,
    Overloaded,
    PolicyError,
    Unsupported,
)


class ApiError(Exception):
    """An HTTP status and a message. `retry` tells the SDK that a retry may succeed, `retry_after`
    in how many seconds."""

    def __init__(
        self, status: int, message: str, *, retry: bool = False, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry = retry
        self.retry_after = retry_after

    def body(self) -> Mapping[str, object]:
        return {"code": self.status, "message": self.message}

    def headers(self) -> Mapping[str, str]:
        """The response's headers that tell a client whether and when to try again."""
        headers = {"Should-Retry": "true" if self.retry else "false"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return headers


def not_found(id: str) -> ApiError:
    return ApiError(404, f"sandbox {id!r} was not found")


# The codes of Connect, and their HTTP status in unary calls.
CODES = {
    "canceled": 499, "unknown": 500, "invalid_argument": 400, "deadline_exceeded": 504,
    "not_found": 404, "already_exists": 409, "permission_denied": 403, "resource_exhausted": 429,
    "failed_precondition": 400, "aborted": 409, "unimplemented": 501, "internal": 500,
    "unavailable": 503, "unauthenticated": 401, "data_loss": 500,
}  # fmt: skip


class RpcError(Exception):
    """An error of envd's services: a code of Connect and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        return CODES[self.code]

    def body(self) -> Mapping[str, object]:
        return {"code": self.code, "message": self.message}


_CODE_BY_ERRNO = {
    errno.ENOENT: "not_found", errno.ESRCH: "not_found", errno.EBADF: "not_found",
    errno.EEXIST: "already_exists", errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied", errno.ENOSPC: "resource_exhausted",
    errno.EMFILE: "resource_exhausted", errno.EAGAIN: "resource_exhausted",
    errno.ENOMEM: "resource_exhausted", errno.E2BIG: "invalid_argument",
    errno.EPIPE: "failed_precondition", errno.ENOTTY: "failed_precondition",
    errno.ENAMETOOLONG: "invalid_argument", errno.EOVERFLOW: "resource_exhausted",
}  # fmt: skip


def _named(error: GuestRefused) -> str:
    """The message, with the name of the errno."""
    name = errno.errorcode.get(error.number)
    return f"{error} ({name})" if name else str(error)


def as_rpc(error: Exception) -> RpcError:
    """The error that envd's services return for an exception."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, DirectoryRefused):
        return RpcError("invalid_argument", _named(error))
    if isinstance(error, GuestRefused):
        return RpcError(_CODE_BY_ERRNO.get(error.number, "invalid_argument"), _named(error))
    if isinstance(error, GuestDied):
        return RpcError("unavailable", str(error))
    if isinstance(error, BrokenGuest):
        too_long = isinstance(error, AnswerTooLong)
        return RpcError("resource_exhausted" if too_long else "data_loss", str(error))
    if isinstance(error, TimeoutError | GuestTimeout):
        return RpcError("deadline_exceeded", "the sandbox did not answer in time")
    return RpcError("internal", f"{type(error).__name__}: {error}")


def as_http(error: Exception) -> ApiError:
    """The error that the control plane and file transfers return for an exception."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, DirectoryRefused):
        return ApiError(400, _named(error))
    if isinstance(error, GuestRefused):
        statuses = {errno.ENOENT: 404, errno.ENOSPC: 507, errno.EACCES: 403, errno.EPERM: 401}
        return ApiError(statuses.get(error.number, 400), _named(error))
    if isinstance(error, GuestDied):
        return ApiError(502, "sandbox was not found")
    if isinstance(error, BrokenGuest):
        return ApiError(502, str(error))
    if isinstance(error, Overloaded):
        after_s = max(math.ceil(error.retry_after_s), 1)
        return ApiError(429, str(error), retry=True, retry_after=after_s)
    if isinstance(error, NotEnoughMemory | GuestTimeout | TimeoutError):
        return ApiError(503, str(error) or "no sandbox was ready in time")
    if isinstance(error, DiskFull):
        return ApiError(507, str(error))
    if isinstance(error, PolicyError):
        return ApiError(400, str(error))
    if isinstance(error, Unsupported):
        return ApiError(501, str(error))
    if isinstance(error, CoppiceError):
        return ApiError(500, str(error))
    return ApiError(500, f"{type(error).__name__}: {error}")
