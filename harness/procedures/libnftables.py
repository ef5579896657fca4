"""libnftables, the library behind the `nft` program, by ctypes: commands as text.

Cubenet does not use it; the rig that measures updates compares with it.
"""

from __future__ import annotations

import ctypes

from harness.errors import CoppiceError, MissingTool
from harness.host import package_names
from harness.host.process import install_packages

_NAME = "libnftables.so.1"


class Libnftables:
    """A libnftables context in the network namespace that the calling thread is in."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_NAME)
        except OSError as error:
            raise MissingTool(
                f"{_NAME} is not installed", hint=install_packages(package_names.LIBNFTABLES)
            ) from error
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        self._library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: bytes) -> None:
        """Run commands in one transaction. Raises CoppiceError with the library's message."""
        if self._library.nft_run_cmd_from_buffer(self._context, commands):
            message = self._library.nft_ctx_get_error_buffer(self._context).decode().strip()
            raise CoppiceError(f"nftables refused a command: {message[:300]}")

    def close(self) -> None:
        self._library.nft_ctx_free(self._context)
